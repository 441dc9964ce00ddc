"""Prices of counted operations, each held to arithmetic that is written out; and what is beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tdformer import TDFormer, create_model
from tdformer.backbones import MODELS, Backbone, Entry, Given
from tdformer.measure import Counted, Row, count, measure_evaluation
from tdformer.measure.energy import (
    AC,
    MAC,
    PRICES,
    Prices,
    arithmetic,
    as_ann,
    break_even,
    by_event,
    by_layer,
    conventional,
    energies,
    firing_rate,
)
from tdformer.measure.operations import COUNTS, REAL
from tdformer.state import State
from tdformer.unit import Unit


def of(operation: str, step: int = 0, unit: str = "u", **counts: int) -> Row:
    return Row(unit, "p", operation, 0, step, REAL if counts.get("mac") else "spikes", **counts)


def test_operations_cost_what_their_source_says() -> None:
    row = of("convolution", mac=10, ac=100, several=7, additions=20, mul=3, compare=5, logic=1000)
    paper, plain = PRICES[0], Prices("p", 2.0, 1.0, "")
    assert (paper.add, paper.multiply + paper.add) == pytest.approx((AC, MAC))
    assert arithmetic(row, plain) == 10 * 3 + 100 + 20 + 5 + 3 * 2  # k spikes are k additions
    assert arithmetic(row, plain, by_additions=False) == (10 + 7) * 3 + 100 + 5 + 3 * 2
    assert {(p.name, p.multiply, p.add) for p in PRICES if p.memory is None} == {
        ("fp32", 3.7, 0.9),
        ("int32", 3.1, 0.1),
        ("int8", 0.2, 0.03),
    }


def test_memory_by_layer() -> None:
    """Two images: 4 kB of parameters (10 pJ for 64 bits), 20 kB of potentials (20 pJ), and activations of an image in
    1 kB and in 100 kB (100 pJ)."""
    small = of("convolution", parameters=1000, bits=2 * 8000, unit="a")
    large = of("neuron", potentials=2 * 5000, reals=2 * 25_000, unit="b")
    cost = by_layer(Counted([small, large], 2, []))
    assert cost(small) == pytest.approx(2 * 1000 * 32 * 10 / 64 + 16_000 * 10 / 64)
    assert cost(large) == pytest.approx(2 * 10_000 * 32 * 20 / 64 + 50_000 * 32 * 100 / 64)
    huge = of("convolution", parameters=300_000, unit="a")
    assert by_layer(Counted([huge], 1, []))(huge) == pytest.approx(300_000 * 32 * 1300 / 64)  # DRAM


def test_memory_by_event() -> None:
    def access(numbers: float) -> float:
        return 1.09e-5 * numbers * 32 + 13.2

    row = of("convolution", inputs=400, events=60, ac=500, several=40, taps=540, outputs=800, norm=800)
    row = row._replace(stored=90, parameters=98)
    cost = by_event(Counted([row], 2, []))
    expected = 60 * access(200) + 540 * (access(90) + 2 * access(400)) + 800 * access(8) + 2 * 60 * 3.2 + 540 * 0.1
    assert cost(row) == pytest.approx(expected)
    real = row._replace(kind=REAL, mac=3000, ac=0, several=0)
    expected = 3000 * (access(200) + access(90)) + 800 * access(400) + 800 * access(8) + 1200 * 0.1
    assert cost(real) == pytest.approx(expected)
    neuron = of("neuron", potentials=800, outputs=800, fired=30)
    assert cost(neuron) == pytest.approx(2 * 800 * access(400) + 30 * access(400))
    assert cost(of("add", inputs=100, events=9, outputs=100)) == pytest.approx(9 * 2 * access(50))


def test_eqs_109_and_110() -> None:
    rows = [
        of("convolution", inputs=64, events=64, dense=1000, mac=900),
        of("convolution", inputs=100, events=20, values=30, dense=2000, ac=1),
        of("product", inputs=200, events=20, values=20, dense=500, ac=7),
        of("neuron", outputs=10, ac=10, fired=4),
        of("add", inputs=10, events=5, values=5, ac=5),
    ]
    assert conventional(Counted(rows, 2, [])) == pytest.approx((4.6 * 1000 + 0.9 * (0.3 * 2000 + 0.1 * 500)) / 2)
    assert firing_rate(rows) == 0.4 and firing_rate(rows[:3]) is None


@pytest.mark.parametrize("name", ["tiny_spikformer", "tiny_sdt", "tiny_hst_imagenet"])
def test_as_an_ann_it_has_the_multiply_adds_that_torch_counts(tiny, name: str) -> None:
    model = tiny(name, torch.float32, time_steps=1)
    x = torch.rand(2, 3, *model.config["image_size"])
    counted = count(model, x)
    assert 2 * sum(row.dense for row in counted.rows) == measure_evaluation(model, x).flops
    assert sum(row.mac for row in as_ann(counted).rows) == sum(row.dense for row in counted.rows)
    four = tiny(name, torch.float32, time_steps=4, segments=2, feedback="all")
    fed = as_ann(count(four, x)).rows
    own = [row for row in fed if ".control." not in row.unit]
    assert sum(row.dense for row in own) == sum(row.dense for row in counted.rows)  # one pass of four steps
    assert len(fed) > len(own)
    assert 2 * sum(row.dense for row in count(four, x).rows) == measure_evaluation(four, x).flops


EVENTS = ("events", "values", "ac", "several", "additions", "taps")


def scaled(row: Row, by: float) -> Row:
    """At another firing rate."""
    if row.operation == "neuron":
        return row._replace(fired=row.fired * by)
    if row.mac:
        return row
    names = (*EVENTS, "mul") if row.operation in ("scale", "mask") else EVENTS
    power = 2 if row.operation == "product" else 1
    return row._replace(**{name: getattr(row, name) * by**power for name in names})


@pytest.mark.parametrize("prices", PRICES, ids=lambda prices: prices.name)
def test_at_its_break_even_rate_it_costs_what_the_ann_costs(tiny, calibrate, prices: Prices) -> None:
    model = tiny("tiny_spikformer", torch.float32, segments=2, feedback="all")
    calibrate(model, torch.rand(4, 3, 16, 16))
    counted = count(model, torch.rand(2, 3, 16, 16))
    target = sum(map(sum, energies(as_ann(counted), prices)))
    rate, found = firing_rate(counted.rows), break_even(counted, prices)
    if found is None:
        silent = counted._replace(rows=[scaled(row, 0.0) for row in counted.rows])
        assert sum(map(sum, energies(silent, prices))) >= target
        return
    other = counted._replace(rows=[scaled(row, found / rate) for row in counted.rows])
    assert sum(map(sum, energies(other, prices))) == pytest.approx(target)
    assert firing_rate(other.rows) == pytest.approx(found)


def test_an_image_counts_the_same_whatever_is_beside_it(tiny, calibrate) -> None:
    """Also one that is black; frames too."""
    model = tiny("tiny_hst", segments=2, feedback="all", cm=3)
    calibrate(model, torch.rand(4, 3, 16, 16, dtype=torch.float64))
    x = torch.rand(4, 3, 3, 16, 16, dtype=torch.float64)
    x[:, 1] = 0
    for images, whole in ((x[0], count(model, x[0])), (x, count(model, x))):
        axis = images.dim() - 4
        one, *others = (count(model, part) for part in images.split(1, axis))
        for other in others:
            one = one.joined(other)
        assert one.images == whole.images == 3 and len(one.rows) == len(whole.rows)
        for a, b in zip(one.rows, whole.rows, strict=True):
            assert [getattr(a, name) for name in COUNTS] == [getattr(b, name) for name in COUNTS], a
    pixels = [row for row in whole.rows if row.mac and row.part == "embeds.0"]
    assert [row.step for row in pixels] == [0, 1, 2, 3]  # frames differ, a picture is convolved once a segment


def test_in_bf16_the_same_operations_are_counted(tiny, calibrate) -> None:
    """Weights come as copies then; feedback's projection is an operator between units."""
    model = tiny("tiny_spikformer", torch.float32, segments=2, feedback="all", cm=3)
    calibrate(model, torch.rand(4, 3, 16, 16))
    x = torch.rand(2, 3, 16, 16)
    whole = count(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        half = count(model, x)
    for a, b in zip(whole.rows, half.rows, strict=True):
        assert a[:3] == b[:3] and (a.dense, a.parameters, a.outputs) == (b.dense, b.parameters, b.outputs)
    assert {row.unit for row in half.rows if row.operation == "linear"} > {"head"}


@dataclass(frozen=True)
class Sizes:
    depth: int = 1


class Odd(Backbone[Sizes]):
    """A foreign backbone that does something of its own between its units."""

    def __init__(self, sizes: Sizes, given: Given) -> None:
        super().__init__(sizes, given)
        self.entry, self.width = Unit(given.units, given.in_channels, 4, kernel=3), 4
        self.free = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=False)

    def parts(self) -> list[nn.Module]:
        return [self.entry]

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        x = self.step(self.entry, state, x)
        x = self.free(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return torch.softmax(x.mean((3, 4)), 2), x


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[TDFormer]:
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS._entries))
    MODELS.register("odd", Entry(Odd, Sizes(), 8, 1, 3))
    model = create_model("odd")
    for parameter in model.backbone.entry.parameters():
        nn.init.ones_(parameter)
    yield model


def test_of_a_foreign_backbone_what_is_not_counted_is_named(odd: TDFormer) -> None:
    counted = count(odd, torch.rand(2, 1, 8, 8))
    assert counted.unknown == ["backbone computes _softmax, which is in no row"]
    free = [row for row in counted.rows if row.unit == "backbone.free"]
    assert [row.step for row in free] == [0, 1, 2, 3] and all(row.ac > 0 for row in free)
    assert {row.dense for row in free} == {2 * 4 * 4 * 4 * 2 * 9}
