"""How long work takes on a GPU: seconds of each operation, byte and launch that `tdformer.measure.Work` counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypedDict

import yaml

from tdformer.measure import Work

from ..config.precision import FULL
from ..errors import RunError
from .chips import Chip

QUEUE = 1024
"""Kernels that CUDA takes before one is done; then a launch waits."""


class Speed(Protocol):
    """How long the work of a process takes. source: where that is from."""

    @property
    def source(self) -> str: ...

    def training(self, course: Sequence[Work]) -> dict[str, float]:
        """Seconds of a micro-batch forward and backward, by part: `PARTS`, and `host`, which is beside these. course:
        its work so far, on the way and at the end."""

    def evaluation(self, count: Callable[[], Work]) -> float:
        """Seconds of a micro-batch in evaluation. count: its work, where that is asked for."""

    def optimizer(self, moved: int) -> float:
        """Seconds of a step's end: the optimizer, clipping and averaged weights, which move so many bytes."""


PARTS = ("matrix", "attention", "neuron", "other")
"""Of the device's seconds: convolutions and linear layers, products of activations, neuron and BatchNorm, the rest."""


@dataclass(frozen=True)
class Rates:
    """Seconds of a flop, of a byte by what moves it, and of an operator on the device beside these; of what the host
    does while the device works, for an operator, and beside for a call of the neuron or BatchNorm; of the optimizer's
    bytes; and of such a call where the host is the device. source: where they are from."""

    matrix_flop: float
    matrix_byte: float
    neuron_byte: float
    other_byte: float
    packing_byte: float
    operator: float
    host_operator: float
    host_call: float
    source: str

    def parts(self, work: Work) -> dict[str, float]:
        """Seconds of the device, by part."""
        return {
            "matrix": self.matrix_flop * work.matrix_flops + self.matrix_byte * work.matrix_bytes,
            "attention": self.matrix_flop * work.attention_flops + self.other_byte * work.attention_bytes,
            "neuron": self.neuron_byte * work.neuron_bytes,
            "other": self.other_byte * work.other_bytes
            + self.packing_byte * work.packing_bytes
            + self.operator * work.operators,
        }

    def launching(self, work: Work) -> float:
        """Seconds of the host, while the device works."""
        return self.host_operator * work.operators + self.host_call * work.neuron_calls

    def clocks(self, course: Sequence[Work]) -> tuple[float, float]:
        """Seconds after which the device has done a step, and after which the host has launched it. course: the work
        so far, on the way and at the end. The device does one thing after the other, each after its launch; the host
        launches at most `QUEUE` kernels ahead of it."""
        launched = done = 0.0
        ends: deque[tuple[int, float]] = deque()
        """Of what may still be in the queue: kernels up to its end, and when it is done."""
        own = [(self.launching(work), sum(self.parts(work).values()), work.launches) for work in course]
        for (host, device, _), (next_host, next_device, kernels) in pairwise([(0.0, 0.0, 0), *own]):
            while ends and ends[0][0] <= kernels - QUEUE:
                launched = max(launched, ends.popleft()[1])
            begun = max(done, launched)
            launched += next_host - host
            done = max(begun + next_device - device, launched)
            ends.append((kernels, done))
        return done, launched

    def host(self, course: Sequence[Work]) -> float:
        """Seconds of the host that the device waits for. course: see `clocks`."""
        return max(0.0, self.clocks(course)[0] - sum(self.parts(course[-1]).values()))

    def training(self, course: Sequence[Work]) -> dict[str, float]:
        """See `Speed`."""
        return self.parts(course[-1]) | {"host": self.host(course)}

    def evaluation(self, count: Callable[[], Work]) -> float:
        """See `Speed`."""
        return sum(self.training([count()]).values())

    def optimizer(self, moved: int) -> float:
        """See `Speed`."""
        return self.other_byte * moved


class Shares(TypedDict):
    """Of a GPU: the shares of its peaks that are reached, and microseconds of the host."""

    matrix_flop: float
    matrix_byte: float
    neuron_byte: float
    other_byte: float
    packing_byte: float
    operator_us: float
    host_operator_us: float
    host_call_us: float


class Measured(Shares):
    """With its name, and when it was measured."""

    chip: str
    measured: str


@cache
def measured() -> dict[str, Measured]:
    """What rates.yaml says, by GPU."""
    return {row["chip"]: row for row in yaml.safe_load(Path(__file__).with_name("rates.yaml").read_text())}


MODEL = "h100"
"""The GPU whose shares another one takes."""


def of_chip(chip: Chip, precision: str, tf32: bool) -> Rates:
    """Those of a GPU that was measured, or of an H100 scaled by the datasheets. Raises RunError for a type that it does
    not have."""
    row = measured().get(chip.name) or measured()[MODEL]
    source = f"measured on an H100 ({row['measured']})"
    if chip.name != row["chip"]:
        source = f"scaled by the datasheets from an H100 ({row['measured']})"
    elif precision == FULL.name:
        source += ", in bf16; its share of the peak taken for fp32"
    return of_row(chip, precision, tf32, row, source)


def of_row(chip: Chip, precision: str, tf32: bool, row: Shares, source: str) -> Rates:
    """Those of a row like rates.yaml's. Raises RunError for a type that the GPU does not have."""
    if (peak := chip.peak(precision, tf32)) is None:
        raise RunError(f"{chip.name} has no {precision}; set train.precision={' or '.join(sorted(chip.tflops))}")
    band = 1e12 * chip.bandwidth
    return Rates(
        matrix_flop=1 / (row["matrix_flop"] * peak),
        matrix_byte=1 / (row["matrix_byte"] * band),
        neuron_byte=1 / (row["neuron_byte"] * band),
        other_byte=1 / (row["other_byte"] * band),
        packing_byte=1 / (row["packing_byte"] * band),
        operator=1e-6 * row["operator_us"],
        host_operator=1e-6 * row["host_operator_us"],
        host_call=1e-6 * row["host_call_us"],
        source=source,
    )
