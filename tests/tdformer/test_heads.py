"""Heads: views, sums and products are those of plain tensors `[T, B, heads, C / heads, tokens]`, wherever channels
lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tdformer import heads, kernels

HEADS, SHAPE = 3, (2, 2, 6, 3, 4)
LAST = [False, True]


@pytest.fixture
def x(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Activations, channels first or last."""
    if request.param:
        monkeypatch.setenv("TDFORMER_KERNELS", "gpu")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    made = kernels.laid(torch.randn(SHAPE, dtype=torch.float64))
    assert kernels.channels_last(made) == request.param == made.movedim(2, 4).is_contiguous()
    return made


def plain(x: Tensor) -> Tensor:
    """`[T, B, C, H, W]` -> `[T, B, heads, C / heads, H W]`, a copy."""
    return x.clone(memory_format=torch.contiguous_format).view(2, 2, HEADS, 2, 12)


def like(x: Tensor) -> Tensor:
    """Other numbers that lie as x does."""
    return torch.randn_like(x)


@pytest.mark.parametrize("x", LAST, indirect=True)
def test_views_and_sums(x: Tensor) -> None:
    assert torch.equal(heads.heads_of(x, HEADS), plain(x))
    assert heads.heads_of(x, HEADS).data_ptr() == x.data_ptr()  # a view
    assert torch.equal(heads.tokens_of(x, HEADS), plain(x).transpose(3, 4))
    torch.testing.assert_close(heads.sums_of_heads(x, HEADS), plain(x).sum(3, keepdim=True))
    torch.testing.assert_close(heads.sums_of_tokens(x, HEADS), plain(x).sum(4, keepdim=True))


@pytest.mark.parametrize("x", LAST, indirect=True)
def test_tokens_come_together_again_as_they_lay(x: Tensor) -> None:
    again = heads.joined(heads.tokens_of(x, HEADS), x.shape)
    assert torch.equal(again, x) and again.stride() == x.stride()


@pytest.mark.parametrize("x", LAST, indirect=True)
@pytest.mark.parametrize("of", [(1, 12), (2, 1)], ids=["of tokens", "of channels"])
def test_a_mask_lets_through(x: Tensor, of: tuple[int, int]) -> None:
    mask = (torch.rand(2, 2, HEADS, *of) < 0.5).double()
    chosen = heads.let_through(mask, x, HEADS)
    assert torch.equal(chosen, (plain(x) * mask).view(x.shape)) and 0 < (chosen == 0).sum() < chosen.numel()
    assert chosen.stride() == x.stride()


@pytest.mark.parametrize("x", LAST, indirect=True)
def test_where_keys_and_values_meet(x: Tensor) -> None:
    k, v = x.requires_grad_(), like(x).requires_grad_()
    both, grad = heads.met(k, v), torch.randn(2, 2, 6, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(both, (k * v).sum((3, 4), keepdim=True))
    for got, want in zip(torch.autograd.grad(both, (k, v), grad), (grad * v, grad * k), strict=True):
        torch.testing.assert_close(got, want)
        assert got.stride() == x.stride()


@pytest.mark.parametrize("x", [True], indirect=True)
def test_products_are_q_k_v(x: Tensor) -> None:
    q, k, v = x.requires_grad_(), like(x).requires_grad_(), like(x).requires_grad_()
    made, grad = heads.product(q, k, v, HEADS, 0.125), like(x)
    wanted = torch.einsum("tbhcn,tbhcm,tbhdm->tbhdn", plain(q), plain(k), plain(v)).reshape(x.shape) * 0.125
    torch.testing.assert_close(made, wanted)
    both = (torch.autograd.grad(y, (q, k, v), grad) for y in (made, wanted))
    for got, want in zip(*both, strict=True):
        torch.testing.assert_close(got, want)


def test_a_mask_has_the_type_of_what_it_selects_where_channels_lie_last(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, spikes = torch.ones(1, 1, 2, 1, 1), torch.ones(1, 1, 2, 3, 3, dtype=torch.bfloat16)
    assert heads.as_mask(mask, spikes) is mask
    monkeypatch.setenv("TDFORMER_KERNELS", "gpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert heads.as_mask(mask, spikes).dtype == torch.bfloat16
