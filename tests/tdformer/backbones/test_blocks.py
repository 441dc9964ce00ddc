"""What the backbones share, against plain PyTorch, wherever channels lie."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdformer import ModelError, kernels
from tdformer.attention import SelfAttention
from tdformer.backbones.blocks import MLP, Block, mean_of_pixels, pooled
from tdformer.packing import bound_of, bounded
from tdformer.state import State, name_units
from tdformer.unit import Unit, UnitOptions


def firing(module: nn.Module) -> nn.Module:
    name_units(module)
    for unit in module.modules():
        if isinstance(unit, Unit):
            nn.init.uniform_(unit.current.norm.bias, 0.5, 2)
    return module.double()


def spikes(*shape: int) -> Tensor:
    return bounded((torch.rand(shape) < 0.4).double(), 1)


@pytest.mark.parametrize(("ratio", "hidden"), [(4, 32), (1, 8), (0.5, 4)])
def test_a_perceptron_is_its_two_units(ratio: float, hidden: int) -> None:
    mlp = firing(MLP(UnitOptions(), 8, ratio))
    assert isinstance(mlp, MLP) and mlp.fc1.current.conv.weight.shape == (hidden, 8, 1, 1)
    x, state = spikes(4, 2, 8, 3, 3), State()
    made = mlp(x, state)
    assert torch.equal(made, mlp.fc2(mlp.fc1(x, State()), State())) and 0 < made.mean() < 1
    assert made.shape == x.shape and set(state.membrane) == {"fc1.neuron", "fc2.neuron"}


def test_a_perceptron_without_hidden_channels_is_refused() -> None:
    with pytest.raises(ModelError, match="mlp_ratio is 0.1, which leaves no hidden channel beside 8"):
        MLP(UnitOptions(), 8, 0.1)


def test_a_block_adds_its_attention_and_then_its_perceptron() -> None:
    block = firing(Block(SelfAttention(UnitOptions(), 8, 2, scale=0.5), MLP(UnitOptions(), 8)))
    x = spikes(4, 2, 8, 3, 3)
    made = block(x, None, State())
    middle = x + block.attention(x, State())
    assert torch.equal(made, middle + block.mlp(middle, State()))
    assert bound_of(made) == 3 and made.max() > 1  # sums of spikes stay small integers


@pytest.mark.parametrize(("size", "half"), [((6, 4), (3, 2)), ((7, 1), (4, 1))])
def test_pooling_halves_and_rounds_up(size: tuple[int, int], half: tuple[int, int]) -> None:
    x = spikes(2, 3, 4, *size)
    made = pooled(x, State())
    assert made.shape == (2, 3, 4, *half) and bound_of(made) == 1
    assert torch.equal(made.flatten(0, 1), F.max_pool2d(x.flatten(0, 1), 3, 2, 1))


@pytest.mark.parametrize("last", [False, True])
def test_the_mean_of_pixels(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if last:
        monkeypatch.setenv("TDFORMER_KERNELS", "gpu")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    x = kernels.laid(torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)).requires_grad_()
    mean, grad = mean_of_pixels(x), torch.randn(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(mean, x.flatten(3).mean(3))
    (found,) = torch.autograd.grad(mean, x, grad)
    torch.testing.assert_close(found, (grad / 30)[..., None, None].expand(x.shape))
    assert found.movedim(2, 4).is_contiguous() or not last  # or its zero strides of an expanded one
