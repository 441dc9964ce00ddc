"""The three backbones that TDFormer extends, each a function of one segment of time."""

from .blocks import Backbone
from .qkformer import QKFormer, QKFormerSizes
from .sdt import SDT, SDTSizes
from .spikformer import Spikformer, SpikformerSizes

__all__ = ["SDT", "Backbone", "QKFormer", "QKFormerSizes", "SDTSizes", "Spikformer", "SpikformerSizes"]
