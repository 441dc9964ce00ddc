"""What decides the last bits of a run's numbers beside its configuration: the machine, the processes, the libraries.

docs/how-to-resume.md says what each of them changes. Each start notes them, and says what is not as it was before.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

from tdformer import kernels

from ..config import BatchPlan, Config
from ..config.plugins import noted

LIBRARIES = ("torch", "deepspeed", "numpy", "numba", "triton", "pillow", "simplejpeg", "torchvision", "timm", "ffcv")
VARIABLES = (
    *("TDFORMER_KERNELS", "ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA"),
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("NCCL_ALGO", "NCCL_PROTO", "NCCL_NVLS_ENABLE"),
)


def surroundings(config: Config, plan: BatchPlan, threads: int) -> dict[str, object]:
    """Those of this start, by name; of the machine that asks."""
    gpus = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    nccl = torch.cuda.nccl.version() if gpus and torch.distributed.is_nccl_available() else None
    kind = "cuda" if gpus else "cpu"
    return {
        "device": ", ".join(sorted(gpus)) or "CPU",
        "cpu": f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}",
        "kernels": f"{kernels.of(kind).__name__.rpartition('.')[2]} {kernels.ARITHMETIC[kind]}",
        "processes": plan.world,
        "threads": threads,
        "micro_batch": plan.micro_batch,
        "norm_ranks": plan.norm_ranks,
        "zero_stage": config.engine.zero_stage,
        "deterministic": config.engine.deterministic,
        **{name: version(name) for name in LIBRARIES},
        **{"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version() if gpus else None},
        "nccl": None if nccl is None else ".".join(map(str, nccl)),
        **({"plugins": noted(config.plugins)} if config.plugins else {}),
        **({"weights": config.model.weights_sha256} if config.model.weights else {}),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def version(package: str) -> str | None:
    """Of a package that is installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _cpu() -> str:
    """The processor's name: libraries choose their code by it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
