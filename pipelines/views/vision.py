"""torchvision, where its wheel was built for another torch."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from ..errors import DataError

_OPERATORS = ("nms", "qnms")


def torchvision() -> ModuleType:
    """The module. Raises DataError, naming what to install, when it does not import.

    The registry's wheel wants CUDA's libraries; beside a torch without them the operators that its Python registers
    kernels for are missing, and nothing here calls them. So they are declared.
    """
    try:
        return importlib.import_module("torchvision")
    except ImportError as error:
        raise DataError("torchvision is missing; pip install 'tdformer[augment]'") from error
    except RuntimeError as error:
        if torch.version.cuda is not None:
            raise DataError(
                f"torchvision does not fit torch {torch.__version__} ({str(error).splitlines()[0]}); "
                "install the one of the same release"
            ) from error
    for name in _OPERATORS:
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
