"""Published key names and ours, line by line; what is published and not used."""

from __future__ import annotations

import re

import pytest

from tdformer.backbones.keys import UNUSED, of_block, of_branch, of_layer, of_stem

BRANCHES = {
    "attn.q_conv.weight": "attention.q.current.conv.weight",
    "ssa.k_bn.running_mean": "attention.k.current.norm.running_mean",
    "tssa.proj_linear.bias": "attention.proj.current.conv.bias",
    "mlp.fc1_conv.weight": "mlp.fc1.current.conv.weight",
    "mlp.mlp2_bn.weight": "mlp.fc2.current.norm.weight",
    "attn.q_lif.w": "attention.q.neuron.w",
    "mlp.mlp1_lif.w": "mlp.fc1.neuron.w",
    "tssa.attn_lif.w": "attention.mask.w",
    "ssa.attn_lif.w": "attention.product.w",
    "attn.attn_lif.w": "attention.product.w",
}
STRANGE = ["attn.q.weight", "attn.q_pool.weight", "norm1.weight", "mlp.fc1_conv", "head.weight", ""]


@pytest.mark.parametrize("key", BRANCHES)
def test_of_an_attention_or_a_perceptron(key: str) -> None:
    assert of_branch(key) == BRANCHES[key]
    assert of_block(f"block.12.{key}", of_branch) == f"backbone.blocks.12.{BRANCHES[key]}"


def test_a_layer_lies_where_its_backbone_has_it_but_query_key_and_value_are_units() -> None:
    assert of_layer("attn.proj_conv.weight", "") == "attention.proj.conv.weight"
    assert of_layer("mlp.fc2_bn.bias", "") == "mlp.fc2.norm.bias"
    assert of_layer("attn.v_conv.weight", "") == "attention.v.current.conv.weight"


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("patch_embed.proj_conv.weight", "backbone.stem.units.0.current.conv.weight"),
        ("patch_embed.proj_bn3.running_var", "backbone.stem.units.3.current.norm.running_var"),
        ("patch_embed.rpe_conv.weight", "backbone.stem.position.current.conv.weight"),
    ],
)
def test_of_a_stem(key: str, ours: str) -> None:
    assert of_stem(key, "units", ".current") == ours
    assert of_stem(key, "currents", "") == ours.replace("units", "currents").replace(".current.", ".")


def test_what_is_none_of_them_has_no_name() -> None:
    for key in STRANGE:
        assert of_branch(key) is of_layer(key) is of_block(f"block.0.{key}", of_branch) is None, key
        assert of_stem(f"patch_embed.{key}", "units", "") is None, key
    assert of_block("block.x.attn.q_conv.weight", of_branch) is None


@pytest.mark.parametrize(
    ("key", "unused"),
    [
        ("block.0.attn.q_bn.num_batches_tracked", True),
        ("block.7.norm1.weight", True),
        ("norm.bias", True),
        ("pos_embed", True),
        ("block.1.attn.talking_heads.weight", True),
        ("block.1.attn.talking_heads_lif.w", False),
        ("block.0.attn.q_bn.weight", False),
        ("head.weight", False),
    ],
)
def test_what_is_never_used(key: str, unused: bool) -> None:
    assert any(re.fullmatch(pattern, key) for pattern in UNUSED) == unused
