"""Every operation of a forward pass in evaluation, by unit and time step, counted from what ran.

A row says what came in (how many numbers, how many that are not zero, what kind they are) and what was done with it:

| count | what it is |
| mac | a real number times a weight (or another real number), and added |
| ac | an addition: a weight for each output that a spike reaches; a number that a spike lets through; one to a sum |
| several | where a sum of k > 1 spikes meets a weight; `additions` are the k additions each of them is |
| mul | a multiplication alone: a leak, a scale |
| compare | with a threshold or a bound, or of two numbers in a pooling |
| logic | AND or OR of spikes, or a number that a 1 lets through as it is |

Only what is not zero is counted: what a zero reaches costs nothing, and what reaches into the padding is not done.
Biases and the shift of a folded BatchNorm are what an accumulator starts from, and free; its scale is in the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ..kernels import attention
from ..model import TDFormer
from ..neuron import Neuron
from ..packing import WIDTHS
from ..registry import create_model
from ..state import State
from ..unit import Current, Unit

SPIKES, INTEGERS, REAL = "spikes", "integers", "real"
KINDS = (SPIKES, INTEGERS, REAL)
"""What numbers can be: all 0 or 1; sums of spikes; any."""
FEEDBACK, HEAD = "feedback", "head"
"""Parts beside the backbone's own: what feedback adds, and what lies behind the last one."""
LARGEST = 2**24
"""Integers from here on are not told from real numbers in fp32."""

_aten = torch.ops.aten

Number = int | Tensor
Counts = dict[str, str | Number]
"""What an operation does, by the names of a `Row`; the kind of what comes in is a word."""
Sides = int | tuple[int, ...] | list[int]
"""Of a window, in each direction: its stride, its dilation, its padding."""


class Row(NamedTuple):
    """One operation of one unit at one time step, over all images that were given: see the table above.

    All counts are of all images, but `parameters` and `stored`, which are of one.

    unit: a module's dotted name; part: the backbone's part that it is in, "feedback" or "head"; step: from 0, over all
    segments; None for what is done once a segment. kind, inputs, events: of what comes in, how many numbers and how
    many that are not zero; values: their sum, of spikes and integers.
    """

    unit: str
    part: str
    operation: str
    segment: int
    step: int | None
    kind: str = SPIKES
    inputs: int = 0
    events: int = 0
    values: int = 0
    dense: int = 0
    """Multiply-adds of the same operation on real numbers, zeros and padding too."""
    mac: int = 0
    ac: int = 0
    several: int = 0
    additions: int = 0
    mul: int = 0
    compare: int = 0
    logic: int = 0
    taps: int = 0
    """Of a convolution of spikes: positions of its kernel under them."""
    outputs: int = 0
    fired: int = 0
    """Outputs of a neuron that are not zero."""
    norm: int = 0
    """Values that a BatchNorm would scale and shift if it were not folded."""
    parameters: int = 0
    """Read for an image, once a segment: a unit computes all its steps with them."""
    stored: int = 0
    """Numbers that the other factor has for an image: weights, or the second of two activations."""
    potentials: int = 0
    """Membrane potentials that are read and written."""
    bits: int = 0
    """Of spikes and integers that are read or written, in 1, 2, 4, 8, 16 or 32 bits a number."""
    reals: int = 0
    """Real numbers that are read or written."""


COUNTS = tuple(name for name in Row._fields if isinstance(Row._field_defaults.get(name), int))


class Counted(NamedTuple):
    """rows in the order of computation; images: over how many they are sums; unknown: what ran and is in no row, a line
    each."""

    rows: list[Row]
    images: int
    unknown: list[str]

    def joined(self, other: Counted) -> Counted:
        """With the same model's counts of other images."""
        rows = [_joined(a, b) for a, b in zip(self.rows, other.rows, strict=True)]
        return Counted(rows, self.images + other.images, list(dict.fromkeys([*self.unknown, *other.unknown])))


def _joined(a: Row, b: Row) -> Row:
    sums = {name: getattr(a, name) + getattr(b, name) for name in COUNTS if name not in ("parameters", "stored")}
    return a._replace(kind=max(a.kind, b.kind, key=KINDS.index), **sums)


