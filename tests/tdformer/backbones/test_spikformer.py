"""Spikformer: where its stem pools, its biases and its start, and its published key names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tdformer import create_model
from tdformer.backbones.spikformer import Spikformer, Stem
from tdformer.packing import bound_of
from tdformer.state import State, name_units
from tdformer.unit import UnitOptions


@pytest.mark.parametrize(
    ("pools", "grid"), [((False, False, True, True), 8), ((True,) * 4, 2), ((False,) * 4, 32), ((True, False) * 2, 8)]
)
def test_its_stem_pools_where_it_says(pools: tuple[bool, ...], grid: int) -> None:
    with torch.device("meta"):
        stem = Stem(UnitOptions(), 3, 16, pools)
        grids: list[int] = []
        for unit in stem.units:
            unit.register_forward_hook(lambda _, given, __: grids.append(given[0].shape[-1]))
        assert stem(torch.zeros(1, 2, 3, 32, 32), State(steps=4)).shape == (4, 2, 16, grid, grid)
    assert [unit.current.conv.out_channels for unit in stem.units] == [2, 4, 8, 16]
    assert grids == [32 // 2 ** sum(pools[:i]) for i in range(4)]  # after the spikes, for the next one


def test_the_position_is_embedded_on_a_shortcut() -> None:
    stem = Stem(UnitOptions(), 3, 16, (False, False, True, True)).double()
    name_units(stem)
    for unit in (*stem.units, stem.position):
        nn.init.uniform_(unit.current.norm.bias, 0.5, 1.5)
    seen: list[Tensor] = []
    stem.position.register_forward_hook(lambda _, given, output: seen.extend((given[0], output)))
    made = stem(torch.rand(2, 2, 3, 8, 8, dtype=torch.float64), State())
    assert torch.equal(made, seen[0] + seen[1]) and bound_of(made) == 2 and seen[1].any()


def test_that_of_cifar_has_biases_and_starts_at_two_hundredths() -> None:
    for name, own in (("spikformer_2_384", True), ("spikformer_2_256", False)):
        model = create_model(name)
        assert [p for block in model.backbone.blocks for p in _biases(block)] == [own] * 6
        linear = [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
        spread = [float(m.weight.detach().std()) for m in linear]
        assert (spread == pytest.approx([0.02] * len(spread), rel=0.05)) == own and len(spread) == 12
        assert {block.attention.scale for block in model.backbone.blocks} == {0.125 if own else 0.25}


def _biases(block: nn.Module) -> list[bool]:
    """Of query, key and value."""
    attention = block.get_submodule("attention")
    return [attention.get_submodule(f"{name}.current.conv").bias is not None for name in "qkv"]


NAMES = {
    "patch_embed.proj_conv.weight": "backbone.stem.units.0.current.conv.weight",
    "patch_embed.proj_lif2.w": "backbone.stem.units.2.neuron.w",
    "patch_embed.rpe_lif.w": "backbone.stem.position.neuron.w",
    "patch_embed.rpe_bn.bias": "backbone.stem.position.current.norm.bias",
    "block.3.attn.attn_lif.w": "backbone.blocks.3.attention.product.w",
    "block.3.mlp.fc2_linear.weight": "backbone.blocks.3.mlp.fc2.current.conv.weight",
    "patch_embed1.proj_conv.weight": None,
    "head.bias": None,
}


@pytest.mark.parametrize("key", NAMES)
def test_published_names_of_spikformer(key: str) -> None:
    assert Spikformer.published is not None and Spikformer.published.name(key) == NAMES[key]
