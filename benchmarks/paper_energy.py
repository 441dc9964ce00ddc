"""The paper's operations (Table 6) and energies (Table 1) against counts of these networks.

    python -m benchmarks.paper_energy

Nothing is computed but shapes: dense counts of each layer on the meta device (`dense.py`), under each convention of
counting, reading of the feedback, variant and share of time that the paper leaves open. What follows from it is in
`docs/energy.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import isclose

from . import machine, table
from .dense import Counts, count

MAC, AC = 4.6e-12, 0.9e-12
"""Joules of a multiply-add and of an addition, 45 nm (the paper's constants)."""
GIGA, MILLI, STEPS = 1e9, 1e-3, 4
BASELINES = {"spikformer_4_384": 3.71, "sdt_2_256": 1.25}
FED_BACK = {"spikformer_4_384": {1: 3.88, 2: 3.88, 3: 3.90}, "sdt_2_256": {1: 1.31, 2: 1.31, 3: 1.32}}
"""Table 6, 10^9 operations by control module."""
POWER = {224: 38.91, 288: 64.27, 384: 113.64}
ADDED = [("last", 224, 38.93), ("last", 288, 64.39), ("all", 224, 39.10), ("all", 288, 64.45), ("all", 384, 113.79)]
"""Table 1, mJ: of hst_10_768 by pixels; which blocks are fed back, pixels, mJ."""
COUNTER = 3_703_662_346
"""What the counter published with Spikingformer (energy_consumption_calculation, made of syops-counter) told of
Spikformer-4-384 on CIFAR-10: github.com/ZK-Zhou/spikformer, issue 23."""


@dataclass(frozen=True)
class Convention:
    """What is counted. each: operations of a multiply-add; steps: of how many, and first of the picture's convolution;
    attention: "linear", "quadratic" or none; norm: operations a value; bias, neurons, pooled: one a value, or none."""

    each: int = 1
    steps: int = STEPS
    first: int = STEPS
    attention: str = "none"
    norm: int = 0
    bias: str = "none"
    neurons: int = 0
    pooled: int = 0

    def of(self, c: Counts) -> float:
        """10^9 operations."""
        attention = {"none": 0, "linear": c.linear, "quadratic": c.quadratic}[self.attention]
        bias = {"none": 0, "value": c.bias, "column": c.bias_columns}[self.bias]
        products = c.products + c.core + attention + c.first * self.first / STEPS
        rest = bias + self.norm * c.norm + self.neurons * c.neurons + self.pooled * c.pooled
        return (self.each * products + rest) * self.steps / STEPS / GIGA

    def words(self) -> str:
        parts = [f"{self.each} a multiply-add", f"{self.steps} step{'s' * (self.steps > 1)}"]
        parts += ["picture's convolution once"] * (self.first < self.steps)
        parts += [f"attention {self.attention}"] * (self.attention != "none")
        parts += [f"BatchNorm {self.norm} a value"] * (self.norm > 0)
        parts += [{"value": "biases", "column": "biases, one a step"}.get(self.bias, "")] * (self.bias != "none")
        return ", ".join(parts + ["neurons"] * self.neurons + ["pooling"] * self.pooled)


NAMED = [
    Convention(),
    Convention(each=2),
    Convention(steps=1),
    Convention(each=2, steps=1),
    Convention(first=1),
    Convention(attention="linear"),
    Convention(attention="quadratic"),
    Convention(norm=2),
    Convention(norm=5),
    Convention(norm=2, bias="value", neurons=1, pooled=1),
    Convention(norm=2, bias="column", neurons=1, pooled=1),
]


def conventions() -> Iterator[Convention]:
    values = product(
        (1, 2), (1, STEPS), (1, STEPS), ("none", "linear", "quadratic"), (0, 1, 2, 4, 5), ("none", "value", "column")
    )
    for each, steps, first, attention, norm, bias in values:
        for neurons, pooled in product((0, 1), (0, 1)):
            yield Convention(each, steps, first, attention, norm, bias, neurons, pooled)


@dataclass(frozen=True)
class Reading:
    """Where the C x C mixer is, the control and the processing module, and the time steps that have feedback: those of
    the last of 2 segments, of the last 3 of 4, or all 4, as if the first segment had it too."""

    mixer: str
    cm: int
    pm: int
    fed: int

    def added(self, name: str, counts: dict[tuple[str, str, int, int, int], Counts], base: Counts) -> Counts:
        """What the feedback of all blocks adds."""
        two, three = (counts[name, self.mixer, self.cm, self.pm, n] - base for n in (2, 4))
        return {2: two, 3: three, 4: three * 2 - two}[self.fed]


READINGS = [Reading(*values) for values in product(("concat", "processing"), (1, 2, 3), (1, 2, 3, 4), (2, 3, 4))]
LETTERS = {"concat": "a", "processing": "b"}


def error(found: float, printed: float) -> float:
    return found / printed - 1


def agrees(found: float, printed: float) -> bool:
    """To the two printed decimals, rounded or cut off."""
    return printed - 0.005 <= found < printed + 0.01


def baselines(base: dict[str, Counts]) -> str:
    rows = []
    for convention in NAMED:
        found = {name: convention.of(base[name]) for name in BASELINES}
        cells = [f"{value:.4f} ({error(value, BASELINES[name]):+.2%})" for name, value in found.items()]
        same = all(agrees(found[name], BASELINES[name]) for name in BASELINES)
        rows.append([convention.words(), *cells, "yes" if same else "no"])
    return table(["counted", *(f"{name}: {gflop}" for name, gflop in BASELINES.items()), "to the digit"], rows)


def additions(base: dict[str, Counts], fed: dict[tuple[str, str, int, int, int], Counts]) -> str:
    """By reading and time, those that cost the same in one row; beside what is printed."""
    rows: dict[tuple[str, ...], list[Reading]] = {}
    for reading in READINGS:
        cells = []
        for name, counts in base.items():
            more = reading.added(name, fed, counts)
            rest = more.norm + more.bias + more.neurons
            cells += [f"{(more.products + more.core) / GIGA:.4f}", f"{rest / GIGA:.4f}"]
        rows.setdefault((LETTERS[reading.mixer], str(reading.fed), *cells), []).append(reading)
    told = []
    for (letter, steps, *cells), same in rows.items():
        cms, pms = ("".join(map(str, sorted({getattr(r, key) for r in same}))) for key in ("cm", "pm"))
        told.append([letter, steps, f"CM {', '.join(cms)}; V {', '.join(pms)}", *cells])
    for cm, word in ((1, "CM1, CM2"), (3, "CM3")):
        printed = [f"{FED_BACK[name][cm] - BASELINES[name]:.2f}" for name in BASELINES]
        told.append(["printed", "", word, printed[0], "", printed[1], ""])
    head = ["reading", "steps fed", "modules"]
    return table(head + [f"{name}: {what}" for name in BASELINES for what in ("multiply-adds", "other")], told)


def searched(base: dict[str, Counts], fed: dict[tuple[str, str, int, int, int], Counts]) -> str:
    """How many of all combinations give the printed totals within 1 %, and how near the nearest is."""
    every = list(conventions())
    within = [c for c in every if all(abs(error(c.of(base[n]), v)) <= 0.01 for n, v in BASELINES.items())]
    exact = sum(all(agrees(c.of(base[n]), v) for n, v in BASELINES.items()) for c in every)
    lines = [
        f"Of {len(every)} conventions {len(within)} give both baselines within 1 %, {exact} to the printed digits; "
        f"all {len(within)} count {_all(within)}."
    ]
    more = {(reading, name): reading.added(name, fed, base[name]) for reading in READINGS for name in base}
    rows = []
    for mixer, steps in product(LETTERS, (2, 3, 4)):
        own = [r for r in READINGS if (r.mixer, r.fed) == (mixer, steps)]
        errors = [
            [error(c.of(base[n] + more[r, n]), FED_BACK[n][r.cm]) for n in BASELINES] for r in own for c in within
        ]
        fits = [sum(abs(one[i]) <= 0.01 for one in errors) for i in range(len(BASELINES))]
        fits.append(sum(max(map(abs, one)) <= 0.01 for one in errors))
        nearest = min(errors, key=lambda one: max(map(abs, one)))
        rows.append([LETTERS[mixer], str(steps), str(len(errors)), *map(str, fits), *(f"{e:+.2%}" for e in nearest)])
    head = [
        "reading",
        "steps fed",
        "tried",
        *(f"{name} within 1 %" for name in BASELINES),
        "both",
        "nearest of both",
        "",
    ]
    return "\n\n".join([*lines, table(head, rows)])


def _all(found: list[Convention]) -> str:
    words = {f"{c.each} a multiply-add" for c in found}, {f"{c.steps} steps" for c in found}
    return " and ".join("/".join(sorted(one)) for one in words)


def matrices() -> str:
    """Printed additions as multiples of one C x C product a block, over all tokens and steps."""
    rows = []
    for name, blocks, width in (("spikformer_4_384", 4, 384), ("sdt_2_256", 2, 256)):
        one = blocks * width * width * 64 * STEPS / GIGA
        for cm, word in ((1, "CM1, CM2"), (3, "CM3")):
            add = FED_BACK[name][cm] - BASELINES[name]
            low, high = ((add + d) / one for d in (-0.01, 0.01))
            rows.append([name, word, f"{one:.4f}", f"{add:.2f}", f"{add / one:.2f} ({low:.2f} to {high:.2f})"])
    return table(["model", "modules", "one C x C a block", "printed", "as so many of it (by the rounding)"], rows)


def power(counts: dict[int, Counts]) -> str:
    """The mean rate that explains the printed energy at each size, and what the rate at 224 gives for the others."""
    rows = []
    for each, first, attention in product((1, 2), (1, STEPS), ("linear", "quadratic")):
        rates, told = {}, {}
        for pixels, c in counts.items():
            rest = each * (c.products + (c.linear if attention == "linear" else c.quadratic))
            picture = each * c.first * MAC * first / STEPS
            rates[pixels] = (POWER[pixels] * MILLI - picture) / (rest * AC)
            told[pixels] = (picture + rates[224] * rest * AC) / MILLI
        off = [f"{told[p]:.2f} ({error(told[p], POWER[p]):+.2%})" for p in (288, 384)]
        word = {1: "once", STEPS: "at each step"}[first]
        rows.append([str(each), word, attention, *(f"{rate:.4f}" for rate in rates.values()), *off])
    head = ["operations a multiply-add", "picture's convolution", "attention", *(f"rate at {p}" for p in POWER)]
    return table([*head, f"288 by that of 224: {POWER[288]}", f"384: {POWER[384]}"], rows)


def stages(counts: dict[int, dict[str, Counts]]) -> str:
    """Multiply-adds by part of the network, a time step."""
    parts = {f"{word} {i + 1}": f"backbone.{key}.{i}." for i in range(3) for word, key in PARTS.items()}
    told = {word: [_of_part(layers, prefix) for layers in counts.values()] for word, prefix in parts.items()}
    told["picture's convolution"] = [sum(c.first for c in layers.values()) for layers in counts.values()]
    told["all, with the head"] = [
        _of_part(layers, "") + told["picture's convolution"][i] for i, layers in enumerate(counts.values())
    ]
    rows = [[word, *(f"{value / STEPS / GIGA:.3f}" for value in values)] for word, values in told.items()]
    return table(["GMAC a time step (attention linear)", *(f"{pixels}" for pixels in counts)], rows)


PARTS = {"embedding": "embeds", "blocks of stage": "stages"}


def _of_part(layers: dict[str, Counts], prefix: str) -> float:
    return sum(c.products + c.linear for key, c in layers.items() if key.startswith(prefix))


def feedback_energy() -> str:
    """Table 1's additions, and what a C x C product a block costs at a rate of 0.05."""
    rows = []
    for blocks, pixels, printed in ADDED:
        count_of = {"last": 1, "all": 7}[blocks]
        one = count_of * 768**2 * (pixels // 16) ** 2 * STEPS * AC / MILLI
        add = printed - POWER[pixels]
        cells = [f"{one * 0.05 * share:.3f}" for share in (1 / 2, 3 / 4, 1)]
        low, high = ((add + d) / one for d in (-0.01, 0.01))
        rows.append([str(count_of), str(pixels), f"{add:.2f}", *cells, f"{add / one:.3f} ({low:.3f} to {high:.3f})"])
    steps = [f"{n} steps" for n in (2, 3, 4)]
    return table(
        ["blocks", "pixels", "printed mJ", *(f"at 0.05, {s}" for s in steps), "rate that gives it, 4 steps"], rows
    )


def main() -> None:
    base = {name: count(name)[0] for name in BASELINES}
    fed = {
        (name, mixer, cm, pm, n): count(name, feedback="all", segments=n, mixer=mixer, cm=cm, pm=pm)[0]
        for name, mixer, cm, pm, n in product(base, LETTERS, (1, 2, 3), (1, 2, 3, 4), (2, 4))
    }
    sizes = {pixels: count("hst_10_768", image_size=pixels) for pixels in POWER}
    counter = Convention(norm=2, bias="column", neurons=1, pooled=1).of(base["spikformer_4_384"])
    assert isclose(counter * GIGA, COUNTER, abs_tol=0.5)
    print(
        machine(),
        baselines(base),
        matrices(),
        additions(base, fed),
        searched(base, fed),
        stages({pixels: layers for pixels, (_, layers) in sizes.items()}),
        power({pixels: whole for pixels, (whole, _) in sizes.items()}),
        feedback_energy(),
        sep="\n\n",
    )


if __name__ == "__main__":
    main()
