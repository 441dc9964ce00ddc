"""What a network in the published style and the model that its weights were loaded into say of the same input.

    python -m benchmarks.parity fp64 [NAME ...]
    python -m benchmarks.parity fp32 [NAME ...]

On CPU. The networks are those of tests/tdformer/test_pretrained.py, in their published sizes, with random weights for
which their neurons fire, and QKFormer's with the published defect (`leaky_proj_lif`).

In fp64, on inputs of at most 32 x 32: spikes that differ over evaluation and training, of all neurons and steps, and
the firing rate; the largest difference of a logit; that of a gradient, over the largest gradient. In fp32, on inputs of
their own size: the largest difference of a logit and, behind it, the standard deviation of the logits over the inputs
(where that is 0, it says nothing); and the first neurons whose spikes differ: how many of them, by how much their
currents differ at most, and how far from the threshold the potentials are that fire on one side alone. Behind those,
all can differ.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import tdformer
from tdformer.backbones import MODELS
from tdformer.measure.firing import spiking

from . import machine, table

NETWORKS = Path(__file__).parents[1] / "tests" / "tdformer" / "test_pretrained.py"
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
INPUTS = 2
LARGEST = {torch.float64: 32, torch.float32: 224}
"""Height and width of inputs."""


@cache
def module() -> ModuleType:
    """The file that has the networks."""
    spec = importlib.util.spec_from_file_location("published_networks", NETWORKS)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def published() -> dict[str, Callable[[], nn.Module]]:
    """What makes each network."""
    networks = module()
    made = {name: make for name, (make, _) in networks.PUBLISHED.items()}
    made["hst_4_384"] = lambda: networks.PlainQKFormer("cifar", (96, 192, 384), (1, 1, 2), 8, 4, True)
    for width, heads in ((384, 6), (512, 8), (768, 12)):
        sizes = (width // 4, width // 2, width), (1, 2, 7), heads, 4
        made[f"hst_10_{width}"] = partial(networks.PlainQKFormer, "imagenet", *sizes, True)
    return made


def firing(network: nn.Module, images: Tensor, sums: bool) -> None:
    """Weights and running statistics with which it tells inputs apart. sums: its blocks add currents, not spikes, which
    would drive each neuron behind them over its threshold."""
    for m in network.modules():
        if isinstance(m, NORMS):
            nn.init.uniform_(m.weight, 1.0, 2.0)
            nn.init.uniform_(m.bias, *((-2.0, 0.5) if sums else (0.0, 1.0)))
            m.momentum = 1.0
    with torch.no_grad():
        network.train()(images)


@dataclass(frozen=True)
class Pair:
    """Neurons of the network by their published name, and what fires in the model: both have their time constants under
    these names, where they are learned."""

    name: str
    theirs: nn.Module
    ours: nn.Module


def pairs(network: nn.Module, model: tdformer.TDFormer) -> list[Pair]:
    """All that fire in the model."""
    names, units = model.backbone.published, spiking(model)
    assert names is not None
    found = []
    for name, part in network.named_modules():
        own = names.name(f"{name}.w") if type(part).__name__ == "LIF" else None
        if own is not None and (key := own.removesuffix(".w")) in units:
            found.append(Pair(name, part, units[key]))
    known = {id(unit) for key, unit in units.items() if f"{key}.w" not in names.ours}
    assert {id(pair.ours) for pair in found} == known
    return found


@contextmanager
def listening(of: Sequence[Pair], drive: bool = False) -> Iterator[dict[str, list[Tensor]]]:
    """While the block runs the network and then the model, collect of each pair both spikes, in the order in which the
    network has them; drive: its currents, `[T, ...]`."""
    heard: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Callable[..., None]:
        def note(part: Any, inputs: tuple[Any, ...], spikes: Tensor) -> None:
            if not drive:
                heard.setdefault(name, []).append(spikes.detach() > 0.5)
                return
            with torch.no_grad():
                current = part.drive(*inputs) if hasattr(part, "drive") else inputs[0]
            heard.setdefault(name, []).append(current.detach())

        return note

    hooks = [part.register_forward_hook(hook(pair.name)) for pair in of for part in (pair.theirs, pair.ours)]
    try:
        yield heard
    finally:
        for one in hooks:
            one.remove()


@dataclass(frozen=True)
class Difference:
    """The first neurons of the network, `name`, of which some fire on one side alone: how many of all their neurons and
    steps. current: the largest difference of their currents; threshold: the largest distance from it of a potential
    that does, where it first does."""

    name: str
    count: int
    of: int
    current: float
    threshold: float

    def __str__(self) -> str:
        return f"`{self.name}`: {self.count} of {self.of:,}; {self.current:.1g}; {self.threshold:.1g}"


@torch.no_grad()
def first_difference(network: nn.Module, model: tdformer.TDFormer, images: Tensor) -> Difference | None:
    """None: all spikes are the same."""
    of = pairs(network, model)
    with listening(of) as spikes:
        network(images), model(images)
    name = next((name for name, both in spikes.items() if differing(both).any()), None)
    if name is None:
        return None
    [first] = (pair for pair in of if pair.name == name)
    with listening([first], drive=True) as currents:
        network(images), model(images)
    current, own = currents[first.name]
    steps = len(current)
    rows = current.reshape(steps, -1)
    own = own.expand(steps, *own.shape[1:]) if len(own) == 1 else own  # the same at each step
    differ = differing(spikes[first.name]).view(steps, -1)
    earliest = differ & (differ.cumsum(0) == 1)
    distance = (potentials(first.theirs, rows) - first.theirs.threshold).abs()[earliest].max()
    apart = float((rows - own.reshape(steps, -1)).abs().max())
    return Difference(first.name, int(differ.sum()), differ.numel(), apart, float(distance))


def differing(spikes: Sequence[Tensor]) -> Tensor:
    """Of a pair, `[neurons and steps]`."""
    theirs, ours = spikes
    return theirs.flatten() != ours.flatten()


def potentials(neuron: Any, currents: Tensor) -> Tensor:
    """H of the network's neurons from their currents, both `[T, ...]`."""
    v, found = torch.zeros_like(currents[0]), []
    for current in currents:
        found.append(v + (current - v) * (0.5 if neuron.w is None else neuron.w.sigmoid()))
        v = found[-1] * (found[-1] < neuron.threshold)
    return torch.stack(found)


