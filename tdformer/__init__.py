"""TDFormer: a spiking vision transformer with top-down feedback through time. Pure PyTorch: no files, no processes."""

from .errors import ModelError
from .model import TDFormer, default_alphas, segment_loss
from .registry import create_model, list_models

__all__ = ["ModelError", "TDFormer", "create_model", "default_alphas", "list_models", "segment_loss"]
