"""The kernels on the meta device: what they would allocate, and nothing else. Memory is planned with them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..options import NeuronOptions
from .reference import Gradients, Norm


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape[1], dtype=torch.float32), y.new_empty(y.shape[1], dtype=torch.float32)


def fire(
    y: Tensor, norm: Norm | None, membrane: Tensor | None, decay: Tensor, o: NeuronOptions, pool: bool, steps: int
) -> tuple[Tensor, Tensor]:
    spikes = y.new_empty(steps, *_image(y, pool))
    return spikes, spikes.new_empty(spikes.shape[1:], dtype=torch.float32)


def fire_backward(
    y: Tensor,
    norm: Norm | None,
    membrane: Tensor | None,
    decay: Tensor,
    o: NeuronOptions,
    pool: bool,
    grad_spikes: Tensor,
    grad_membrane: Tensor | None,
) -> Gradients:
    grad = y.new_empty(len(y), *_image(y, pool), dtype=torch.float32)
    before = None if membrane is None else torch.empty_like(membrane)
    return Gradients(grad, before, *grad.new_empty(3, y.shape[2]))


def norm_backward(
    y: Tensor, norm: Norm, grad: Tensor, mean_grad: Tensor, mean_grad_normal: Tensor, pool: bool
) -> Tensor:
    return y


def _image(y: Tensor, pool: bool) -> list[int]:
    *front, height, width = y.shape[1:]
    return [*front, (height + 1) // 2, (width + 1) // 2] if pool else [*front, height, width]
