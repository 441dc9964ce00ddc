"""The fused neuron in plain PyTorch: what the other kernels are held to, and the path where none of them fits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..options import NeuronOptions
from ..precision import typed
from ..surrogate import SURROGATES
from .layout import laid
from .protocol import Drive, Fired, Gradients, Means, Norm


def real(y: Tensor) -> torch.dtype:
    """The type of membranes, gradients of currents and sums."""
    return torch.float64 if y.dtype == torch.float64 else torch.float32


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """See `protocol.Backend`."""
    var, mean = torch.var_mean(y.flatten(0, -4).to(real(y)), [0, 2, 3], correction=0)
    return mean, var


def affine(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Norm:
    """See `protocol.Backend`."""
    invstd = (var + eps).rsqrt()
    if weight is None or bias is None:
        return Norm(mean, invstd, invstd, -mean * invstd)
    scale = weight * invstd
    return Norm(mean, invstd, scale, torch.addcmul(bias, mean, scale, value=-1))


def fire(drive: Drive, steps: int, bits: bool = False, last: bool = False) -> Fired:
    """See `protocol.Backend`; it makes the last potential in any case, and no bits."""
    y, norm, membrane, decay, o, pool = drive
    if o is None or decay is None:
        return Fired(_current(y, norm, pool)[0].to(y.dtype), None)
    x = _winners(y, norm)[0] if pool else _affine(y, norm)
    spikes = []
    for _, fired, v in _walk(x, membrane, decay, o, steps):
        spikes.append(fired)
        after = v
    return Fired(laid(torch.stack(spikes).to(y.dtype)), after)


def fire_backward(drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
    """See `protocol.Backend`."""
    y, norm, membrane, decay, o, pool = drive
    x, normal = _current(y, norm, pool)
    if o is None or decay is None:
        assert normal is not None
        g = grad_spikes.to(normal.dtype).contiguous()
        total = g.sum((0, 1, 3, 4))
        return Gradients(g, None, None, total, total, (g * normal).sum((0, 1, 3, 4)))
    steps, same = len(grad_spikes), len(x) == 1
    h = x.new_empty(steps, *x.shape[1:])
    spikes = torch.empty_like(h, dtype=torch.bool)
    for t, (potential, fired, _) in enumerate(_walk(x, membrane, decay, o, steps)):
        h[t], spikes[t] = potential, fired
    slope = SURROGATES[o.surrogate](h - o.threshold, o.alpha)
    rest, rate = o.v_reset or 0.0, decay.view(-1, 1, 1)
    grad_x, grad_decay, grad_v = torch.zeros_like(x), torch.zeros_like(decay), grad_membrane
    for t in reversed(range(steps)):
        grad_h = grad_spikes[t].to(h.dtype) * slope[t]
        if grad_v is not None:
            grad_h = grad_h + grad_v * _reset_slope(h[t], slope[t], o)
        if t:
            before = _reset(h[t - 1], spikes[t - 1], o)
        else:
            before = torch.full_like(x[0], rest) if membrane is None else membrane
        step = x[0 if same else t] - (before - rest)  # dH / d decay
        grad_decay += (grad_h * step).sum((0, 2, 3))
        grad_v = grad_h * (1 - rate)
        grad_x[0 if same else t] += grad_h * rate
    return Gradients(
        grad_x,
        None,
        None if membrane is None else grad_v,
        grad_decay,
        grad_x.sum((0, 1, 3, 4)),
        torch.zeros_like(decay) if normal is None else (grad_x * normal).sum((0, 1, 3, 4)),
    )


def norm_backward(
    drive: Drive,
    grad_spikes: Tensor,
    grad_membrane: Tensor | None,
    found: Gradients,
    means: Means,
    spare: bool,
) -> Tensor:
    """See `protocol.Backend`."""
    y, norm, grad, pool = drive.y, drive.norm, found.current, drive.pool
    assert norm is not None and grad is not None
    per_channel = (1, 1, -1, 1, 1)
    if pool:
        spread = torch.zeros(y.shape, dtype=grad.dtype, device=y.device)
        spread.flatten(3).scatter_add_(3, _winners(y, norm)[1].flatten(3), grad.flatten(3))
        grad = spread
    normal = (y.to(grad.dtype) - norm.mean.view(per_channel)) * norm.invstd.view(per_channel)
    centred = grad - means.grad.view(per_channel) - normal * means.grad_normal.view(per_channel)
    return (centred * norm.scale.view(per_channel)).to(y.dtype)


def _affine(y: Tensor, norm: Norm | None) -> Tensor:
    x = typed(y, real(y))
    if norm is None:
        return x
    return torch.addcmul(norm.shift.view(-1, 1, 1), x, norm.scale.view(-1, 1, 1))  # on CPU in one rounding


def _winners(y: Tensor, norm: Norm | None) -> tuple[Tensor, Tensor]:
    """Each window's largest current `[S, B, C, h, w]`, and where in its plane it was, counted in H W."""
    x, index = F.max_pool2d(_affine(y, norm).flatten(0, 1), 3, 2, 1, return_indices=True)
    return x.unflatten(0, y.shape[:2]), index.unflatten(0, y.shape[:2])


