"""How long work takes: seconds of each operation, byte and launch that `tdformer.measure.Work` counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

import numpy as np
import yaml
from numpy.typing import NDArray

from tdformer.measure import Work

from ..config.precision import FULL
from ..errors import RunError
from .chips import Chip


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
    state_byte: float
    call: float
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

    def host(self, work: Work) -> float:
        """Seconds of the host that the device waits for."""
        return max(0.0, self.launching(work) - sum(self.parts(work).values())) + self.call * work.neuron_calls


class Measured(TypedDict):
    """Of a GPU: the shares of its peaks that were reached, and microseconds of the host."""

    chip: str
    measured: str
    matrix_flop: float
    matrix_byte: float
    neuron_byte: float
    other_byte: float
    packing_byte: float
    operator_us: float
    host_operator_us: float
    host_call_us: float


@cache
def measured() -> dict[str, Measured]:
    """What rates.yaml says, by GPU."""
    return {row["chip"]: row for row in yaml.safe_load(Path(__file__).with_name("rates.yaml").read_text())}


MODEL = "h100"
"""The GPU whose shares another one takes."""


def of_chip(chip: Chip, precision: str, tf32: bool) -> Rates:
    """Those of a GPU that was measured, or of an H100 scaled by the datasheets. Raises RunError for a type that it does
    not have."""
    if (peak := chip.peak(precision, tf32)) is None:
        raise RunError(f"{chip.name} has no {precision}; set train.precision={' or '.join(sorted(chip.tflops))}")
    row = measured().get(chip.name) or measured()[MODEL]
    source = f"measured on an H100 ({row['measured']})"
    if chip.name != row["chip"]:
        source = f"scaled by the datasheets from an H100 ({row['measured']})"
    elif precision == FULL.name:
        source += ", in bf16; its share of the peak taken for fp32"
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
        state_byte=1 / (row["other_byte"] * band),
        call=0.0,
        source=source,
    )


@dataclass(frozen=True)
class Timed:
    """A step that was measured: its work in all, the bytes of the optimizer, and its seconds without collectives."""

    work: Work
    state: int
    seconds: float

    def features(self) -> NDArray[np.float64]:
        """What the seconds of a CPU are a sum of: operations, bytes, calls of the neuron, bytes of the optimizer.
        Packing is one pass there and little beside them; the operators that it is made of are a GPU's."""
        work = self.work
        moved = work.matrix_bytes + work.attention_bytes + work.neuron_bytes + work.other_bytes
        return np.array([work.flops, moved, work.neuron_calls, self.state])


def fitted(steps: Sequence[Timed], source: str) -> Rates:
    """The rates of a CPU by least squares of relative errors, none below 0; steps: at least one."""
    from scipy.optimize import nnls

    table = np.array([step.features() / step.seconds for step in steps])
    scale = np.maximum(table.max(0), 1e-300)
    found, _ = nnls(table / scale, np.ones(len(steps)))
    flop, byte, call, state = (found / scale).tolist()
    return Rates(flop, byte, byte, byte, 0.0, 0.0, 0.0, 0.0, state, call, source)


def total(works: Sequence[Work]) -> Work:
    """Their sum."""
    return Work(*map(sum, zip(*map(astuple, works), strict=True)))
