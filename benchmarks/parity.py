"""In fp32: what a network in the published style and the model that its weights were loaded into say of the same input.

    python -m benchmarks.parity [NAME ...]

On CPU. The networks are those of tests/tdformer/test_pretrained.py, in their published sizes, with random weights for
which their neurons fire, and QKFormer's with the published defect (`leaky_proj_lif`). A cell is the largest difference
of a logit and, behind it, the standard deviation of the logits over the inputs: where that is 0, the row says nothing.
Where no spike differs, neither does a logit; where one does, all behind it can.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import tdformer
from tdformer.backbones import MODELS

from . import machine, table

NETWORKS = Path(__file__).parents[1] / "tests" / "tdformer" / "test_pretrained.py"
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
INPUTS = 3


def published() -> dict[str, Callable[[], nn.Module]]:
    """What makes each network."""
    spec = importlib.util.spec_from_file_location("published_networks", NETWORKS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = {name: make for name, (make, _) in module.PUBLISHED.items()}
    made["hst_4_384"] = lambda: module.PlainQKFormer("cifar", (96, 192, 384), (1, 1, 2), 8, 4, True)
    for width, heads in ((384, 6), (512, 8), (768, 12)):
        sizes = (width // 4, width // 2, width), (1, 2, 7), heads, 4
        made[f"hst_10_{width}"] = partial(module.PlainQKFormer, "imagenet", *sizes, True)
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


@torch.no_grad()
def compared(name: str, make: Callable[[], nn.Module]) -> list[str]:
    """A row: evaluation, training."""
    torch.manual_seed(0)
    leaky = {"leaky_proj_lif": True} if "leaky_proj_lif" in MODELS.get(name).backbone.options else {}
    model, network = tdformer.create_model(name, **leaky), make()
    network.head = nn.Linear(network.head.in_features, model.config["num_classes"])
    channels, size = model.config["in_channels"], model.config["image_size"]
    steps = [model.time_steps] if channels == 2 else []
    images = torch.rand(*steps, INPUTS, channels, *size)
    firing(network, images, sums=name.startswith("sdt"))
    tdformer.load_pretrained(model, network.state_dict())
    cells = []
    for training in (False, True):
        wanted, got = network.train(training)(images), model.train(training)(images)
        found = got[-1] if training else got
        cells.append(f"{(found - wanted).abs().max():.2g} ({wanted.std(0).mean():.2g})")
    return [name, *cells]


def main() -> None:
    networks = published()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="[default: all]")
    names = parser.parse_args().names or list(networks)
    print(machine(), flush=True)
    print(table(["network", "evaluation", "training"], [compared(name, networks[name]) for name in names]))


if __name__ == "__main__":
    main()