def _current(y: Tensor, norm: Norm | None, pool: bool) -> tuple[Tensor, Tensor | None]:
    """The neuron's input and BatchNorm's normalised value behind it, both `[S, B, C, h, w]`."""
    x, winner = _affine(y, norm), y
    if pool:
        x, index = _winners(y, norm)
        winner = y.flatten(3).gather(3, index.flatten(3)).view(x.shape)
    if norm is None:
        return x, None
    return x, (winner.to(x.dtype) - norm.mean.view(-1, 1, 1)) * norm.invstd.view(-1, 1, 1)


def _walk(
    x: Tensor, membrane: Tensor | None, decay: Tensor, o: NeuronOptions, steps: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each step H before the spike, the spikes (bool), and V after it (Eqs 1-3), all `[B, C, h, w]`. No step is
    written into a tensor of all: each write is two operators of an exported program."""
    rest, rate = o.v_reset or 0.0, decay.view(-1, 1, 1)
    v = torch.full_like(x[0], rest) if membrane is None else membrane
    for t in range(steps):
        h = v + (x[t if len(x) > 1 else 0] - (v - rest)) * rate
        fired = h >= o.threshold
        v = _reset(h, fired, o)
        yield h, fired, v


def _reset(h: Tensor, fired: Tensor, o: NeuronOptions) -> Tensor:
    """Eq 3: V after the spike, from H before it."""
    if o.v_reset is None:
        return h - fired.to(h.dtype) * o.threshold
    return h.masked_fill(fired, o.v_reset)


def _reset_slope(h: Tensor, slope: Tensor, o: NeuronOptions) -> Tensor:
    """dV / dH of Eq 3, with or without the path through the spike."""
    if o.v_reset is None:
        return torch.ones_like(h) if o.detach_reset else 1 - o.threshold * slope
    kept = (h < o.threshold).to(h.dtype)
    return kept if o.detach_reset else kept + (o.v_reset - h) * slope


def largest_integer(x: Tensor) -> int | None:
    """The largest value of x where all are integers from 0 to 255, else None. On a GPU this waits for it."""
    if not x.numel():
        return 0
    low, high = x.detach().aminmax()
    if not (low >= 0 and high <= 255):  # also where one is NaN
        return None
    return int(high) if not x.is_floating_point() or bool((x == x.to(torch.uint8)).all()) else None


def pack(x: Tensor, bits: int) -> Tensor:
    """See `protocol.Packer`."""
    each = 8 // bits
    values = F.pad(x.flatten(1).to(torch.uint8), (0, -x[0].numel() % each)).unflatten(1, (-1, each))
    data: Tensor = values[..., 0].clone()
    for i in range(1, each):
        data |= values[..., i] << (bits * i)
    return data


def unpack(data: Tensor, bits: int, count: int, dtype: torch.dtype) -> Tensor:
    """See `protocol.Packer`."""
    each = 8 // bits
    values = torch.empty(*data.shape, each, dtype=dtype, device=data.device)
    for i in range(each):
        values[..., i] = (data >> (bits * i)) & ((1 << bits) - 1)
    return values.flatten(1)[:, :count]
