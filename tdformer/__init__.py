"""TDFormer: a spiking vision transformer with top-down feedback through time. Pure PyTorch: no processes.

A name is imported when it is asked for: a program that needs no model, such as a study's report, does without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import ModelError

if TYPE_CHECKING:
    from .model import TDFormer, default_alphas, segment_loss
    from .model_options import ModelOptions
    from .pretrained import from_pretrained, load_pretrained, save_pretrained
    from .registry import create_model, list_models

_PLACES = {
    "model": ("TDFormer", "default_alphas", "segment_loss"),
    "model_options": ("ModelOptions",),
    "pretrained": ("from_pretrained", "load_pretrained", "save_pretrained"),
    "registry": ("create_model", "list_models"),
}

__all__ = [
    "ModelError",
    "ModelOptions",
    "TDFormer",
    "create_model",
    "default_alphas",
    "from_pretrained",
    "list_models",
    "load_pretrained",
    "save_pretrained",
    "segment_loss",
]


def __getattr__(name: str) -> object:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
