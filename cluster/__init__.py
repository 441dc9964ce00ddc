"""Running it: configuration, engine, training loop, checkpoints, command line.

What is named here is what a program that trains, launches or evaluates needs. A name is imported when it is asked for:
most bring torch, some DeepSpeed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipelines.lazy import offered

if TYPE_CHECKING:
    from .build.optimizers import OPTIMIZERS, Optimizer
    from .build.setup import Setup
    from .build.shards import prepare, write_shards
    from .config import Config, load
    from .config.shape import Shape
    from .errors import RunError
    from .jobs.launch import launch, resume
    from .jobs.processes import start
    from .results.export import evaluate_export, export
    from .results.predict import predict
    from .run.figures import FIGURES
    from .run.folder import RunFolder
    from .train.evaluate import evaluate_run
    from .train.hooks import HOOKS, Hook
    from .train.schedule import SCHEDULES

# Idle OpenMP threads spin for long by default. Beside other busy processes that turned a training step of 1.5 s into
# 20 s; not spinning at all took the quick start on two free cores from 363 to 160 images/s. With 10,000 turns it ran at
# 318 to 370. It counts only if it is set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_PLACES = {
    "build.optimizers": ("OPTIMIZERS", "Optimizer"),
    "build.setup": ("Setup",),
    "build.shards": ("prepare", "write_shards"),
    "config": ("Config", "load"),
    "errors": ("RunError",),
    "config.shape": ("Shape",),
    "jobs.launch": ("launch", "resume"),
    "jobs.processes": ("start",),
    "results.export": ("evaluate_export", "export"),
    "results.predict": ("predict",),
    "run.figures": ("FIGURES",),
    "run.folder": ("RunFolder",),
    "train.evaluate": ("evaluate_run",),
    "train.hooks": ("HOOKS", "Hook"),
    "train.schedule": ("SCHEDULES",),
}

__all__ = [
    "FIGURES",
    "HOOKS",
    "OPTIMIZERS",
    "SCHEDULES",
    "Config",
    "Hook",
    "Optimizer",
    "RunError",
    "RunFolder",
    "Setup",
    "Shape",
    "evaluate_export",
    "evaluate_run",
    "export",
    "launch",
    "load",
    "predict",
    "prepare",
    "resume",
    "start",
    "write_shards",
]

__getattr__ = offered(__name__, _PLACES)


def __dir__() -> list[str]:
    return __all__
