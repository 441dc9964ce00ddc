"""What a model consists of, as one pass through it shows: units in their order, and what is fed back into what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..attention import borrowed
from ..feedback import Control
from ..model import TDFormer
from ..neuron import Neuron
from ..state import State
from ..unit import Current, Unit


@dataclass(frozen=True)
class Box:
    """A unit, a neuron that stands alone, or a module with parameters of its own (`parameters` counts those).

    name: in the whole model; kind: in some words; shape: of what leaves it for one image and step, `[C, H, W]`, None
    where the pass did not come to it; feedback: it is of a control or processing module.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    feedback: bool


@dataclass(frozen=True)
class Part:
    """A part of the backbone, or what lies behind all of them. rows: from the input to the output, the boxes in one
    take the same input, or are all of feedback."""

    name: str
    rows: tuple[tuple[Box, ...], ...]

    @property
    def boxes(self) -> list[Box]:
        return [box for row in self.rows for box in row]


@dataclass(frozen=True)
class Edge:
    """H of one segment, counted from 0, enters the control module of a part in a later one. into: what is steered."""

    source: int
    target: int
    part: str
    control: str
    into: str


@dataclass(frozen=True)
class Outline:
    """high: the shape of H_n, `[C, H, W]`; fires: the box that makes it, None where it is a sum of several."""

    parts: tuple[Part, ...]
    edges: tuple[Edge, ...]
    high: tuple[int, ...]
    fires: str | None

    @property
    def boxes(self) -> list[Box]:
        return [box for part in self.parts for box in part.boxes]


BEHIND = "head"
"""The name of what lies behind all parts."""


@torch.no_grad()
def outline(model: TDFormer, images: Tensor) -> Outline:
    """Of a model in evaluation mode, run once with images `[B, C, H, W]` or frames `[T, B, C, H, W]`, which may be
    zeros or on meta. Every parameter is in one box."""
    names = {module: name for name, module in model.named_modules()}
    controls = [name for module, name in names.items() if isinstance(module, Control)]
    boxed = dict(_boxed(model, ""))
    users = {id(parameter): user for user, parameter in borrowed(model)}
    seen = _run(model, images, {module: name for name, (module, _) in boxed.items()}, names)

    def box(name: str) -> Box:
        module, own = boxed[name]
        shape = seen.shapes.get(name)
        if shape is None and (user := next((users[id(p)] for p in own if id(p) in users), None)) is not None:
            shape = seen.shapes.get(names[user])  # which computes with it
        inside = any(name.startswith(f"{control}.") for control in controls)
        return Box(name, _kind(module), shape, sum(p.numel() for p in own), inside)

    parts = [names[part] for part in model.backbone.parts()]
    found = []
    for part in (*parts, BEHIND):
        of = [name for name in boxed if _part_of(name, parts) == (part if part != BEHIND else None)]
        found.append(Part(part, _rows([box(name) for name in of], seen.calls)))
    return Outline(tuple(found), tuple(seen.edges), seen.high, seen.fires)


def _part_of(name: str, parts: Sequence[str]) -> str | None:
    return next((part for part in parts if name == part or name.startswith(f"{part}.")), None)


def _boxed(module: nn.Module, name: str) -> Iterator[tuple[str, tuple[nn.Module, list[nn.Parameter]]]]:
    """Boxes below a module by name, with the parameters that each counts."""
    if isinstance(module, Unit | Current | Neuron):
        yield name, (module, list(module.parameters()))
        return
    own = list(module.parameters(recurse=False))
    if own:
        yield name, (module, own)
    for child, part in module.named_children():
        yield from _boxed(part, f"{name}.{child}" if name else child)


Calls = list[list[tuple[str, object]]]
"""Of each segment the boxes in the order in which they ran, with their input."""


@dataclass
class _Seen:
    """What hooks saw in a pass; see `Outline`."""

    calls: Calls = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    high: tuple[int, ...] = ()
    fires: str | None = None
    last: dict[str, Tensor] = field(default_factory=dict)


def _run(model: TDFormer, images: Tensor, boxes: dict[nn.Module, str], names: dict[nn.Module, str]) -> _Seen:
    seen = _Seen()
    parts = [names[part] for part in model.backbone.parts()]

    def ran(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            seen.calls[-1].append((name, inputs[0] if inputs else None))
            if isinstance(output, Tensor):
                seen.shapes[name] = tuple(output.shape[2:] if output.dim() > 2 else output.shape[1:])
                seen.last[name] = output

        return hook

    def steered(module: nn.Module, inputs: tuple[object, ...]) -> None:
        state = next(given for given in inputs if isinstance(given, State))
        assert isinstance(module, Control)
        if inputs[1] is not None:
            into = {1: "K", 2: "V", 3: "input"}[module.cm]
            part = _part_of(names[module], parts) or BEHIND
            seen.edges.append(Edge(state.segment - 1, state.segment, part, names[module], into))

    def begun(*_: object) -> None:
        seen.calls.append([])
        seen.last.clear()

    def ended(module: nn.Module, inputs: object, output: tuple[Tensor, Tensor]) -> None:
        high = output[1]
        seen.high = tuple(high.shape[2:])
        seen.fires = next((name for name, made in seen.last.items() if made is high), None)

    hooks = [module.register_forward_hook(ran(name)) for module, name in boxes.items()]
    hooks += [m.register_forward_pre_hook(steered) for m in names if isinstance(m, Control)]
    hooks += [model.backbone.register_forward_pre_hook(begun), model.backbone.register_forward_hook(ended)]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _rows(boxes: Sequence[Box], calls: Calls) -> tuple[tuple[Box, ...], ...]:
    """In the order of the last segment, which has all that the others have, those of feedback together, and what did
    not run first. The first segment, which is not fed back, tells which boxes take the same input."""
    order = {name: i for i, (name, _) in reversed(list(enumerate(calls[-1])))}
    inputs = {name: given for name, given in calls[0]}
    first = min((order[box.name] for box in boxes if box.feedback and box.name in order), default=-1)
    place = {box.name: first if box.feedback else order.get(box.name, -1) for box in boxes}
    rows: list[list[Box]] = []
    for box in sorted(boxes, key=lambda box: place[box.name]):
        before = rows[-1][-1] if rows else None
        same = before is not None and inputs.get(box.name) is not None and inputs[box.name] is inputs.get(before.name)
        if before is not None and ((box.feedback and before.feedback) or (same and not before.feedback)):
            rows[-1].append(box)
        else:
            rows.append([box])
    return tuple(map(tuple, rows))


def _kind(module: nn.Module) -> str:
    if isinstance(module, Unit):
        return f"{_kind(module.current)}, {module.neuron.options.kind.upper()}"
    if isinstance(module, Current):
        size, stride = module.conv.kernel_size[0], module.conv.stride[0]
        words = ["linear" if size == 1 else f"conv {size} x {size}", *[f"stride {stride}"] * (int(stride) > 1), "BN"]
        return ", ".join([*words, *["pool"] * module.pool])
    if isinstance(module, Neuron):
        return module.options.kind.upper()
    if isinstance(module, nn.Linear | nn.Conv2d):
        return "linear"
    return "vector"
