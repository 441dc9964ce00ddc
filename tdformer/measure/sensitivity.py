"""How far potentials depend on earlier ones: Definition 4.2 and Theorem 4.3, measured in a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..model import TDFormer
from .potentials import Potentials, potentials


class Sensitivity(NamedTuple):
    """Of the neurons of one unit at step `source` to step `target`, from 1. values `[B, ...]`: of each neuron i
    |sum_j v_j dH_j[target] / dH_i[source]|, j over the same unit, v a probe of random signs."""

    unit: str
    source: int
    target: int
    values: Tensor


def signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random -1 and 1."""
    drawn = torch.randint(2, like.shape, generator=generator, device=generator.device)
    return (2 * drawn - 1).to(like)


def sensitivities(found: Potentials, units: Sequence[str], probe: Callable[[Tensor], Tensor]) -> list[Sensitivity]:
    """Of potentials that are nodes of a graph, for each of these units, in every pair of steps."""
    rows = []
    for unit in units:
        steps = found[unit]
        for target in list(steps)[1:]:
            before = [source for source in steps if source < target]
            nodes = [steps[source] for source in before]
            total = (steps[target] * probe(steps[target])).sum()
            slopes = torch.autograd.grad(total, nodes, retain_graph=True, allow_unused=True)
            for source, node, found_slope in zip(before, nodes, slopes, strict=True):
                value = torch.zeros_like(node) if found_slope is None else found_slope.abs()
                rows.append(Sensitivity(unit, source, target, value))
    return rows


def sensitivity(model: TDFormer, images: Tensor, seed: int = 0) -> list[Sensitivity]:
    """Of all units of a model in evaluation mode, run once with images `[B, C, H, W]` or frames.

    Without feedback a neuron reaches only itself later, and a value is |dH_i[target] / dH_i[source]|, whatever the
    signs. With feedback it also reaches its neighbours: then the mean of the squares, over probes or over neurons, is
    that of the squared norms of dH[target] / dH_i[source]. Gradients that the model had stay. Raises ModelError as
    `potentials`.
    """
    generator = torch.Generator().manual_seed(seed)
    before = model.recompute, model.keep.borders
    model.set_recompute("none")
    try:
        with torch.enable_grad(), potentials(model) as found:
            model(images)
        return sensitivities(found, [*found], lambda h: signs(h, generator))
    finally:
        model.set_recompute(*before)
