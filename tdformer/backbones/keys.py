"""What the published key names of several backbones have in common, and our names for it."""

from __future__ import annotations

import re
from collections.abc import Callable

LAYERS = {"conv": "conv", "linear": "conv", "bn": "norm"}
"""Our names of layers, by the published ones."""
NEVER = "never used by the published code"
UNUSED = {
    r".*\.num_batches_tracked": "a counter that nothing reads",
    r"block\.\d+\.norm[12]\..*|norm\..*|pos_embed": NEVER,
    r"block\.\d+\.attn\.talking_heads\..*": NEVER,
}
"""What is published and not used, pattern: reason."""


def of_stem(key: str, units: str, current: str) -> str | None:
    """A tensor of their stem, where a layer lies in UNITS.i CURRENT; its names end in "proj_conv3.weight"."""
    m = re.fullmatch(r"patch_embed\.(proj|rpe)_(conv|bn)(\d?)\.(\w+)", key)
    if m is None:
        return None
    part = "position" if m[1] == "rpe" else f"{units}.{m[3] or 0}"
    return f"backbone.stem.{part}{current}.{LAYERS[m[2]]}.{m[4]}"


def of_block(key: str, branch: Callable[[str], str | None]) -> str | None:
    """A tensor of one of their blocks, where `branch` names those of its attention and perceptron."""
    m = re.fullmatch(r"block\.(\d+)\.(.*)", key)
    inside = None if m is None else branch(m[2])
    return None if m is None or inside is None else f"backbone.blocks.{m[1]}.{inside}"


def of_branch(key: str) -> str | None:
    """A tensor of an attention or perceptron that is made of units."""
    m = re.fullmatch(r"(tssa|ssa|attn|mlp)\.([a-z]+\d?)_lif\.w", key)
    if m is None:
        return of_layer(key)
    if m[2] == "attn":
        return f"attention.{'mask' if m[1] == 'tssa' else 'product'}.w"
    part, unit = "mlp" if m[1] == "mlp" else "attention", m[2].replace("mlp", "fc")
    return f"{part}.{unit}.neuron.w"


def of_layer(key: str, current: str = ".current") -> str | None:
    """One of their convolutions or BatchNorms. Query, key and value are units; other layers lie in CURRENT."""
    m = re.fullmatch(r"(tssa|ssa|attn|mlp)\.([a-z]+\d?)_(conv|linear|bn)\.(\w+)", key)
    if m is None:
        return None
    part, unit = "mlp" if m[1] == "mlp" else "attention", m[2].replace("mlp", "fc")
    return f"{part}.{unit}{'.current' if unit in ('q', 'k', 'v') else current}.{LAYERS[m[3]]}.{m[4]}"
