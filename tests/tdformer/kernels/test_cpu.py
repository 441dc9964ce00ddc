"""The CPU kernels and packing against plain PyTorch, over every kind of neuron."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tdformer.kernels import Drive, Means, Norm, cpu, reference
from tdformer.norm import BatchNorm
from tdformer.options import NeuronOptions

NEURONS = [
    NeuronOptions(),
    NeuronOptions(v_reset=None, surrogate="arctan", detach_reset=False),
    NeuronOptions(v_reset=None, threshold=0.7),
    NeuronOptions(v_reset=-0.2, surrogate="rectangular", alpha=1.0, detach_reset=False),
]


def norm_of(y: Tensor, scale: Tensor) -> Norm:
    mean, var = reference.statistics(y.flatten(0, 1))
    invstd = (var + 1e-5).rsqrt()
    return Norm(mean, invstd, scale * invstd, 0.7 - mean * scale * invstd)


@pytest.mark.parametrize("o", NEURONS)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("steps", [(3, 3), (1, 3)])
def test_cpu_is_the_reference(o: NeuronOptions, pool: bool, normed: bool, carried: bool, steps: tuple) -> None:
    given, total = steps
    for batch, *size in ((2, 7, 6), (25, 6, 7), (7, 27, 26)):  # the last two are not a whole number of blocks
        y = (torch.randn(given, batch, 5, *size) * 2).round(decimals=1)  # equal neighbours: the first one wins a window
        scale = torch.tensor([1.5, -1.0, 0.0, 0.3, 2.0])
        norm = norm_of(y, scale) if normed else None
        out = [(n + 1) // 2 for n in size] if pool else size
        membrane = torch.randn(batch, 5, *out) if carried else None
        decay = (torch.rand(5) * 0.5 + 0.3).requires_grad_()
        drive = Drive(y, norm, membrane, decay, o, pool)
        (spikes, v, _), (expected, expected_v, _) = cpu.fire(drive, total), reference.fire(drive, total)
        torch.testing.assert_close(v, expected_v, rtol=1e-5, atol=1e-5)
        assert torch.equal(spikes, expected) and 0.02 < spikes.mean() < 0.99
        grads = torch.randn_like(spikes), torch.randn_like(v) if carried else None
        got, want = cpu.fire_backward(drive, *grads), reference.fire_backward(drive, *grads)
        for name, a, b in zip(got._fields, got, want, strict=True):
            if name.startswith("total") and norm is None:
                continue
            assert (a is None) == (b is None), name
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
        if norm is not None:
            means = Means(*torch.randn(2, 5))
            before = y.clone()
            again = cpu.norm_backward(drive, *grads, got, means, False)
            assert torch.equal(y, before)
            torch.testing.assert_close(again, reference.norm_backward(drive, *grads, got, means, False))
            over = cpu.norm_backward(drive._replace(y=before), *grads, got, means, True)
            assert over.data_ptr() == before.data_ptr() and torch.equal(over, again)


@pytest.mark.parametrize("size", [(7, 6), (16, 16), (1, 1)])
@pytest.mark.parametrize("batch", [1, 9])
def test_the_affine_part_is_rounded_once_as_in_batch_norm(size: tuple[int, int], batch: int) -> None:
    """With decay 1 and a threshold that nothing reaches, the potential after one step is the current."""
    y, layer = torch.randn(1, batch, 33, *size) * 3, BatchNorm(33).eval()
    with torch.no_grad():
        for value in (layer.weight, layer.bias, layer.running_mean):
            value.normal_()
        layer.running_var.uniform_(0.5, 2.0)
        wanted = F.batch_norm(y[0], layer.running_mean[0], layer.running_var[0], layer.weight, layer.bias)
    norm, _ = layer.measure(y[0], 0)
    for pool in (False, True):
        drive = Drive(y, norm, None, torch.ones(33), NeuronOptions(v_reset=None, threshold=1e30), pool)
        (_, once, _), (_, plain, _) = cpu.fire(drive, 1), reference.fire(drive, 1)
        exact = (y[0].double() * norm.scale.double().view(-1, 1, 1) + norm.shift.double().view(-1, 1, 1)).float()
        exact, theirs = (F.max_pool2d(x, 3, 2, 1) if pool else x for x in (exact, wanted))
        assert torch.equal(once, exact) and torch.equal(plain, theirs)


def test_threads_do_not_change_a_bit() -> None:
    y, o, decay = torch.randn(4, 3, 8, 40, 40), NeuronOptions(), torch.full((8,), 0.5)
    norm, grad = norm_of(y, torch.ones(8)), torch.randn(4, 3, 8, 40, 40)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            drive = Drive(y, norm, None, decay, o)
            found = cpu.fire_backward(drive, grad, None)
            results.append((*cpu.statistics(y.flatten(0, 1)), *cpu.fire(drive, 4)[:2], *found))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True) if a is not None)


@pytest.mark.parametrize("backend", [cpu, reference])
@pytest.mark.parametrize(("bits", "size"), list(itertools.product((1, 2, 4, 8), ((3, 5), (8, 8), (1, 1)))))
def test_packing_is_exact(backend, bits: int, size: tuple[int, int]) -> None:
    x = torch.randint(0, 1 << bits, (4, 3, *size)).float()
    data = backend.pack(x, bits)
    assert data.dtype == torch.uint8 and data.shape == (4, -(-x[0].numel() * bits // 8))
    assert torch.equal(data, reference.pack(x, bits))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        again = backend.unpack(data, bits, x[0].numel(), dtype)
        assert again.dtype == dtype and torch.equal(again.view_as(x).float(), x)
