"""What a run is on: how fast it computes and exchanges, and the memory of a process."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ..build.memory import GIB, Memory, here
from ..config import Config
from ..config.shape import Shape
from . import rates
from .chips import Chip, chip, recognised
from .network import Model, Network
from .rates import Speed


@dataclass(frozen=True)
class Machine:
    """speed, network: None: not known, and `missing` says what to do about it. links: where the network's figures are
    from. images: that the loader of a process reads in a second; peak: operations/s; None: not known."""

    name: str
    memory: Memory
    speed: Speed | None = None
    network: Model | None = None
    links: str = ""
    images: float | None = None
    peak: float | None = None
    gpu: bool = False
    missing: str = "set site.gpu to what its GPUs are; on a CPU, tdformer plan --measure"

    @classmethod
    def of_chip(cls, chip: Chip, config: Config, shape: Shape) -> Machine:
        """A GPU of the table. Raises RunError for a type that it does not have."""
        given = config.recompute.memory
        memory = Memory(1e9 * chip.memory_gb, f"the memory of {chip.name}, datasheet", usable=1.0)
        train = config.train
        return cls(
            name=chip.name,
            memory=memory if given is None else Memory(given * GIB, "recompute.memory"),
            speed=rates.of_chip(chip, train.precision, train.tf32),
            network=Network(node=shape.processes, nvlink=1e9 * chip.link),
            links=f"NCCL's model: {chip.link:g} GB/s in a node (datasheet), 50 GB/s a GPU between nodes (assumed)",
            peak=chip.peak(train.precision, train.tf32),
            gpu=True,
        )

    @classmethod
    def unknown(cls, config: Config, shape: Shape, memory: Memory | None = None) -> Machine:
        """One of which nothing but memory is known. memory: None: this machine's, and that of GPUs is not known."""
        if memory is None and shape.gpus and config.recompute.memory is None:
            memory = Memory(math.inf, "not known: give --gpu NAME, or set site.gpu")
        return cls("this machine", memory or here(config, shape.processes), gpu=shape.gpus > 0)

    @classmethod
    def seen(cls, config: Config, processes: int, world: int, memory: Memory) -> Machine:
        """What this process runs on, with so many of the run's: its GPU, by torch's name for it, or where that is not
        in the table by `site.gpu`. Raises RunError for a type that the GPU does not have, or a name that is none."""
        shape = Shape(-(-world // processes), processes, processes if torch.cuda.is_available() else 0)
        kind = recognised(torch.cuda.get_device_name()) if shape.gpus else None
        if kind is None and shape.gpus and config.site.gpu:
            kind = chip(config.site.gpu)
        found = cls.unknown(config, shape, memory) if kind is None else cls.of_chip(kind, config, shape)
        return replace(found, memory=memory)

    def timed(self, speed: Speed, network: Model, images: float | None) -> Machine:
        """With what was measured on it."""
        return replace(self, speed=speed, network=network, links="measured here", images=images)
