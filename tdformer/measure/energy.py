"""What counted operations cost, in pJ, under several published prices; and the same network with real activations.

No price is that of a chip that was built for this network: they are rough figures for 45 nm, and what compares two
networks under one of them is the ratio. Each says where it is from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

from .operations import REAL, Counted, Row

Cost = Callable[[Row], float]
"""pJ of a row's memory traffic, over all images."""

HOROWITZ = "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014: 45 nm, 0.9 V"
LEMAIRE = (
    "E. Lemaire et al., An analytical estimation of spiking neural networks energy efficiency, ICONIP 2022 "
    "(arXiv:2210.13107); the line of a memory's energy over its size as its authors' qualia-plugin-snn has it"
)


@dataclass(frozen=True)
class Prices:
    """pJ of a multiplication and of an addition, which is that of a comparison too; a MAC is both. memory: what the
    traffic of a row costs beside them, given all rows; None: it is left out."""

    name: str
    multiply: float
    add: float
    source: str
    memory: Callable[[Counted], Cost] | None = None


LEVELS = ((8 * 2**10, 10.0), (32 * 2**10, 20.0), (2**20, 100.0))
"""Bytes of a memory on the chip, and pJ of an access to 64 bits of it."""
DRAM = 1300.0
"""pJ of 64 bits of a larger one; the source says 1300 to 2600."""
WIDTH = 32
"""Bits of a real number, a parameter and a potential in memory."""


def by_layer(counted: Counted) -> Cost:
    """Every operation reads what comes in and its parameters once a time step (parameters: a segment) and writes what
    comes out, packed as `Row.bits` says; potentials are read and written once. A number lies in the smallest memory
    that holds all of its kind: all parameters, all potentials, an operation's activations."""
    images = counted.images
    weights = {row.unit: row.parameters for row in counted.rows if row.parameters}
    potentials = {row.unit: row.potentials / images for row in counted.rows}
    of_weight, of_potential = (_bit(sum(of.values()) * WIDTH / 8) for of in (weights, potentials))

    def cost(row: Row) -> float:
        moved = row.bits + WIDTH * row.reals
        kept = WIDTH * (images * row.parameters * of_weight + 2 * row.potentials * of_potential)
        return kept + moved * _bit(moved / images / 8)

    return cost


def _bit(size: float) -> float:
    """pJ of a bit of a memory of so many bytes."""
    return next((price for most, price in LEVELS if size <= most), DRAM) / 64


def by_event(counted: Counted) -> Cost:
    """The model of Lemaire et al., with exact counts where it has rates: each event is read, and for each output that
    it reaches a weight, and that output's potential is read and written; a multiply-add of real numbers reads both; a
    bias is read for each output, and addresses are computed (Eqs 3 to 17). Large memories lie on the line of small."""
    images, times, plus = counted.images, 3.1 + 0.1, 0.1

    def access(numbers: float) -> float:
        return 1.09e-5 * numbers * WIDTH + 13.2

    def cost(row: Row) -> float:
        inside, outside = access(row.inputs / images), access(row.outputs / images)
        if row.operation == "neuron":
            return 2 * row.potentials * access(row.potentials / images) + row.fired * outside
        if row.operation not in LAYERS:
            return row.events * (inside + outside)
        other, biases = access(row.stored), row.norm * access(row.parameters - row.stored)
        if row.mac:
            addresses = (row.inputs + row.outputs) * plus
            return row.mac * (inside + other) + row.outputs * outside + biases + addresses
        addresses = 2 * row.events * times + row.taps * plus
        return row.events * inside + (row.ac + row.several) * (other + 2 * outside) + biases + addresses

    return cost


AC, MAC = 0.9, 4.6
"""pJ of an addition and a multiply-add in the papers on spiking networks: those of `PRICES[0]`."""
LAYERS = ("convolution", "linear", "product")
"""Operations whose multiply-adds are the network's; the factors of a product are both activations."""

PRICES = (
    Prices("fp32", 3.7, 0.9, f"{HOROWITZ}; a MAC is the 4.6 pJ and an AC the 0.9 pJ of the papers on spiking networks"),
    Prices("int32", 3.1, 0.1, HOROWITZ),
    Prices("int8", 0.2, 0.03, HOROWITZ),
    Prices("fp32, memory by layer", 3.7, 0.9, f"{HOROWITZ}; the cheapest DRAM of its range", by_layer),
    Prices("int32, memory by event", 3.1, 0.1, LEMAIRE, by_event),
)


