"""Python imports this by itself where its folder is on PYTHONPATH: with EMULATED_GPUS=n torch then has n GPUs."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class WithGPUs(MetaPathFinder):
    """Finds torch, and adds to it what is emulated."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            ctypes.CDLL(os.environ["EMULATED_GPU_LIBRARY"], ctypes.RTLD_GLOBAL)  # torch looks for CUDA once, at first
            execute(module)
            sys.path.insert(0, os.path.dirname(__file__))
            import torch_cuda

            sys.path.pop(0)
            torch_cuda.start()

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


if os.environ.get("EMULATED_GPUS"):
    sys.meta_path.insert(0, WithGPUs())
