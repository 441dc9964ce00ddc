"""What a forward pass does, counted, against counting by hand: loops over a small convolution, and each unit's and each
attention's spikes in whole models."""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdformer import TDFormer
from tdformer.attention import QKAttention, SelfAttention, SpikeDrivenAttention
from tdformer.backbones import Block
from tdformer.backbones.qkformer import Embed
from tdformer.backbones.sdt import Stem as SDTStem
from tdformer.backbones.spikformer import Stem
from tdformer.feedback import Control, Processing
from tdformer.measure import count
from tdformer.measure.operations import FEEDBACK, HEAD, Counted, Row, products, synapses
from tdformer.neuron import Neuron
from tdformer.unit import Current, Unit

Counts = dict[str, float]


def by_loops(x: Tensor, out: int, kernel: int, stride: int, padding: int, groups: int) -> Counts:
    """Each number of x `[C, H, W]` that is not zero, and each output that it reaches."""
    channels, height, width = x.shape
    found: Counts = defaultdict(float)
    sizes = [(n + 2 * padding - kernel) // stride + 1 for n in (height, width)]
    real = not bool((x == x.floor()).all() and x.min() >= 0)
    for o, i, j, c, a, b in product(
        range(out), range(sizes[0]), range(sizes[1]), range(channels // groups), range(kernel), range(kernel)
    ):
        found["dense"] += 1
        row, column = i * stride + a - padding, j * stride + b - padding
        if 0 <= row < height and 0 <= column < width:
            value = float(x[o // (out // groups) * (channels // groups) + c, row, column])
            if real:
                found["mac"] += value != 0
            else:
                found["ac"] += value == 1
                found["several"] += value > 1
                found["additions"] += value if value > 1 else 0
    return found


@pytest.mark.parametrize("kind", ["spikes", "sums", "real"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"),
    [(1, 1, 0, 1), (1, 2, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 0, 2), (3, 2, 0, 4), (5, 3, 2, 2)],
)
def test_a_convolution_is_what_loops_count(kind: str, kernel: int, stride: int, padding: int, groups: int) -> None:
    torch.manual_seed(0)
    x = {"spikes": torch.rand(2, 4, 7, 6) < 0.3, "sums": torch.randint(0, 4, (2, 4, 7, 6)), "real": torch.randn(8, 42)}
    images = x[kind].float().view(2, 4, 7, 6)
    images[:, :, ::3] = 0
    got = synapses(images, torch.zeros(8, 4 // groups, kernel, kernel), stride, padding, groups=groups)
    for number, image in enumerate(images):
        wanted = by_loops(image, 8, kernel, stride, padding, groups)
        assert got["dense"] / 2 == wanted.pop("dense")
        found = {key: float(got[key][number]) for key in got.keys() & {"mac", "ac", "several", "additions"}}
        assert {k: v for k, v in found.items() if v} == {k: v for k, v in wanted.items() if v} != {}


@pytest.mark.parametrize(("left", "right"), [(1, 1), (1, 3), (3, 1), (3, 3), (0, 1), (1, 0), (0, 3), (0, 0)])
def test_a_product_is_what_loops_count(left: int, right: int) -> None:
    """Factors of spikes (1), sums of up to 3, or real numbers (0)."""
    torch.manual_seed(1)
    a, b = (torch.randint(0, most + 1, (2, 3, 5)).float() if most else torch.randn(2, 3, 5) for most in (left, right))
    a[0, 1], b[1, 0, 2] = 0, 0
    got = products(a, b.mT)
    order = (1, 3, 0)
    for n, m in product(range(2), range(3)):
        wanted: Counts = defaultdict(float)
        for other, k in product(range(3), range(5)):
            x, y = float(a[n, m, k]), float(b[n, other, k])
            decides = x if order.index(left) <= order.index(right) else y
            if x and y and not left and not right:
                wanted["mac"] += 1
            elif x and y:
                wanted["ac"] += decides == 1
                wanted["several"] += decides > 1
                wanted["additions"] += decides if decides > 1 else 0
        found = {key: float(got[key][n * 3 + m]) for key in got.keys() & {"mac", "ac", "several", "additions"}}
        assert {k: v for k, v in found.items() if v} == {k: v for k, v in wanted.items() if v}


def meetings(x: Tensor) -> dict[str, Tensor]:
    """With a weight, of spikes and sums of them."""
    return {"ac": x == 1, "several": x > 1, "additions": x * (x > 1)}


class ByHand:
    """What units, attentions and blocks of a model are given and give, in order, and what that is in operations."""

    def __init__(self, model: TDFormer) -> None:
        self.names = {module: name for name, module in model.named_modules()}
        self.per, self.found = model.time_steps // model.segments, defaultdict(lambda: defaultdict(float))
        self.step = 0
        self.outputs: dict[nn.Module, Tensor] = {}
        kinds = (Unit, Current, Neuron, Block, Stem, SDTStem, Embed, Control, type(model.backbone))
        self.hooks = [
            module.register_forward_hook(self.saw, with_kwargs=True)
            for module in self.names
            if isinstance(module, kinds)
        ]

    def add(self, unit: str, operation: str, key: str, values: Any) -> None:
        """values: a tensor `[steps, ...]`."""
        for t, value in enumerate(values):
            self.found[unit, operation, self.step + t][key] += float(value.sum())

    def saw(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        x = args[0]
        self.step = args[-1].segment * self.per if hasattr(args[-1], "segment") else self.step
        for state in (a for a in args if hasattr(a, "segment")):
            self.step = state.segment * self.per
        self.outputs[module] = output
        if isinstance(module, Unit):
            self.current(module.current, x)
            if len(args) > 2 and args[2] is not None:
                self.conv(args[3], args[2])
            self.neuron(module.neuron, output)
        elif isinstance(module, Current):
            self.current(module, x)
        elif isinstance(module, Neuron):
            if len(args) > 2:
                self.driven(module, x, args[3] if len(args) > 3 else ())
            self.neuron(module, output)
        else:
            self.sums(module, x, args)

    def conv(self, conv: nn.Conv2d, x: Tensor) -> None:
        name, kernel = self.names[conv], conv.kernel_size[0]
        real = not bool((x == x.floor()).all() and x.min() >= 0)
        for t, frame in enumerate(x):
            taps = F.unfold(frame.double(), kernel, padding=conv.padding, stride=conv.stride)
            self.found[name, "convolution", self.step + t]["dense"] += taps.numel() * conv.out_channels
            parts = (
                {"mac": taps != 0} if real else {"ac": taps == 1, "several": taps > 1, "additions": taps * (taps > 1)}
            )
            for key, value in parts.items():
                self.found[name, "convolution", self.step + t][key] += float(value.sum()) * conv.out_channels

    def current(self, current: Current, x: Tensor) -> None:
        self.conv(current.conv, x)
        if current.pool:
            height, width = (-(-n // current.conv.stride[0]) for n in x.shape[-2:])
            planes = torch.ones(x.shape[0], x.shape[1] * current.conv.out_channels, height, width)
            taps = F.unfold(planes.flatten(0, 1)[:, None], 3, padding=1, stride=2).view(x.shape[0], -1)
            self.add(self.names[current], "max", "compare", taps)
            self.add(self.names[current], "max", "compare", -torch.ones(x.shape[0], taps.shape[1] // 9))

    def neuron(self, neuron: Neuron, spikes: Tensor) -> None:
        for key in ("mul", "ac", "compare", "potentials"):
            self.add(self.names[neuron], "neuron", key, torch.ones_like(spikes))
        self.add(self.names[neuron], "neuron", "fired", spikes)
        if neuron.options.v_reset is None:
            self.add(self.names[neuron], "neuron", "ac", spikes)

    def driven(self, neuron: Neuron, x: Any, weights: tuple[Tensor, ...]) -> None:
        name = self.names[neuron]
        above = next(m for m, n in self.names.items() if n == name.rpartition(".")[0])
        if isinstance(above, SelfAttention):
            q, k, v = (s.flatten(3).unflatten(2, (above.heads, -1)) for s in x)  # [T, B, h, d, n]
            if q.shape[3] <= q.shape[4]:
                first = torch.einsum("tbhdn,tbhen->tbhde", k, v)
                second = torch.einsum("tbhde,tbhdn->t", (first != 0).to(q.dtype), q)
                scaled = torch.einsum("tbhde,tbhdn->tben", first, q) if above.heads == 1 else None
            else:
                first = torch.einsum("tbhdn,tbhdm->tbhnm", k, q)
                second = torch.einsum("tbhen,tbhnm->t", v, (first != 0).to(q.dtype))
                scaled = None
            attended = torch.einsum("tbhdn,tbhdm,tbhen->tbhem", k, q, v)
            assert scaled is None or torch.equal(scaled.sum(), attended.sum())
            for key in ("ac", "logic"):
                self.add(name, "product", key, first)
                self.add(name, "product", key, second)
            self.add(name, "scale", "mul", attended != 0)
        elif isinstance(above, QKAttention):
            self.add(name, "sum", "ac", x)
        elif isinstance(above, SpikeDrivenAttention):
            k, v = x
            if above.heads is None:
                self.add(name, "mask", "logic", k * v)
                self.add(name, "sum", "ac", k * v)
        elif isinstance(above, Control):  # CM3: its mixer's convolution
            self.found[self.names[above.mix], "convolution", self.step]["ac"] += 0
            self.conv(above.mix, x)
        else:
            assert isinstance(above, Processing)
            if above.core:
                for key, value in meetings(x).items():
                    self.add(self.names[above], "linear", key, value)
                gate = torch.einsum("tbchw,c->tbhw", x, weights[0])
                self.add(name, "clamp", "compare", 2 * torch.ones_like(gate))
                gate = gate.clamp(above.low, above.high)[:, :, None]
                self.add(name, "mask", "logic", (x == 1) & (gate != 0) | (x > 1) & (gate == 1))
                self.add(name, "mask", "mul", (x > 1) & (gate != 0) & (gate != 1))
            if above.biased:
                self.add(self.names[above], "add", "ac", x != 0)

    def sums(self, module: nn.Module, x: Tensor, args: Any) -> None:
        """Residual sums, and pooling of spikes."""
        name = self.names[module]
        both: list[tuple[Tensor, Tensor]] = []
        if isinstance(module, Block):
            attended, mlp = (self.outputs[part] for part in self.branches(module))
            both = [(x, attended), (x + attended, mlp)]
        elif isinstance(module, Embed):
            both = [(self.outputs[module.units[-1]], self.outputs[module.shortcut])]
        elif isinstance(module, Stem):
            last = self.outputs[module.units[-1]]
            last = self.pooled(name, last) if module.pools[3] else last
            both = [(last, self.outputs[module.position])]
            for i in range(3):
                if module.pools[i]:
                    self.pooled(name, self.outputs[module.units[i]])
        elif isinstance(module, SDTStem):
            both = [(self.outputs[module.currents[3]], self.outputs[module.position])]
            for i in range(3):
                if module.pools[i]:
                    self.pooled(name, self.outputs[module.neurons[i]])
        elif isinstance(module, Control) and module.mix is None:
            both = [(x, self.outputs[module.processing.neuron])]
        elif isinstance(module, Control) and module.input is not None:
            both = [(x, self.outputs[module.input])]
        elif hasattr(module, "sizes"):
            high = self.outputs[module.parts()[-1]]
            self.add(name, "mean", "ac", high != 0)
            self.add(name, "mean", "mul", torch.ones(high.shape[:3]))
        for a, b in both:
            self.add(name, "add", "ac", (a != 0) & (b != 0))

    def branches(self, block: Block) -> tuple[nn.Module, nn.Module]:
        """What gives the output of attention and of the perceptron; and its masks, which are in no module."""
        attention = block.attention
        if isinstance(attention, QKAttention):
            k, mask = (self.outputs[m] for m in (attention.k, attention.mask))
            self.add(self.names[attention], "mask", "logic", mask * k.flatten(3).unflatten(2, (attention.heads, -1)))
        elif isinstance(attention, SpikeDrivenAttention) and attention.heads is None:
            q, mask = self.outputs[attention.q], self.outputs[attention.mask]
            self.add(self.names[attention], "mask", "logic", q * mask)
        return attention.proj, block.mlp.fc2

    def pooled(self, name: str, x: Tensor) -> Tensor:
        self.add(
            name,
            "max",
            "logic",
            F.unfold(x.flatten(1, 2).flatten(0, 1)[:, None], 3, padding=1, stride=2).view(len(x), -1),
        )
        return F.max_pool2d(x.flatten(0, 1), 3, 2, 1).unflatten(0, x.shape[:2])


DONE = ("dense", "mac", "ac", "several", "additions", "mul", "compare", "logic", "fired", "potentials")


def summed(rows: list[Row]) -> dict[tuple[str, str, int], Counts]:
    found: dict[tuple[str, str, int], Counts] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        if row.step is not None:
            for key in DONE:
                found[row.unit, row.operation, row.step][key] += getattr(row, key)
    return found


def compared(model: TDFormer, x: Tensor) -> Counted:
    """Counted, and the same by hand."""
    hand = ByHand(model)
    with torch.no_grad():
        expected = model.eval()(x)
    for hook in hand.hooks:
        hook.remove()
    counted = count(model, x)
    assert counted.unknown == [] and counted.images == x.shape[-4]
    ours = summed(counted.rows)
    assert set(ours) == set(hand.found)
    for place, wanted in hand.found.items():
        if place[1] in ("product", "linear"):
            ours[place].pop("dense")
        got = {key: value for key, value in ours[place].items() if value}
        assert got == {key: value for key, value in wanted.items() if value}, place
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    return counted


CASES = [
    ("tiny_spikformer", {}),
    ("tiny_spikformer", {"segments": 2, "feedback": "all"}),
    ("tiny_spikformer", {"segments": 4, "feedback": "first", "cm": 2, "pm": 2}),
    ("tiny_spikformer", {"segments": 2, "feedback": "all", "cm": 3, "pm": 3, "v_reset": None}),
    ("tiny_spikformer", {"segments": 2, "feedback": "last", "cm": 1, "pm": 4}),
    ("tiny_spikformer", {"segments": 2, "feedback": "all", "cm": 3, "mixer": "processing"}),
    ("tiny_spikformer", {"segments": 2, "feedback": "all", "cm": 2, "pm": 2, "mixer": "add", "neuron": "plif"}),
    ("tiny_sdt", {"segments": 2, "feedback": "all"}),
    ("tiny_sdt", {"segments": 4, "feedback": "all", "cm": 3, "pm": 4}),
    ("tiny_sdt", {"segments": 2, "feedback": "last", "cm": 2, "mixer": "processing"}),
    ("tiny_hst", {"segments": 2, "feedback": "all", "cm": 2}),
    ("tiny_hst", {"segments": 1, "time_steps": 3}),
    ("tiny_hst_imagenet", {"segments": 2, "feedback": "all", "cm": 3, "pm": 2}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_model_does_what_is_counted_by_hand(tiny, calibrate, name: str, options: dict[str, Any]) -> None:
    """Each count of each operation, of each unit at each time step; and nothing runs that is in no row."""
    model = tiny(name, torch.float32, **options)
    size = model.config["image_size"][0]
    x = torch.rand(2, 3, size, size)
    calibrate(model, torch.rand(4, 3, size, size))
    rows = compared(model, x).rows
    fed = [row for row in rows if row.part == FEEDBACK]
    assert {row.segment for row in fed if ".control." in row.unit} == set(range(1, model.segments))
    assert bool(fed) == bool(model.config["feedback"])
    first = [row for row in rows if row.mac and row.part != HEAD]
    assert len(first) == model.segments and {row.unit for row in first} == {first[0].unit}  # the pixels' layer alone
    summed = options.get("cm") == 3 or options.get("mixer", "concat") != "concat"
    assert any(row.several for row in rows) == (summed or not name.startswith("tiny_sdt"))