@torch.no_grad()
def count(model: TDFormer, images: Tensor) -> Counted:
    """Run a model in evaluation mode on images `[B, C, H, W]` or frames `[T, B, C, H, W]`, and count what it does. The
    model is left as it was. Raises ModelError as the model does."""
    recorder, training = _Recorder(model, images.shape[-4]), model.training
    hooks = [hook for name, module in model.named_modules() for hook in recorder.watch(name, module)]
    try:
        with recorder:
            model.eval()(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return Counted(recorder.rows, images.shape[-4], list(recorder.unknown))


def kind_of(x: Tensor) -> str:
    """Which of `KINDS` a tensor's numbers are."""
    if not x.numel():
        return SPIKES
    low, high = x.aminmax()
    if not (low >= 0 and high < LARGEST) or not bool((x == x.floor()).all()):
        return REAL
    return SPIKES if high <= 1 else INTEGERS


def _each(x: Tensor) -> Tensor:
    """`[L, ...]` -> the sums over all but the first dimension, `[L]`."""
    return x.flatten(1).sum(1, dtype=torch.float64) if x.dim() > 1 else x.double()


def _under(x: Tensor, kernel: Sequence[int], stride: Sides, padding: Sides | str, dilation: Sides = 1) -> Tensor:
    """x `[L, C, H, W]` -> how often a position of a kernel lies over each, summed with x, `[L]`."""
    ones = x.new_ones(1, 1, *kernel, dtype=torch.float64)
    planes = x.sum(1, keepdim=True, dtype=torch.float64)
    return _each(F.conv2d(planes, ones, None, stride, padding, dilation))


def synapses(
    x: Tensor, weight: Tensor, stride: Sides = 1, padding: Sides | str = 0, dilation: Sides = 1, groups: int = 1
) -> Counts:
    """What a convolution of x `[L, C, H, W]` with weight `[C', C / groups, k, k]` does, `[L]` each: every number that
    is not zero meets a weight for each output that it reaches, fewer at the borders and between strides."""
    kind, kernel, wide = kind_of(x), (weight.shape[2], weight.shape[3]), weight.shape[0] // groups

    def reached(of: Tensor) -> Tensor:
        return wide * _under(of, kernel, stride, padding, dilation)

    shape = F.conv2d(x.new_zeros(1, 1, *x.shape[2:]), x.new_zeros(1, 1, *kernel), None, stride, padding, dilation).shape
    outputs = weight.shape[0] * shape[2] * shape[3]
    found: Counts = {"kind": kind, "dense": len(x) * outputs * weight[0].numel(), "outputs": len(x) * outputs}
    if kind == REAL:
        return found | {"mac": reached(x != 0)}
    found |= {"ac": reached(x == 1), "taps": _each(x != 0) * kernel[0] * kernel[1]}
    return found | ({"several": reached(x > 1), "additions": reached(x * (x > 1))} if kind == INTEGERS else {})


def products(a: Tensor, b: Tensor) -> Counts:
    """What the products of a `[L, M, K]` and b `[L, K, N]` do, `[L M]` each: numbers of both that are not zero meet.
    The one of a lower kind decides: spikes let the other factor be added, sums of k spikes add it k times."""
    kinds = kind_of(a), kind_of(b)
    kind = min(kinds, key=KINDS.index)

    def pairs(of_a: Tensor, of_b: Tensor) -> Tensor:
        return (of_a.double() @ of_b.sum(2, dtype=torch.float64).unsqueeze(2)).flatten()

    def met(low: Callable[[Tensor], Tensor]) -> Tensor:
        return pairs(low(a), b != 0) if kinds[0] == kind else pairs(a != 0, low(b))

    found: Counts = {"kind": max(kinds, key=KINDS.index), "dense": a.numel() * b.shape[2]}
    found["outputs"] = a.shape[0] * a.shape[1] * b.shape[2]
    if kind == REAL:
        return found | {"mac": met(lambda x: x != 0)}
    found["ac"] = met(lambda x: x == 1)
    more = {"several": met(lambda x: x > 1), "additions": met(lambda x: x * (x > 1))} if kind == INTEGERS else {}
    return found | more


def elementwise(a: Tensor, b: Tensor) -> Counts:
    """What the product of two tensors `[L, ...]`, number by number, does, `[L]` each: a 1 lets the other through."""
    both, through = (a != 0) & (b != 0), (a == 1) | (b == 1)
    return {"outputs": both.numel(), "logic": _each(both & through), "mul": _each(both & ~through)}


class _Recorder(TorchDispatchMode):
    """Units and neurons are counted from what enters and leaves them, since their kernels are fused; between them every
    operator is."""

    def __init__(self, model: TDFormer, images: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[Row] = []
        self.unknown: dict[str, None] = {}
        self.images = images
        self.names = {module: name for name, module in model.named_modules()}
        self.part_of = _parts(model)
        self.owners = {_storage(p): name.rpartition(".")[0] for name, p in model.named_parameters()}
        self.copies: list[Tensor] = []
        """Of parameters."""
        self.state = State(steps=model.time_steps // model.segments)
        self.inside: list[str] = []
        """Names of the modules that are running, the innermost last."""
        self.fused = 0
        """How many of them are counted as a whole."""

    def watch(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        """Hooks that follow a module."""
        whole = isinstance(module, Unit | Current | Neuron)

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.inside.append(name)
            self.state = next((x for x in (*args, *kwargs.values()) if isinstance(x, State)), self.state)
            if isinstance(module, Neuron):
                module.drive(*args, **kwargs)  # the operators that make its current, which run inside
            self.fused += whole

        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if isinstance(module, Unit):
                self.unit(module, output, *args, **kwargs)
            elif isinstance(module, Current):
                self.current(module, args[0], output)
            elif isinstance(module, Neuron):
                driven = len(args) > 2 or "call" in kwargs
                self.neuron(module, output, None if driven else args[0])
            self.fused -= whole
            self.inside.pop()

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]

    def unit(
        self,
        unit: Unit,
        spikes: Tensor,
        x: Tensor,
        state: State,
        more: Tensor | None = None,
        layer: nn.Conv2d | None = None,
    ) -> None:
        self.current(unit.current, x, spikes, inside=True)
        if more is not None and layer is not None:
            self.convolution(layer, more)
        self.neuron(unit.neuron, spikes, None)

    def current(self, current: Current, x: Tensor, output: Tensor, inside: bool = False) -> None:
        """inside: a unit's, whose current goes on into its neuron."""
        outputs = self.convolution(current.conv, x, 0 if inside or current.pool else 1, normed=True)
        if current.pool:
            height, width = (-(-n // current.conv.stride[0]) for n in x.shape[-2:])
            taps = _under(x.new_ones(1, 1, height, width), (3, 3), 2, 1)
            pooled = x.shape[0] * x.shape[1] * output[0, 0].numel()
            compare = int(taps) * output.shape[2] * x.shape[0] * x.shape[1] - pooled
            found = {"inputs": outputs, "compare": compare, "outputs": pooled, "reals": 0 if inside else pooled}
            self.add(self.names[current], "max", len(x), [{"kind": REAL, "events": outputs, **found}])

    def convolution(self, layer: nn.Conv2d, x: Tensor, stored: int = 0, normed: bool = False) -> int:
        """Of x `[S, B, C, H, W]`. stored: whether its output is. Returns how many outputs there are."""
        found = synapses(x.flatten(0, 1), layer.weight, layer.stride, layer.padding, layer.dilation, layer.groups)
        outputs, weights = int(found["outputs"]), layer.weight.numel()
        found |= {"reals": stored * outputs, "norm": normed * outputs}
        once = {"parameters": weights + layer.out_channels, "stored": weights}
        self.add(self.names[layer], "convolution", len(x), [found, _read(x)], once)
        return outputs

    def neuron(self, neuron: Neuron, spikes: Tensor, current: Tensor | None) -> None:
        """current: where it was stored, and is read at each step; spikes `[T, ...]`."""
        each, fired = spikes.numel(), _each(spikes != 0)
        soft = neuron.options.v_reset is None
        found: Counts = {"kind": REAL, "inputs": each, "events": each, "outputs": each, "fired": fired, "bits": each}
        found |= {"mul": each, "ac": each, "compare": each, "potentials": each}
        reset = {"ac": fired if soft else 0}  # a subtraction; a hard reset is a write
        read = {"reals": 0 if current is None else each}
        self.add(self.names[neuron], "neuron", len(spikes), [found, reset, read])

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        result = func(*args, **(kwargs or {}))
        if self.fused:
            return result
        if func._overloadpacket is torch.ops.tdformer.product:
            self.attention(*args)
        else:
            self.operator(func, args, kwargs or {}, result)
        return result

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> None:
        """Products of heads and their scale, as the operators that they are where each is one."""
        y = q
        for a, b in attention.factors(q, k, v, heads):
            y = a @ b
            self.operator(_aten.bmm.default, (a, b), {}, y)
        y = y.unflatten(0, (*q.shape[:2], heads))
        self.operator(_aten.mul.Tensor, (y, scale), {}, y * scale)

    def operator(self, func: Any, args: Any, kwargs: Any, result: object) -> None:
        """Count one that ran between units, unless it only looks at a tensor in another shape, or copies it."""
        packet, made, read = func._overloadpacket, _tensors(result), _tensors((args, kwargs))
        given = {_storage(x) for x in read}
        if packet in _COPIES and len(read) == 1 and _storage(read[0]) in self.owners:  # in another type, under autocast
            self.owners[_storage(made[0])] = self.owners[_storage(read[0])]
            self.copies.append(made[0])  # so that its place stays its own
        if packet in _COPIES or not (any(_storage(x) not in given for x in made) or func._schema.is_mutable):
            return
        where = self.inside[-1] if self.inside else ""
        rule, weights = _RULES.get(packet), _Weights(self.owners)
        counted = None if rule is None else rule(made[0], *map(weights.stand_in, args), **kwargs)
        if counted is None:
            self.unknown[f"{where or 'the model'} computes {packet.__name__}, which is in no row"] = None
            return
        operation, operands, found = counted
        steps = self.state.steps or 1
        timed = where.startswith("backbone") and len(operands[0]) % steps == 0
        own = [x for x in operands if weights.owner(x) is not None]
        once = {"parameters": sum(x.numel() for x in own)}
        if len(operands) > 1:
            once["stored"] = once["parameters"] or operands[1].numel() // (self.images * (steps if timed else 1))
        unit = next((owner for owner in map(weights.owner, own) if owner is not None), where)
        if operation == "product" and own:
            operation = "linear"
        elif operation == "product":
            found["logic"] = found.get("ac", 0)  # whether both are there
        readings = [_read(x) for x in operands if weights.owner(x) is None]
        self.add(unit, operation, steps if timed else 0, [found, *readings, _stored(made[0])], once)

    def add(
        self,
        unit: str,
        operation: str,
        steps: int,
        found: Sequence[Mapping[str, str | Number]],
        once: dict[str, int] | None = None,
    ) -> None:
        """Rows of an operation. steps: how many it has, 0 for one that is of no step; found: counts to be added, each a
        tensor `[steps L]`, or a number that is the same at each step; once: `parameters` and `stored`."""
        first, number = self.state.segment * (self.state.steps or 1), max(1, steps)
        kind = str(next((counts["kind"] for counts in found if "kind" in counts), SPIKES))
        sums: list[dict[str, int]] = [{} for _ in range(number)]
        for counts in found:
            for key, value in counts.items():
                if key != "kind":
                    for of_step, own in zip(sums, _split(value, number), strict=True):
                        of_step[key] = of_step.get(key, 0) + own
        part, segment = self.part_of(unit), self.state.segment
        for t, of_step in enumerate(sums):
            of_step |= (once or {}) | ({"parameters": 0} if t else {})
            self.rows.append(Row(unit, part, operation, segment, first + t if steps else None, kind, **of_step))


class _Weights:
    """Parameters that an operator is given: whatever their values are, they are real and not zero."""

    def __init__(self, owners: dict[int, str]) -> None:
        self.owners, self.found = owners, dict[int, str]()

    def stand_in(self, x: object) -> object:
        if not isinstance(x, Tensor) or _storage(x) not in self.owners:
            return x
        weight = torch.full_like(x, 0.5)
        self.found[_storage(weight)] = self.owners[_storage(x)]
        return weight

    def owner(self, x: Tensor) -> str | None:
        """The module that a stand-in's parameter is of; None: it is an activation."""
        return self.found.get(_storage(x))


def _parts(model: TDFormer) -> Callable[[str], str]:
    """The part that a unit is in, by its name: "feedback" is what the same model without it does not have."""
    with torch.device("meta"):
        bare = {name for name, _ in create_model(**{**model.config, "feedback": "none"}).named_modules()}
    names = {module: name for name, module in model.named_modules()}
    added = [name for name in names.values() if name not in bare]
    parts = [names[part] for part in model.backbone.parts()]

    def of(unit: str) -> str:
        if any(f"{unit}.".startswith(f"{name}.") for name in added):
            return FEEDBACK
        inside = (part for part in parts if f"{unit}.".startswith(f"{part}."))
        return next(inside, HEAD).removeprefix("backbone.")

    return of


def _storage(x: Tensor) -> int:
    place: int = x.untyped_storage()._cdata
    return place


def _tensors(tree: object) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _read(x: Tensor) -> Counts:
    """What comes in with a tensor `[L, ...]`."""
    found: Counts = {"kind": kind_of(x), "inputs": x.numel(), "events": _each(x != 0)}
    return found | ({} if found["kind"] == REAL else {"values": _each(x)}) | _stored(x)


def _stored(x: Tensor) -> dict[str, Tensor]:
    """Bits of integers in as few as each image needs, and how many numbers are real: of `[T, B, C, H, W]`, `[T, B, C]`
    or a product's `[L, M, N]` for all of the first two dimensions, else of the first. So an image counts the same
    whatever is beside it."""
    by = x.flatten(0, 1).flatten(1) if x.dim() in (3, 5) else x.reshape(len(x), -1)
    whole = (by.amin(1) >= 0) & (by.amax(1) < LARGEST) & (by == by.floor()).all(1)
    largest, bits = by.amax(1), torch.full_like(by[:, 0], 32)
    for width in (16, *reversed(WIDTHS)):
        bits[largest < 1 << width] = width
    return {"bits": bits.double() * whole * by.shape[1], "reals": (~whole).double() * by.shape[1]}


def _split(value: str | Number, steps: int) -> list[int]:
    """A tensor `[steps L]`, or a number that is the same at each step, by steps."""
    if isinstance(value, Tensor):
        sums: list[float] = (value.view(steps, -1).sum(1) if len(value) % steps == 0 else value.sum()[None]).tolist()
        return [round(number) for number in sums]
    return [int(value) // steps] * steps


Rule = Callable[..., tuple[str, list[Tensor], Counts] | None]
"""(result, the operator's arguments) -> the name of the operation, what it reads, and its counts; None: not counted."""


def _convolution(
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    turned: bool,
    more: list[int],
    groups: int,
) -> tuple[str, list[Tensor], Counts] | None:
    if turned or x.dim() != 4:
        return None
    return "convolution", [x, weight], synapses(x, weight, stride, padding, dilation, groups)


def _product(y: Tensor, a: Tensor, b: Tensor) -> tuple[str, list[Tensor], Counts]:
    deep = a if a.dim() == 3 else a[None], b if b.dim() == 3 else b[None]
    return "product", [x.flatten(0, 1) for x in deep], products(*deep)


def _linear(y: Tensor, bias: Tensor, a: Tensor, b: Tensor, **_: object) -> tuple[str, list[Tensor], Counts]:
    return _product(y, a, b)


def _times(y: Tensor, a: Tensor, b: object) -> tuple[str, list[Tensor], Counts]:
    if not isinstance(b, Tensor) or not b.dim():
        return "scale", [a], {"mul": _each(a != 0), "outputs": y.numel()}
    return "mask", [a, b], elementwise(*torch.broadcast_tensors(a, b))


def _plus(y: Tensor, a: Tensor, b: object, **_: object) -> tuple[str, list[Tensor], Counts] | None:
    if not isinstance(b, Tensor):
        return None
    of_a, of_b = torch.broadcast_tensors(a, b)
    return "add", [a, b], {"ac": _each((of_a != 0) & (of_b != 0)), "outputs": y.numel()}


def _sum(y: Tensor, x: Tensor, *_: object, **__: object) -> tuple[str, list[Tensor], Counts]:
    return "sum", [x], {"ac": _each(x != 0), "outputs": y.numel()}


def _mean(y: Tensor, x: Tensor, *_: object, **__: object) -> tuple[str, list[Tensor], Counts]:
    return "mean", [x], {"ac": _each(x != 0), "mul": y.numel(), "outputs": y.numel()}


def _clamp(y: Tensor, x: Tensor, low: object = None, high: object = None) -> tuple[str, list[Tensor], Counts]:
    bounds = (low is not None) + (high is not None)
    return "clamp", [x], {"compare": bounds * x.numel(), "outputs": y.numel()}


def _max(
    y: Tensor, x: Tensor, kernel: list[int], stride: Sides = (), padding: Sides = 0, dilation: Sides = 1, *_: object
) -> tuple[str, list[Tensor], Counts]:
    under = (tuple(kernel) * 2)[:2], stride or kernel, padding, dilation
    found: Counts = {"outputs": y.numel()}
    if kind_of(x) == SPIKES:
        return "max", [x], found | {"logic": _under(x, *under)}
    return "max", [x], found | {"compare": _under(torch.ones_like(x), *under) - _each(torch.ones_like(y))}


_RULES: dict[object, Rule] = {
    _aten.convolution: _convolution,
    _aten.bmm: _product,
    _aten.mm: _product,
    _aten.addmm: _linear,
    _aten.mul: _times,
    _aten.add: _plus,
    _aten.sum: _sum,
    _aten.mean: _mean,
    _aten.clamp: _clamp,
    _aten.max_pool2d_with_indices: _max,
}
_COPIES = {
    getattr(_aten, name)
    for name in (
        *("empty", "empty_like", "empty_strided", "new_empty", "zeros", "zeros_like", "new_zeros", "ones", "ones_like"),
        *("new_ones", "full", "full_like", "new_full", "scalar_tensor", "arange", "lift_fresh", "lift_fresh_copy"),
        *("clone", "copy_", "_to_copy", "cat", "stack", "fill_", "zero_", "constant_pad_nd", "index_select", "index"),
    )
}