def made(name: str, make: Callable[[], nn.Module], dtype: torch.dtype) -> tuple[nn.Module, tdformer.TDFormer, Tensor]:
    """A network, the model that is to have its weights, and inputs."""
    torch.manual_seed(0)
    leaky = {"leaky_proj_lif": True} if "leaky_proj_lif" in MODELS.get(name).backbone.options else {}
    size = [min(MODELS.get(name).image_size, LARGEST[dtype])] * 2
    model, network = tdformer.create_model(name, image_size=size, **leaky), make()
    network.head = nn.Linear(network.head.in_features, model.config["num_classes"])
    channels = model.config["in_channels"]
    images = torch.rand(*([model.time_steps] if channels == 2 else []), INPUTS, channels, *size)
    firing(network, images, sums=name.startswith("sdt"))
    return network.to(dtype), model.to(dtype), images.to(dtype)


def in_fp64(name: str, make: Callable[[], nn.Module]) -> list[str]:
    network, model, images = made(name, make, torch.float64)
    report = tdformer.load_pretrained(model, network.state_dict())
    apart, of, fired, largest = 0, 0, 0, 0.0
    for training in (False, True):
        with torch.set_grad_enabled(training), listening(pairs(network, model)) as spikes:
            wanted, got = network.train(training)(images), model.train(training)(images)
        own = got[-1] if training else got
        found = [differing(both) for both in spikes.values()]
        apart, of = apart + sum(int(one.sum()) for one in found), of + sum(one.numel() for one in found)
        fired += sum(int(theirs.sum()) for theirs, _ in spikes.values())
        largest = max(largest, float((own - wanted).detach().abs().max()))
    target = torch.randn_like(wanted)
    for logits in (wanted, own):
        ((logits - target) ** 2).sum().backward()
    ours_of = dict(zip([k for k in network.state_dict() if k not in report.skipped], report.loaded, strict=True))
    mine = dict(model.named_parameters())
    gradients = [
        (p.grad, mine[ours_of[key]].grad.reshape(p.shape))
        for key, p in network.named_parameters()
        if p.grad is not None and key in ours_of
    ]
    scale = max(float(theirs.abs().max()) for theirs, _ in gradients)
    differ = max(float((theirs - ours).abs().max()) for theirs, ours in gradients) / scale
    return [f"{apart} of {of:,}, rate {fired / of:.3f}", f"{largest:.1g}", f"{differ:.1g}"]


@torch.no_grad()
def in_fp32(name: str, make: Callable[[], nn.Module]) -> list[str]:
    network, model, images = made(name, make, torch.float32)
    tdformer.load_pretrained(model, network.state_dict())
    cells, first = [], []
    for training in (False, True):
        wanted, got = network.train(training)(images), model.train(training)(images)
        found = got[-1] if training else got
        cells.append(f"{(found - wanted).abs().max():.2g} ({wanted.std(0).mean():.2g})")
        first.append(first_difference(network, model, images))
    return [*cells, *("none" if one is None else str(one) for one in first)]


TABLES = {
    "fp64": (in_fp64, ["spikes that differ", "a logit by", "a gradient by"]),
    "fp32": (in_fp32, ["evaluation", "training", "first neurons that differ, evaluation", "training"]),
}


def main() -> None:
    networks = published()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("names", nargs="*", metavar="NAME", help="[default: all]")
    given = parser.parse_args()
    row, head = TABLES[given.table]
    print(machine(), flush=True)
    print(table(["network", *head], [[name, *row(name, networks[name])] for name in given.names or networks]))


if __name__ == "__main__":
    main()
