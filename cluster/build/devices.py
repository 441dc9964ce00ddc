"""The device of each rank, agreed on by all of them, and how a GPU is to calculate.

GPUs that are asked for are used, by every rank, or nothing starts: no rank takes the CPU while others wait for it on
NCCL, and no run trains on the CPU because a driver is broken.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tdformer.errors import first_line

from ..config.precision import PRECISIONS
from ..errors import RunError

T = TypeVar("T")
NO_GPU = ("", "-1", "NoDevFiles")
"""What CUDA_VISIBLE_DEVICES says where no GPU is to be seen; the last one is Slurm's."""
GRANTED = ("JOB_GPUS", "STEP_GPUS", "GPUS_ON_NODE", "GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK")
"""SLURM_...: what Slurm says to a job that asked for GPUs."""


@dataclass(frozen=True)
class Seen:
    """What one rank finds: its host; what asks for GPUs there, in words (None: nothing); the GPUs that it is shown, by
    their addresses on the host's PCI buses; what keeps it from using any (None: nothing)."""

    host: str
    asked: str | None = None
    gpus: tuple[str, ...] = ()
    fault: str | None = None


def hide(wanted: str) -> None:
    """Let this process and its children see no GPU where `engine.device` is cpu; before anything has asked for one."""
    if wanted == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def look(wanted: str) -> Seen:
    """What this process finds, for a setting `engine.device`. Starts CUDA where there is one."""
    host, shown = socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES")
    asked = asks(wanted, os.environ, sorted(map(str, Path("/dev").glob("nvidia[0-9]*"))))
    if shown in NO_GPU:
        return Seen(host, asked, fault=f"CUDA_VISIBLE_DEVICES={shown} hides all GPUs")
    if not torch.backends.cuda.is_built():
        return Seen(host, asked, fault=f"this torch ({torch.__version__}) is built without CUDA")
    try:
        torch.cuda.init()
        gpus = tuple(_address(i) for i in range(torch.cuda.device_count()))
    except (RuntimeError, AssertionError) as error:  # no driver, an old one, a broken one
        return Seen(host, asked, fault=f"CUDA does not start: {first_line(error).rstrip('. ')}")
    return Seen(host, asked, gpus, None if gpus else "CUDA sees no GPU")


def asks(wanted: str, environ: Mapping[str, str], devices: Sequence[str] = ()) -> str | None:
    """What asks for GPUs, in words: the setting, who chose some, Slurm for its job, or that the machine has devices."""
    shown = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted == "cuda":
        return "engine.device=cuda"
    if wanted == "cpu" or shown in NO_GPU:
        return None
    if shown is not None:
        return f"CUDA_VISIBLE_DEVICES={shown}"
    if "SLURM_JOB_ID" in environ:  # its devices are those of the job, and not all that the machine has
        granted = (f"SLURM_{name}" for name in GRANTED)
        return next((f"{name}={environ[name]}" for name in granted if environ.get(name, "0") not in ("", "0")), None)
    return devices[0] if devices else None


def places(ranks: Sequence[Seen]) -> list[int] | None:
    """The number of each rank's GPU among those that it is shown, which may be all of its host, some, or its own alone;
    None: nobody asks and nobody sees one, all take the CPU.

    Raises RunError, the same on all ranks, where a rank would be left without a GPU of its own.
    """
    why = next((f"{r.asked} on {r.host}" for r in ranks if r.asked), None)
    why = why or next((f"{r.host} has some" for r in ranks if r.gpus), None)
    if why is None:
        return None
    faults = {f"{r.host}: {r.fault}": None for r in ranks if r.fault is not None}
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise RunError(
            f"{next(iter(faults))}{more}, and GPUs are asked for ({why}); mend it, or set engine.device=cpu to train "
            "without them"
        )
    chosen, taken = [0] * len(ranks), set()
    for rank in sorted(range(len(ranks)), key=lambda rank: len(ranks[rank].gpus)):  # who has no choice takes first
        host, gpus = ranks[rank].host, ranks[rank].gpus
        free = [number for number, gpu in enumerate(gpus) if (host, gpu) not in taken]
        if not free:
            here = [r.gpus for r in ranks if r.host == host]
            raise RunError(
                f"{len(here)} processes on {host} are shown {len(set().union(*here))} GPUs: rank {rank} has none of "
                f"its own ({', '.join(gpus)}); start a process for each GPU, or show each another one"
            )
        chosen[rank] = free[0]
        taken.add((host, gpus[free[0]]))
    return chosen


def agreed(store: dist.Store, rank: int, world: int, wanted: str) -> torch.device:
    """This rank's device, once all ranks have met at `store` and each can have its own.

    Raises RunError, on all of them, where one cannot; dist.DistError where they do not meet.
    """
    store = dist.PrefixStore("device", store)
    ranks = [Seen(**{**seen, "gpus": tuple(seen["gpus"])}) for seen in _told(store, rank, world, asdict(look(wanted)))]
    try:
        chosen = places(ranks)
        if chosen is None:
            return torch.device("cpu")
        device, fault = torch.device("cuda", chosen[rank]), None
        try:
            torch.cuda.set_device(device)
            torch.zeros(1, device=device)
        except RuntimeError as error:  # in use by others, fallen off its bus, ...
            fault = f"{ranks[rank].gpus[device.index]} does not work: {first_line(error).rstrip('. ')}"
        faults = _told(store, rank, world, fault, "fault")
        places([Seen(r.host, r.asked, r.gpus, fault) for r, fault in zip(ranks, faults, strict=True)])
        return device
    except RunError:
        _part(store, rank, world)
        raise


def _told(store: dist.Store, rank: int, world: int, value: T, key: str = "seen") -> list[T]:
    """What each rank says."""
    store.set(f"{key}/{rank}", json.dumps(value))
    return [json.loads(said) for said in store.multi_get([f"{key}/{r}" for r in range(world)])]


def _part(store: dist.Store, rank: int, world: int) -> None:
    """Let the first rank, which may keep the store, leave last: the others still read why."""
    if store.add("left", 1) == world:
        store.set("all left", "")
    elif rank == 0:
        try:
            store.wait(["all left"], timedelta(seconds=30))
        except dist.DistError:
            return


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A block that computes in `train.precision`."""
    name = PRECISIONS[precision].autocast
    dtype: torch.dtype | None = None if name is None else getattr(torch, name)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def exact(tf32: bool, deterministic: bool) -> None:
    """How this process is to calculate on a GPU; before CUDA starts in it.

    tf32: whether fp32 matrix products and convolutions may cut their factors to 10 bits. deterministic: whether the
    same inputs give the same bits, or an error where torch has no such way.
    """
    # The newer names (fp32_precision) say the same, but after them torch's own readers of these, such as
    # torch.compile and torch.backends.cudnn.flags, raise (2.13).
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = False  # it would choose algorithms by the clock
    torch.use_deterministic_algorithms(deterministic)
    # Else each new tensor is filled, which finds what is read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if deterministic:
        if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        os.environ.setdefault("NCCL_ALGO", "^NVLS,NVLSTree")  # sums in the switch come in any order


def _address(number: int) -> str:
    gpu: Any = torch.cuda.get_device_properties(number)
    return f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}"
