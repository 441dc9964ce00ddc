"""A GPU where there is none (`emulated_gpu`): what runs with a GPU runs, with the CPU's arithmetic.

What it shows: tensors of host and device that are mixed; where the host waits; numbers that are read, or host memory
that is used again, before a copy is through; what a CUDA graph may not record, and memory that it does not keep;
generators, streams, events and groups by torch.cuda's own Python. What it cannot: Triton's compiler, cuDNN, NCCL, how
much fits, and time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from benchmarks import ROOT, python_path

PARTS = Path(__file__).with_name("emulated_gpu")
SOURCE = PARTS / "device.cpp"
HIDING = ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR")
"""By which a process, such as one of other tests, has put down that there is no GPU."""


def library(folder: Path) -> Path:
    """device.cpp, compiled for this PyTorch: in 8 s, unless the folder has it."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed (apt-get install g++)")
    if torch.backends.cuda.is_built():
        pytest.skip("this PyTorch is built for GPUs, of which none need be emulated: pytest -m gpu")
    known = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    made = folder / f"emulated-{known}.so"
    if not made.exists():
        torch_at = Path(torch.__file__).parent
        draft = folder / f"{made.name}.{os.getpid()}"
        words = [compiler, "-std=c++20", "-O1", "-fPIC", "-shared", "-w", f"-I{torch_at}/include", str(SOURCE)]
        words += [f"-L{torch_at}/lib", f"-Wl,-rpath,{torch_at}/lib", "-ltorch_cpu", "-lc10", "-o", str(draft)]
        subprocess.run(words, check=True)
        draft.replace(made)
    return made


def environment(folder: Path, gpus: int = 1) -> Mapping[str, str]:
    """What a Python process needs around it to have so many of them; kernels are PyTorch's."""
    own = {"EMULATED_GPUS": str(gpus), "EMULATED_GPU_LIBRARY": str(library(folder)), "TDFORMER_KERNELS": "reference"}
    given = {name: value for name, value in os.environ.items() if name not in HIDING}
    return given | own | {"PYTHONPATH": python_path(PARTS, ROOT, ROOT / "tests")}


def gpus(count: int) -> pytest.MarkDecorator:
    """Of a test that needs so many, emulated or not."""
    return pytest.mark.skipif(torch.cuda.device_count() < count, reason=f"{count} CUDA devices are needed")
