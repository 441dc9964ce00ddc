"""What a model consists of: every unit once, all parameters, and the edges that its options say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tdformer import TDFormer
from tdformer.measure.outline import BEHIND, Edge, outline
from tdformer.neuron import Neuron
from tdformer.unit import Current, Unit

CASES = [
    ("tiny_hst", {"feedback": "all"}),
    ("tiny_hst_imagenet", {"feedback": [1], "cm": 3}),
    ("tiny_hst_dvs", {"feedback": "all", "cm": 2, "mixer": "processing", "segments": 4}),
    ("tiny_spikformer", {"feedback": "all", "mixer": "processing", "pm": 3}),
    ("tiny_spikformer", {"feedback": "first", "neuron": "plif"}),
    ("tiny_sdt", {"feedback": "last", "cm": 2}),
    ("tiny_sdt_dvs", {"feedback": "all", "cm": 3, "mixer": "add"}),
    ("tiny_sdt", {"feedback": "none", "segments": 1}),
    ("tiny_spikformer", {"feedback": "all", "segments": 1}),
]


def names_of_parts(model: TDFormer) -> list[str]:
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(part)] for part in model.backbone.parts()]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_unit_all_parameters_and_the_edges(tiny: Any, name: str, options: dict[str, Any]) -> None:
    model = tiny(name, **{"time_steps": 4, "segments": 2} | options).eval()
    channels, size = model.config["in_channels"], model.config["image_size"]
    images = torch.zeros(*[4] * (channels == 2), 1, channels, *size, dtype=torch.float64)
    seen = outline(model, images)
    boxes = {box.name: box for box in seen.boxes}
    assert len(boxes) == len(seen.boxes)
    inside = [m for unit in model.modules() if isinstance(unit, Unit) for m in (unit.current, unit.neuron)]
    units = {n for n, m in model.named_modules() if isinstance(m, Unit | Current | Neuron) and m not in inside}
    assert units <= boxes.keys()
    assert sum(box.parameters for box in boxes.values()) == sum(p.numel() for p in model.parameters())
    for box in boxes.values():
        module = model.get_submodule(box.name)
        if isinstance(module, Unit):
            assert box.parameters == sum(p.numel() for p in module.parameters())
            assert box.feedback or (box.shape is not None and box.shape[0] == module.current.conv.out_channels)
    fed = [(n, block) for n in range(model.segments - 1) for block in model.config["feedback"]]
    edges = [(edge.source, edge.target, int(edge.part.rpartition(".")[2])) for edge in seen.edges]
    assert edges == [(n, n + 1, block) for n, block in fed]
    assert {edge.into for edge in seen.edges} <= {{1: "K", 2: "V", 3: "input"}[model.config["cm"]]}
    assert [part.name for part in seen.parts] == [*names_of_parts(model), BEHIND]
    for part in seen.parts[:-1]:
        own = model.get_submodule(part.name)
        assert sum(box.parameters for box in part.boxes) == sum(p.numel() for p in own.parameters())


def test_a_block_in_the_order_in_which_it_runs(tiny: Any) -> None:
    seen = outline(
        tiny("tiny_sdt", time_steps=4, segments=2, feedback="last").eval(), torch.zeros(1, 3, 16, 16).double()
    )
    block = seen.parts[-2]
    rows = [[box.name.removeprefix(f"{block.name}.") for box in row] for row in block.rows]
    assert rows == [
        ["attention.shortcut"],
        ["attention.control.processing", "attention.control.processing.neuron", "attention.control.mix"],
        ["attention.q", "attention.k", "attention.v"],
        ["attention.mask"],
        ["attention.proj"],
        *[[f"mlp.{name}"] for name in ("neuron1", "fc1", "neuron2", "fc2")],
    ]
    assert seen.fires == "backbone.high" and seen.high == (16, 4, 4)
    assert seen.edges == (Edge(0, 1, block.name, f"{block.name}.attention.control", "K"),)
    assert [box.kind for box in block.rows[2]] == ["linear, BN, LIF"] * 3 and block.rows[3][0].shape == (16, 1, 1)


def test_on_meta_it_is_the_same(tiny: Any) -> None:
    model = tiny("tiny_hst", time_steps=4, segments=2, feedback="all").eval()
    here = outline(model, torch.zeros(1, 3, 16, 16).double())
    assert here.fires is None
    assert outline(model.to("meta"), torch.zeros(1, 3, 16, 16, device="meta").double()) == here
