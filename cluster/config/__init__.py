"""The configuration of a run: what can be set, how it is read and written, and what cannot work."""

from .settings import (
    NEUTRAL,
    BatchPlan,
    Config,
    DataConfig,
    HealthConfig,
    SiteConfig,
    TrainConfig,
    check_commands,
    differences,
    flat,
    load,
    norm_batch,
    recipe,
    recipes,
    resolve,
    stored,
    to_yaml,
)
from .values import either, show

__all__ = [
    "NEUTRAL",
    "BatchPlan",
    "Config",
    "DataConfig",
    "HealthConfig",
    "SiteConfig",
    "TrainConfig",
    "check_commands",
    "differences",
    "either",
    "flat",
    "load",
    "norm_batch",
    "recipe",
    "recipes",
    "resolve",
    "show",
    "stored",
    "to_yaml",
]