def arithmetic(row: Row, prices: Prices, by_additions: bool = True) -> float:
    """pJ of a row's operations, over all images. by_additions: k spikes that meet a weight add it k times; else it is
    multiplied and added once."""
    macs = row.mac + (0 if by_additions else row.several)
    adds = row.ac + row.compare + (row.additions if by_additions else 0)
    return macs * (prices.multiply + prices.add) + adds * prices.add + row.mul * prices.multiply


def energies(counted: Counted, prices: Prices) -> list[tuple[float, float]]:
    """Of each row: pJ of an image, of its operations and of its memory traffic."""
    return _energies(counted.rows, counted, prices)


def _energies(rows: Sequence[Row], counted: Counted, prices: Prices) -> list[tuple[float, float]]:
    memory = prices.memory(counted) if prices.memory is not None else lambda row: 0.0
    return [(arithmetic(row, prices) / counted.images, memory(row) / counted.images) for row in rows]


def as_ann(counted: Counted) -> Counted:
    """The same network with real activations, in one pass: each of its layers and products once, dense. Nothing else is
    counted of it: no pooling, no activation functions, no residual sums."""
    passes: dict[tuple[str, str, int], Row] = {}
    seen: Counter[tuple[str, str, int, int | None]] = Counter()
    for row in counted.rows:
        if row.operation in LAYERS:
            seen[now := (row.unit, row.operation, row.segment, row.step)] += 1
            ann = Row(row.unit, row.part, row.operation, 0, 0, REAL, row.inputs, row.inputs, outputs=row.outputs)
            ann = ann._replace(dense=row.dense, mac=row.dense, stored=row.stored, parameters=row.parameters)
            ann = ann._replace(reals=row.inputs + row.outputs)
            passes.setdefault((row.unit, row.operation, seen[now]), ann)
    return Counted(list(passes.values()), counted.images, [])


def conventional(counted: Counted) -> float:
    """pJ of an image by Eqs 109-110: firing rate x multiply-adds x AC of every layer and product at every step, the
    mean of a sum of spikes for a rate, and MAC for real numbers; nothing else."""
    found = 0.0
    for row in counted.rows:
        if row.operation in LAYERS:
            rate = row.values / row.inputs if row.inputs else 0.0
            found += MAC * row.dense if row.mac else AC * rate * row.dense
    return found / counted.images


def firing_rate(rows: Sequence[Row]) -> float | None:
    """Spikes per neuron and time step; None: there is no neuron."""
    neurons = [row for row in rows if row.operation == "neuron"]
    return sum(row.fired for row in neurons) / sum(row.outputs for row in neurons) if neurons else None


def break_even(counted: Counted, prices: Prices) -> float | None:
    """The firing rate at which the network costs what `as_ann` does: all events scaled alike, what they reach with
    them, and products of two activations with their square. More than 1: it costs less at any rate; None: at none."""
    rate, target = firing_rate(counted.rows), sum(map(sum, energies(as_ann(counted), prices)))
    silent = [_silent(row) for row in counted.rows]
    fixed, linear, square = 0.0, 0.0, 0.0
    both = zip(counted.rows, energies(counted, prices), _energies(silent, counted, prices), strict=True)
    for row, now, still in both:
        fixed += sum(still)
        if row.operation == "product":
            square += sum(now) - sum(still)
        else:
            linear += sum(now) - sum(still)
    left = target - fixed
    if left <= 0 or not rate:
        return None
    return rate * 2 * left / (linear + sqrt(linear**2 + 4 * square * left))


def _silent(row: Row) -> Row:
    """Without what comes of events; the same where real numbers are multiplied."""
    if row.operation == "neuron":
        return row._replace(fired=0, ac=row.outputs)
    if row.mac:
        return row
    row = row._replace(events=0, values=0, ac=0, several=0, additions=0, logic=0, taps=0)
    return row._replace(mul=0) if row.operation in ("scale", "mask") else row
