"""The attention forms against their equations, written as sums over heads, channels and tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdformer import ModelError
from tdformer.attention import QKAttention, SelfAttention, SpikeDrivenAttention, spread
from tdformer.neuron import lif
from tdformer.state import State, name_units
from tdformer.unit import UnitOptions

OPTIONS = UnitOptions()


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape) < 0.4).double()


def after_product(current: Tensor) -> Tensor:
    """SN: a neuron of half the threshold."""
    return lif(current, None, replace(OPTIONS.neuron, threshold=0.5))[0]


def seen(attention: nn.Module) -> dict[str, Tensor]:
    """What an attention's q, k, v put out and what its proj is given, once it ran; its units fire."""
    name_units(attention)
    found: dict[str, Tensor] = {}
    for name in "qkv":
        unit = getattr(attention, name, None)
        if unit is not None:
            nn.init.ones_(unit.current.norm.bias)
            unit.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
    attention.get_submodule("proj").register_forward_pre_hook(lambda _, given: found.update(proj=given[0]))
    return found


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (5, 3)], ids=["a token", "as many as channels", "more"])
def test_self_attention_is_eqs_4_and_5(grid: tuple[int, int]) -> None:
    attention = SelfAttention(OPTIONS, 8, 2, scale=0.5).double()
    found, x = seen(attention), spikes(4, 2, 8, *grid)
    attention(x, State())
    q, k, v = (found[name].reshape(4, 2, 2, 4, -1) for name in "qkv")
    scores = torch.einsum("tbhcn,tbhcm->tbhnm", q, k)
    current = torch.einsum("tbhnm,tbhdm->tbhdn", scores, v).reshape(x.shape) * 0.5
    torch.testing.assert_close(attention.current(found["q"], found["k"], found["v"]), current, rtol=0, atol=0)
    assert torch.equal(found["proj"], after_product(current)) and 0 < found["proj"].mean() < 1


@pytest.mark.parametrize(("over", "axis"), [("channels", 3), ("tokens", 4)])
def test_q_k_attention_is_eqs_8_and_9(over: str, axis: int) -> None:
    attention = QKAttention(OPTIONS, 8, 4, over).double()
    found, x = seen(attention), spikes(4, 2, 8, 3, 2)
    assert attention(x, State()).shape == x.shape
    q, k = (found[name].reshape(4, 2, 4, 2, 6) for name in "qk")
    q = q.clone()
    mask = after_product(q.sum(axis, keepdim=True))
    assert torch.equal(found["proj"], (mask * k).view(x.shape)) and mask.mean() > 0 and found["proj"].any()


def test_spike_driven_attention_is_eq_6() -> None:
    attention = SpikeDrivenAttention(OPTIONS, 8).double()
    found, x = seen(attention), torch.randn(4, 2, 8, 3, 2, dtype=torch.float64) * 3
    attention(x, State())
    mask = after_product((found["k"] * found["v"]).sum((3, 4), keepdim=True))
    assert torch.equal(found["proj"], found["q"] * mask) and found["proj"].any() and not mask.all()


def test_spike_driven_attention_that_pools() -> None:
    """K and V over the grid, K . V and the output over the tokens and channels of each head."""
    attention = SpikeDrivenAttention(OPTIONS, 8, pooled_heads=2).double()
    found, x = seen(attention), torch.randn(4, 2, 8, 3, 2, dtype=torch.float64) * 2
    attention(x, State())

    def over(y: Tensor) -> Tensor:
        """The largest of the 3 x 3 around each value of the last two dimensions."""
        return F.pad(y, (1, 1, 1, 1)).unfold(-2, 3, 1).unfold(-2, 3, 1).amax((-2, -1))

    def tokens(y: Tensor) -> Tensor:
        return y.reshape(4, 2, 2, 4, -1).transpose(3, 4)

    current = over(tokens(over(found["k"]) * over(found["v"]))).sum(3).view(4, 2, 8, 1, 1)
    mask = after_product(current)
    wanted = over(tokens(found["q"] * mask)).transpose(3, 4).reshape(x.shape)
    assert torch.equal(found["proj"], wanted) and wanted.any() and not wanted.all()


def test_a_spike_reaches_its_eight_neighbours() -> None:
    one = torch.zeros(1, 1, 1, 5, 6)
    one[..., 2, 5] = 1
    assert spread(one)[0, 0, 0].nonzero().tolist() == [[i, j] for i in (1, 2, 3) for j in (4, 5)]


@pytest.mark.parametrize(
    "make", [lambda: SelfAttention(OPTIONS, 16, 3), lambda: QKAttention(OPTIONS, 16, 3)], ids=["self", "q-k"]
)
def test_heads_divide_the_channels(make) -> None:
    with pytest.raises(ModelError, match="^16 channels do not divide by 3 heads; choose heads that divide them$"):
        make()
