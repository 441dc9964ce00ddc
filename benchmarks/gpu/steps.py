"""Training steps and evaluations of one model: ours by policy, and the published style with each neuron at its best."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

import tdformer
from benchmarks import peer
from benchmarks.published import LIF, Layers, Published
from tdformer.measure import measure_step
from tdformer.neuron import lif
from tdformer.options import NeuronOptions

from .device import Device

GIB = 2**30
CHANNELS = 128  # at most, that `Fused` makes of what lies side by side
OWN = ("fire", "backward")
"""Kernels of `tdformer.kernels.gpu_programs` that are a neuron."""
SPIKINGJELLY = {"triton.py": ("_forward_kernel", "_backward_kernel"), "kernels.cuh": ("lif_forward", "lif_backward")}
"""spikingjelly's, by the file of its `_ops/lif` that has them."""
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Work:
    """What is run: a model of the registry on `batch` images of `pixels`^2, in evaluation on twice as many."""

    model: str
    pixels: int
    batch: int
    warm: int
    rounds: int
    backend: str = "inductor"  # of torch.compile


class Fused(LIF):
    """The published neuron in one kernel of ours a direction: what a peer with a fused neuron can be."""

    def forward(self, x: Tensor) -> Tensor:
        channels, v = math.gcd(x[0].numel(), CHANNELS), None if isinstance(self.v, float) else self.v
        lying = x.reshape(len(x), -1, channels, 1, 1)  # any numbers side by side are channels to a kernel: no copy
        spikes, self.v = lif(lying, v, NeuronOptions(threshold=self.threshold))
        return spikes.view(x.shape)


