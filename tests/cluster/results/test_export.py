"""A trained model as one file: the same numbers from each format as from the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from firing import few_digits, fire, save
from safetensors import safe_open

import tdformer
from cluster.build.data import opened
from cluster.config import load
from cluster.results.export import program
from tdformer.norm import fold

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: shards}
train: {epochs: 1, global_batch: 120, threads: 1, ema_decay: 0.9}
"""


def test_every_format_evaluates_as_the_checkpoint_does(cli: Any, tmp_path: Path) -> None:
    """Of the averaged weights, which fire: a segment with another's statistics would tell fewer digits apart."""
    few_digits(tmp_path / "shards")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    config = load(tmp_path / "recipe.yaml", [f"data.root={tmp_path / 'shards'}"])
    data = opened(config, "test")
    save(tmp_path / "runs/run", config, data, average=True, classes=data.class_names)
    done = cli("eval", "runs/run")
    assert done.returncode == 0, done.stderr
    expected = json.loads(done.stdout)
    assert expected["accuracy"] > 0.6
    for name, *words in (("m.safetensors",), ("m.pt",), ("m.pt2", "--batch", "50")):
        done = cli("export", "runs/run", name, *words)
        assert done.returncode == 0 and done.stdout.startswith(f"{name}: step 7 of runs/run, "), done.stderr
        found = cli("eval", name)
        assert found.returncode == 0, found.stderr
        found = json.loads(found.stdout)
        assert (found["samples"], found["step"], found["accuracy"]) == (120, 7, expected["accuracy"])
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    plain = torch.load(tmp_path / "m.pt", weights_only=True)
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(plain)
    nodes = list(_nodes(torch.export.load(tmp_path / "m.pt2").graph_module))
    operators = [str(n.target) for n in nodes]
    assert operators.count("wrap_with_autocast") == 1 and not any("stack_trace" in n.meta for n in nodes)
    assert any("conv2d" in o for o in operators) and not any("norm" in o or "rsqrt" in o for o in operators)
    (tmp_path / "m.pt").write_bytes((tmp_path / "m.pt").read_bytes()[:5000])
    for words, said in (
        (("export", "runs/run", "m.pth"), "end it with one of .safetensors, .pt, .pt2, .onnx"),
        (("export", "runs/none", "n.pt"), "runs/none: no such run folder, checkpoint or file"),
        (("export", "runs/run", "none/m.pt"), "none: no such folder"),
        (("eval", "m.pt"), "m.pt and m.pt.json are not what was exported (SHA-256)"),
        (("eval", "recipe.yaml"), "recipe.yaml: is not a readable checkpoint"),
        (("sync", "runs/run"), "nothing logged offline"),
    ):
        done = cli(*words)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, (words, done.stderr)
    assert not list(tmp_path.glob(".tmp-*"))


def _nodes(module: Any) -> Any:
    for part in module.modules():
        if hasattr(part, "graph"):
            yield from (node for node in part.graph.nodes if node.op == "call_function")


def test_folding_changes_no_bit_and_needs_no_statistics() -> None:
    torch.manual_seed(0)
    model = tdformer.create_model("quickstart", segments=2, feedback="all", segment_norm="per_segment")
    images = torch.randn(20, model.config["in_channels"], *model.config["image_size"])
    fire(model, images, torch.arange(20) % 10, 10)
    with torch.no_grad():
        logits = model.eval()(images)
        assert (logits - logits.mean(0)).abs().max() > 0.1
        folded = fold(model)
        assert torch.equal(folded(images), logits)
        torch.testing.assert_close(program(model, 20).module()(images), logits, rtol=1e-4, atol=1e-4)
    assert not any("running" in name for name in folded.state_dict())
