"""What the published key names of several backbones have in common, and our names for it."""

from __future__ import annotations

import re

LAYERS = {"conv": "conv", "linear": "conv", "bn": "norm"}
"""Our names of layers, by the published ones."""
_NEVER = "never used by the published code"
UNUSED = {
    r".*\.num_batches_tracked": "a counter that nothing reads",
    r"block\.\d+\.norm[12]\..*|norm\..*|pos_embed": _NEVER,
    r"block\.\d+\.attn\.talking_heads\..*": _NEVER,
}
"""What is published and not used, pattern: reason."""


def of_stem(key: str, units: str, current: str) -> str | None:
    """A tensor of their stem, where a layer lies in UNITS.i CURRENT; its names end in "proj_conv3.weight"."""
    m = re.fullmatch(r"patch_embed\.(proj|rpe)_(conv|bn)(\d?)\.(\w+)", key)
    if m is None:
        return None
    part = "position" if m[1] == "rpe" else f"{units}.{m[3] or 0}"
    return f"backbone.stem.{part}{current}.{LAYERS[m[2]]}.{m[4]}"


def of_block(key: str, current: str) -> str | None:
    """A tensor of one of their blocks; see `of_branch`."""
    m = re.fullmatch(r"block\.(\d+)\.(.*)", key)
    inside = None if m is None else of_branch(m[2], current)
    return None if m is None or inside is None else f"backbone.blocks.{m[1]}.{inside}"


def of_branch(key: str, current: str = ".current") -> str | None:
    """A tensor of a block's attention or perceptron. Query, key and value are units; other layers lie in CURRENT."""
    m = re.fullmatch(r"(tssa|ssa|attn|mlp)\.([a-z]+\d?)_(conv|linear|bn)\.(\w+)", key)
    if m is None:
        return None
    part, unit = "mlp" if m[1] == "mlp" else "attention", m[2].replace("mlp", "fc")
    return f"{part}.{unit}{'.current' if unit in ('q', 'k', 'v') else current}.{LAYERS[m[3]]}.{m[4]}"