class SpikingJelly(LIF):
    """spikingjelly 2.0's neuron with its state in fp32: with another one its dispatch takes plain PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        from spikingjelly.activation_based import functional, surrogate

        v = torch.zeros_like(x[0], dtype=torch.float32) if isinstance(self.v, float) else self.v
        slope = surrogate.Sigmoid(4.0)
        spikes, self.v, _ = functional.lif_multi_step(x, v, 2.0, True, self.threshold, 0.0, slope, True)
        return spikes


def published(work: Work, neuron: type[LIF]) -> nn.Module:
    model = Published(work.model, 1, 4)
    for place, module in list(model.named_modules()):
        if isinstance(module, LIF):
            model.set_submodule(place, neuron(module.threshold))
    return model


def ours(work: Work, policy: str, segments: int = 1, borders: int = 1) -> tdformer.TDFormer:
    fed = "all" if segments > 1 else "none"
    options: dict[str, Any] = {"image_size": work.pixels, "num_classes": 1000, "time_steps": 4}
    model = tdformer.create_model(work.model, segments=segments, feedback=fed, **options)
    model.set_recompute(policy, borders)
    return model


@dataclass(frozen=True)
class Contender:
    name: str
    make: Callable[[Work], nn.Module]
    type: str = "bf16"
    train: bool = True
    channels_last: bool = False
    compiled: bool = False
    graph: bool = False  # its step is recorded once, and replayed


def _of_ours(name: str, *choice: Any) -> Contender:
    return Contender(f"ours, {name}", lambda work: ours(work, *choice))


def _peers(train: bool) -> Iterator[Contender]:
    neurons: dict[str, type[LIF]] = {"fused neuron (ours)": Fused}
    if peer.INSTALLED:
        neurons["spikingjelly"] = SpikingJelly
    neurons["PyTorch neuron"] = LIF
    for word, neuron in neurons.items():
        for kind in TYPES if train else ("bf16",):
            yield Contender(f"published, {word}, {kind}", lambda work, n=neuron: published(work, n), kind, train)


OURS = [
    _of_ours("none, N = 1", "none"),
    _of_ours("unit, N = 1", "unit"),
    replace(_of_ours("unit, borders = 2, N = 4, as a graph", "unit", 4, 2), graph=True),
]
MORE = [
    _of_ours("block, N = 1", "block"),
    _of_ours("none, N = 2", "none", 2),
    _of_ours("unit, N = 2", "unit", 2),
    _of_ours("unit, borders = 2, N = 4", "unit", 4, 2),
]
PEERS = [
    *_peers(True),
    Contender("published, fused neuron (ours), channels_last", lambda w: published(w, Fused), channels_last=True),
]
EVALUATIONS = [Contender("ours", lambda work: ours(work, "unit"), train=False), *_peers(False)]
COMPILED = [
    Contender("published, PyTorch neuron, torch.compile", lambda w: published(w, LIF), compiled=True),
    Contender(
        "published, PyTorch neuron, channels_last, torch.compile",
        lambda w: published(w, LIF),
        channels_last=True,
        compiled=True,
    ),
]


def measured(contender: Contender, work: Work, device: Device) -> dict[str, Any]:
    """One row: times by image, memory, launches, kernels, and what the planner says of it."""
    torch.manual_seed(0)
    device.free()
    batch = work.batch if contender.train else 2 * work.batch
    row: dict[str, Any] = {"name": contender.name, "train": contender.train, "batch": batch}
    model: Any = contender.make(work).to(device.kind).train(contender.train)
    if contender.channels_last:
        model = model.to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, work.pixels, work.pixels, device=device.kind)
    labels = torch.zeros(batch, dtype=torch.long, device=device.kind)
    if contender.compiled:  # by parts, of which many are alike: the whole takes minutes
        for part in model.modules():
            if isinstance(part, Layers):
                part.compile(backend=work.backend, dynamic=False)

    def step() -> None:
        with torch.autocast(device.kind, TYPES[contender.type]), torch.set_grad_enabled(contender.train):
            logits = model(images)
        if contender.train:
            tdformer.segment_loss(logits, labels).backward()
            model.zero_grad()

    run: Callable[[], None] = step
    if contender.graph:
        run, held = recorded(step, device)
        row["graph_gib"] = held / GIB
    for _ in range(work.warm):
        run()
    times = [ms / batch for ms in device.milliseconds(run, work.rounds)]
    row |= {"ms_per_image": statistics.median(times), "least": min(times), "most": max(times)}
    row |= {"launch_ms": device.launch(run)}
    for neuron in model.modules():
        if isinstance(neuron, LIF):
            neuron.reset()  # what a step leaves is of that step's peak, and not of what was there before it
    row |= {"peak_gib": device.peak(run, model) / GIB}
    kernels = device.kernels(run)
    row |= {"launches": sum(count for _, _, count in kernels), "kernels": kernels[:20]}
    row["fused"] = sorted({name for name, _, _ in kernels if fused(name)})
    if contender.train:
        if isinstance(model, tdformer.TDFormer):
            row["planned_gib"] = planned(contender, work, batch)
        if device.peak_rate:
            row["mfu"] = operations(work) / (row["ms_per_image"] * 1e-3 * device.peak_rate)
    return row


def fused(kernel: str) -> bool:
    """Whether a kernel is a neuron, by its name in a profile: `fire`, or `void lif_forward<float>(...)`."""
    found = re.match(r"(?:void )?(\w+)", kernel)
    return found is not None and found[1] in {*OWN, *chain(*SPIKINGJELLY.values())}


def recorded(step: Callable[[], None], device: Device) -> tuple[Callable[[], None], int]:
    """A step as `engine.graph` has it, and the bytes that its memory takes while nothing runs."""
    from cluster.train.graph import RECORDERS

    device.free()
    before = device.reserved()
    replay = RECORDERS[device.kind](step, lambda: None).replay
    device.free()
    return replay, device.reserved() - before


def planned(contender: Contender, work: Work, batch: int) -> float:
    """GiB that the planner's model of the step says."""
    with torch.device("meta"):
        model = contender.make(work).train()
        cost, _ = measure_step(model, torch.zeros(batch, 3, work.pixels, work.pixels), bf16=True)  # type: ignore[arg-type]
    return cost.peak / GIB


@lru_cache
def operations(work: Work) -> int:
    """Of one image's training step without recomputation."""
    with torch.device("meta"):
        cost, _ = measure_step(ours(work, "none"), torch.zeros(1, 3, work.pixels, work.pixels), bf16=True)
    return cost.flops
