"""Convolutions where channels lie last against PyTorch's and autograd, with a GPU's layout on CPU."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tdformer import kernels
from tdformer.kernels import nhwc


@pytest.fixture(autouse=True)
def last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TDFORMER_KERNELS", "gpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def lies_last(x: Tensor) -> bool:
    return x.permute(0, 2, 3, 1).is_contiguous()


CASES = list(product((1, 3), (1, 2), (3, 1), ((5, 4), (1, 1))))
"""Kernel, stride, channels and grid: one channel and one pixel lie last and first at once."""


@pytest.mark.parametrize(("kernel", "stride", "channels", "grid"), CASES)
def test_convolutions(kernel: int, stride: int, channels: int, grid: tuple[int, int]) -> None:
    padding = kernel // 2
    x = kernels.laid(torch.randn(2, channels, *grid, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(6, channels, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    wanted = F.conv2d(x, weight, bias, stride, padding)
    made = nhwc.convolve(x.detach(), weight.detach(), bias.detach(), stride, padding)
    torch.testing.assert_close(made, wanted)
    assert lies_last(made)
    torch.testing.assert_close(
        nhwc.convolve(x.detach(), weight.detach(), None, stride, padding), F.conv2d(x, weight, None, stride, padding)
    )
    grad = kernels.laid(torch.randn_like(wanted))
    expected = torch.autograd.grad(wanted, (x, weight, bias), grad)
    for needs in ((True, True, True), (True, False, False), (False, True, False), (False, False, True)):
        got = nhwc.convolve_backward(grad, x.detach(), weight.detach(), stride, padding, needs, torch.float64)
        for needed, one, other in zip(needs, got, expected, strict=True):
            assert needed == (one is not None)
            if one is not None:
                torch.testing.assert_close(one, other)
        assert got[0] is None or lies_last(got[0])
        assert got[1] is None or got[1].is_contiguous()


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_weights_gradient_has_the_type_that_is_asked_for(kernel: int) -> None:
    x, weight = kernels.laid(torch.ones(1, 2, 3, 3, dtype=torch.bfloat16)), torch.ones(4, 2, kernel, kernel)
    made = nhwc.convolve(x, weight, None, 1, kernel // 2)
    assert made.dtype == torch.bfloat16  # the weight is taken in x's type
    got = nhwc.convolve_backward(made, x, weight, 1, kernel // 2, (True, True, False), torch.float32)
    assert got[0] is not None and got[1] is not None and (got[0].dtype, got[1].dtype) == (x.dtype, torch.float32)
