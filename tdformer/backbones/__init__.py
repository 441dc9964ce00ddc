"""The three backbones that TDFormer extends, each a function of one segment of time, in a file with all that is its
own; and what another one is made of."""

from .base import MODELS, Backbone, Entry, Given, Published, Sizes, families, truncated
from .blocks import MLP, Block, pooled
from .qkformer import QKFormer, QKFormerSizes
from .sdt import SDT, SDTSizes
from .size import Size, check_width
from .spikformer import Spikformer, SpikformerSizes

__all__ = [
    "MLP",
    "MODELS",
    "SDT",
    "Backbone",
    "Block",
    "Entry",
    "Given",
    "Published",
    "QKFormer",
    "QKFormerSizes",
    "SDTSizes",
    "Size",
    "Sizes",
    "Spikformer",
    "SpikformerSizes",
    "check_width",
    "families",
    "pooled",
    "truncated",
]
