"""The configuration of a run: what can be set, how it is read and written, and what cannot work."""

from .batches import BatchPlan, norm_batch, resolve
from .identity import NEUTRAL, differences
from .layers import named
from .load import load, stored, to_yaml
from .recipes import recipe, recipes
from .schema import Config, DataConfig, HealthConfig, ModelConfig, SiteConfig, TrainConfig, flat
from .trust import check_commands
from .words import either, show

__all__ = [
    "NEUTRAL",
    "BatchPlan",
    "Config",
    "DataConfig",
    "HealthConfig",
    "ModelConfig",
    "SiteConfig",
    "TrainConfig",
    "check_commands",
    "differences",
    "either",
    "flat",
    "load",
    "named",
    "norm_batch",
    "recipe",
    "recipes",
    "resolve",
    "show",
    "stored",
    "to_yaml",
]
