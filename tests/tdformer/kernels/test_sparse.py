"""The event-driven convolution against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tdformer import kernels
from tdformer.kernels import sparse


def sparse_input(shape: tuple[int, ...], density: float) -> Tensor:
    return ((torch.rand(shape) < density) * torch.randint(1, 4, shape)).float()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("shape", [(3, 16, 24, 27, 26), (1, 40, 7, 30, 30), (2, 300, 96, 9, 8)])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3])
def test_it_is_the_convolution(kernel: int, shape: tuple, density: float) -> None:
    images, channels, out, *size = shape
    x = sparse_input((images, channels, *size), density)
    weight, bias = torch.randn(out, channels, kernel, kernel), torch.randn(out)
    expected = F.conv2d(x, weight, bias, 1, kernel // 2)
    found = sparse.Events(x, kernel, kernel // 2).convolve(weight, bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_is_taken_where_the_input_is_sparse_and_gives_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = sparse.Events.convolve
    monkeypatch.setattr(sparse.Events, "convolve", lambda self, *a: (taken.append(1), real(self, *a))[1])
    for density, kernel, stride, by_events in ((0.05, 1, 1, 1), (0.05, 3, 1, 1), (0.05, 1, 2, 1), (0.5, 1, 1, 0)):
        x = sparse_input((4, 64, 48, 48), density).requires_grad_()
        weight, bias = torch.randn(64, 64, kernel, kernel, requires_grad=True), torch.randn(64, requires_grad=True)
        expected = F.conv2d(x, weight, bias, stride, kernel // 2)
        taken.clear()
        plain = (x.detach(), weight.detach(), bias.detach(), stride, kernel // 2)
        torch.testing.assert_close(kernels.convolve(*plain), expected, rtol=1e-4, atol=1e-4)
        assert len(taken) == by_events
        grad = torch.randn_like(expected)
        wanted = torch.autograd.grad(expected, (x, weight, bias), grad)
        got = kernels.convolve_backward(grad, plain[0], plain[1], stride, kernel // 2, [True] * 3)
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_threads_do_not_change_a_bit() -> None:
    x, weight, before = sparse_input((3, 64, 30, 30), 0.05), torch.randn(64, 64, 3, 3), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(kernels.convolve(x, weight, None, 1, 1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
