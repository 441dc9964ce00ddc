"""QKFormer: its hierarchy of grids, its stems, and its published key names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tdformer import create_model
from tdformer.attention import QKAttention, SelfAttention
from tdformer.backbones.qkformer import Embed, QKFormer
from tdformer.packing import bound_of, bounded
from tdformer.state import State, name_units
from tdformer.unit import UnitOptions

GRIDS = {
    "tiny_hst": [(8, 32), (8, 16), (16, 8)],
    "tiny_hst_imagenet": [(8, 8), (8, 4), (16, 2)],
    "tiny_hst_dvs": [(8, 4), (16, 2)],
}
"""Of each stage, of pictures of 32 x 32: channels and grid."""


@pytest.mark.parametrize("name", GRIDS)
def test_the_hierarchy(name: str) -> None:
    """Q-K attention but in the last stage, whose output is H_n."""
    with torch.device("meta"):
        backbone = create_model(name, image_size=32).backbone
        found: list[tuple[int, int]] = []
        for embed in backbone.embeds:
            embed.register_forward_hook(lambda _, __, output: found.append(tuple(output.shape[2:4])))
        x = torch.zeros(4, 1, 2 if name.endswith("dvs") else 3, 32, 32)
        features, high = backbone(x, None, State())
    assert found == GRIDS[name] and features.shape == (4, 1, 16)
    assert high.shape == (4, 1, 16, GRIDS[name][-1][1], GRIDS[name][-1][1])
    kinds = [{type(block.attention) for block in stage} for stage in backbone.stages]
    assert kinds == [{QKAttention}] * (len(kinds) - 1) + [{SelfAttention}]
    assert len(backbone.parts()) == len(kinds) + sum(len(stage) for stage in backbone.stages)
    assert backbone.parts()[0] is backbone.embeds[0]


@pytest.mark.parametrize("fork", [0, 1])
def test_an_embedding_is_its_chain_and_a_shortcut_from_its_fork(fork: int) -> None:
    embed = Embed(UnitOptions(), 3, ((4, True), (6, True)), fork).double()
    name_units(embed)
    for unit in (*embed.units, embed.shortcut):
        nn.init.uniform_(unit.current.norm.bias, 0.5, 1.5)
    seen: dict[str, Tensor] = {}
    embed.shortcut.register_forward_hook(lambda _, given, output: seen.update(given=given[0], made=output))
    embed.units[1].register_forward_hook(lambda _, given, output: seen.update(between=given[0], last=output))
    x = bounded((torch.rand(2, 2, 3, 9, 8) < 0.5).double(), 1)
    made = embed(x, State())
    assert made.shape == (2, 2, 6, 3, 2) and torch.equal(made, seen["last"] + seen["made"]) and bound_of(made) == 2
    assert seen["given"] is (x if fork == 0 else seen["between"]) and made.max() == 2


NAMES = {
    "patch_embed1.proj_conv.weight": "backbone.embeds.0.units.0.current.conv.weight",
    "patch_embed1.proj3_bn.bias": "backbone.embeds.0.units.3.current.norm.bias",
    "patch_embed1.proj_res_conv.weight": "backbone.embeds.0.shortcut.current.conv.weight",
    "patch_embed2.proj3_conv.weight": "backbone.embeds.1.units.0.current.conv.weight",
    "patch_embed2.proj_conv.weight": "backbone.embeds.1.units.0.current.conv.weight",
    "patch_embed3.proj4_bn.weight": "backbone.embeds.2.units.1.current.norm.weight",
    "patch_embed2.proj4_lif.w": "backbone.embeds.1.units.1.neuron.w",
    "stage1.0.tssa.attn_lif.w": "backbone.stages.0.0.attention.mask.w",
    "stage3.11.ssa.q_conv.weight": "backbone.stages.2.11.attention.q.current.conv.weight",
    "stage3.1.ssa.strange": None,
    "patch_embed.proj_conv.weight": None,
    "head.weight": None,
}


@pytest.mark.parametrize("key", NAMES)
def test_published_names(key: str) -> None:
    assert QKFormer.published is not None and QKFormer.published.name(key) == NAMES[key]


def test_the_last_projections_neuron_runs_over_the_batch_where_that_is_asked_for() -> None:
    for leaky in (False, True):
        model = create_model("tiny_hst", leaky_proj_lif=leaky)
        found = [[block.attention.proj.neuron.across_batch for block in stage] for stage in model.backbone.stages]
        assert found == [[False], [False], [leaky, leaky]]
