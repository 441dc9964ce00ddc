"""TDFormer: a spiking vision transformer with top-down feedback through time. Pure PyTorch: no processes."""

from .errors import ModelError
from .model import TDFormer, default_alphas, segment_loss
from .pretrained import from_pretrained, load_pretrained, save_pretrained
from .registry import create_model, list_models

__all__ = [
    "ModelError",
    "TDFormer",
    "create_model",
    "default_alphas",
    "from_pretrained",
    "list_models",
    "load_pretrained",
    "save_pretrained",
    "segment_loss",
]
