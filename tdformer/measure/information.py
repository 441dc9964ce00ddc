"""Mutual information between the spikes of two time steps, in bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ModelError

FOLDS = 20
"""Parts of the images, of which the jackknife leaves out one at a time."""
AT_ONCE = 2**24
"""Numbers, about, that are held at once."""


@dataclass(frozen=True)
class Information:
    """Between T time steps, in bits a feature, the mean over features.

    bits: `[T, T]`, estimates, symmetric; on the diagonal the entropy of a feature. plain: before correction. error: the
    standard error of bits, over images. null: `[R, T, T]`, as bits, of R shuffles of the images.
    """

    bits: Tensor
    plain: Tensor
    error: Tensor
    null: Tensor


def mutual_information(
    spikes: Tensor, rng: np.random.Generator | None = None, shuffles: int = 40, group: int = 1
) -> Information:
    """Mutual information I(X_s; X_t) of a feature at time steps s and t.

    spikes: whether a neuron fired, `[T, B, C, ...]` bool; all dimensions behind C are positions. A feature X is one
    channel; with `group` g, g channels side by side, which is a variable of 2^g values (C mod g channels are left out).

    What is estimated: draw an image (of those that B are a sample of) and one of its positions, each with the same
    probability; X_s and X_t are what the feature is there at the two steps. So it is of one joint distribution for each
    feature, over images and positions together, and the result is the mean over features. What a position alone tells,
    such as that a border never fires, is a part of it. A channel says nothing of what others tell: of all neurons
    together the information is larger, and no sample of this size tells how large.

    The estimate: plug-in, of the table of B x positions counts, less its bias by the jackknife over 20 parts of the
    images, each left out once. That takes away what falls as 1/B, however much the positions of an image depend on each
    other; Miller and Madow's correction and that of Panzeri and Treves count them as independent and leave most of it
    (benchmarks/results/information.md). What is left falls as 1/B^2. An estimate can be below 0.

    The null: images of step s are permuted, whole, so that image and step have no part in what X_s and X_t share. What
    is left in it is what positions tell. rng: for the permutations; the same draws give the same bits. None: no null.

    Raises ModelError where the images are too few for a correction: less than 2, or than (2^g - 1)^2, the degrees of
    freedom of a table.
    """
    least = max(2, (2**group - 1) ** 2)
    if group < 1 or spikes.shape[1] < least or spikes.shape[2] < group:
        raise ModelError(
            f"{spikes.shape[1]} images and {spikes.shape[2]} channels are too few for groups of {group}; "
            f"give at least {least} images and {group} channels, or smaller groups"
        )
    values, states = _values(spikes, group), 2**group
    plain, bits, error = _corrected(values, values, states)
    null = bits.new_empty(0 if rng is None else shuffles, *bits.shape)
    for own in null:
        assert rng is not None
        own.copy_(_corrected(_permuted(values, rng), values, states)[1])
    # Of s and t there is one estimate in bits, so one is taken here of the two: their mean would spread less.
    return Information(bits, plain, error, null.triu() + null.triu(1).mT)


def off_diagonal(matrix: Tensor) -> Tensor:
    """`[..., T, T]` -> `[...]`: the mean over all pairs of two different time steps; NaN for T = 1."""
    t = matrix.shape[-1]
    return (matrix.sum((-2, -1)) - matrix.diagonal(dim1=-2, dim2=-1).sum(-1)) / (t * t - t if t > 1 else float("nan"))


def _values(spikes: Tensor, group: int) -> Tensor:
    """`[T, B, C, ...]` bool -> `[F, T, B, P]`: the value of each feature, from 0 to 2^group - 1."""
    t, b, c = spikes.shape[:3]
    bits = spikes.reshape(t, b, c, -1)[:, :, : c // group * group].unflatten(2, (-1, group)).permute(3, 2, 0, 1, 4)
    value = torch.zeros_like(bits[0], dtype=torch.uint8)
    for bit in bits:
        value = 2 * value + bit
    return value.contiguous()


def _permuted(values: Tensor, rng: np.random.Generator) -> Tensor:
    """The images of each step in an order of its own."""
    orders = np.argsort(rng.random((values.shape[1], values.shape[2])), 1, kind="stable")
    order = torch.from_numpy(orders).to(values.device)
    return torch.stack([step.index_select(1, own) for step, own in zip(values.unbind(1), order, strict=True)], 1)


def _corrected(one: Tensor, other: Tensor, states: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values `[F, T, B, P]` each -> the plug-in estimate, the jackknife's and its standard error, `[T, T]` each: means
    over features. The parts have the same number of images but for the last (Busing et al. 1999 on unequal ones)."""
    features, steps, images, positions = one.shape
    each = -(-images // FOLDS)
    parts = -(-images // each)
    size = steps * images * positions * states + parts * (steps * states) ** 2
    plain, without = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for a, b in zip(one.split(max(1, AT_ONCE // size)), other.split(max(1, AT_ONCE // size)), strict=True):
        tables = _counts(a, b, each, states)
        whole = tables.sum(0)
        plain = plain + plug_in(whole).sum(0) / features
        without = without + plug_in(whole - tables).sum(1) / features
    share = torch.full((parts, 1, 1), each / images, dtype=torch.float64, device=one.device)
    share[-1] = (images - (parts - 1) * each) / images
    bits = parts * plain - ((1 - share) * without).sum(0)
    pseudo = plain / share - (1 / share - 1) * without
    error = ((pseudo - bits).square() / (1 / share - 1)).mean(0).sqrt()
    return plain, bits, error


def _counts(one: Tensor, other: Tensor, each: int, states: int) -> Tensor:
    """Values `[F, T, B, P]` each -> the joint counts `[J, F, T, K, T, K]` of parts of `each` images. Exact below 2^24
    samples. Counted are values above 0; what is left of the samples has 0."""
    steps, (images, positions) = one.shape[1], one.shape[2:]
    parts = -(-images // each)
    a, b = (
        torch.stack([_in_parts(values == k, each) for k in range(1, states)], 3).flatten(2, 3).float()
        for values in (one, other)
    )  # [J, F, T (K - 1), each P]
    both = (a @ b.mT).double().unflatten(3, (steps, -1)).unflatten(2, (steps, -1))
    first, second = (x.sum(-1).double().unflatten(2, (steps, -1)) for x in (a, b))
    samples = torch.full((parts, 1, 1, 1), each * positions, dtype=torch.float64, device=one.device)
    samples[-1] = (images - (parts - 1) * each) * positions
    table: Tensor = both.new_zeros(*both.shape[:2], steps, states, steps, states)
    table[:, :, :, 1:, :, 1:] = both
    table[:, :, :, 1:, :, 0] = first[..., None] - both.sum(-1)
    table[:, :, :, 0, :, 1:] = second[:, :, None] - both.sum(3)
    table[:, :, :, 0, :, 0] = samples - table.sum((3, 5))
    return table


def _in_parts(hits: Tensor, each: int) -> Tensor:
    """`[F, T, B, P]` -> `[J, F, T, each P]`; images that the last part lacks are False."""
    short = -hits.shape[2] % each
    padded: Tensor = F.pad(hits, (0, 0, 0, short)).unflatten(2, (-1, each))
    return padded.permute(2, 0, 1, 3, 4).flatten(3)


def plug_in(tables: Tensor) -> Tensor:
    """Mutual information of counts `[..., T, K, T, K]`, in bits, `[..., T, T]`: of the shares as they were counted."""
    shares = tables / tables.sum((-3, -1), keepdim=True)
    entropy = -torch.special.xlogy(shares, shares).sum((-3, -1))
    first, second = shares.sum(-1), shares.sum(-3)  # [..., T, K, T] and [..., T, T, K]
    one = -torch.special.xlogy(first, first).sum(-2)
    other = -torch.special.xlogy(second, second).sum(-1)
    bits: Tensor = (one + other - entropy) / math.log(2)
    return bits
