"""The table of models, and weights of others as files of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from commands import refused

import tdformer
from tdformer.backbones import MODELS


def test_import_refuses_models_and_options_that_there_are_not(cli: Any, tmp_path: Path):
    (tmp_path / "w.pth").write_bytes(b"")
    words = ("import", "w.pth", "--out", "w.safetensors", "--model")
    assert "did you mean 'hst_10_384'" in refused(cli(*words, "hst_10_383"))
    assert "model.leaky is not a setting; the nearest is model.leaky_proj_lif" in refused(
        cli(*words, "hst_2_256", "leaky=true")
    )
    assert "leaky_proj_lif belongs to QKFormer" in refused(cli(*words, "sdt_2_256", "leaky_proj_lif=true"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.pth"]


def test_import_writes_a_model_that_starts_as_the_backbone(cli: Any, on_small_disk: Any, tmp_path: Path):
    torch.manual_seed(0)
    plain = tdformer.create_model("quickstart", image_size=8).eval()
    tdformer.save_pretrained(plain, tmp_path / "plain.safetensors")
    options = ("image_size=8", "feedback=all")
    words = ("import", "plain.safetensors", *options, "--model", "quickstart", "--out")
    done = cli(*words, "fed.safetensors")
    assert done.returncode == 0, done.stderr
    fed = tdformer.from_pretrained(tmp_path / "fed.safetensors").eval()
    assert fed.config["feedback"] == [0]
    assert f"{len(plain.state_dict())} loaded" in done.stdout
    new = fed.state_dict().keys() - plain.state_dict().keys()
    assert new and all(f"new {name}: " in done.stdout for name in new)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(fed(images), plain(images))
    line = refused(on_small_disk("-m", "cluster.cli", *words, "disk/fed.safetensors"))
    assert line.startswith("no space left to write disk/fed.safetensors")


MINE = """
from tdformer.backbones import MODELS, Entry, Spikformer, SpikformerSizes
sizes = SpikformerSizes(16, 1, 2, (False, False, True, True), bias=True)
MODELS.register("mine", Entry(Spikformer, sizes, 16, 3, 2))
"""


def test_plugins_bring_models_to_the_table_and_to_import(cli: Any, tmp_path: Path):
    (tmp_path / "mine.py").write_text(MINE)
    weights = tdformer.create_model("spikformer_2_384", width=8, depths=1, heads=2, num_classes=2, image_size=16)
    tdformer.save_pretrained(weights, tmp_path / "w.safetensors")
    words = ("import", "w.safetensors", "--model", "mine", "--out", "mine.safetensors", "width=8")
    assert "model 'mine' is unknown" in refused(cli(*words))
    done = cli(*words, "plugins=[./mine.py]")
    assert done.returncode == 0 and f"{len(weights.state_dict())} loaded" in done.stdout, done.stderr
    (line,) = (row for row in cli("models", "plugins=[./mine.py]").stdout.splitlines() if row.startswith("mine "))
    assert line.endswith("  16 x 16 x 3    4   Spikformer  width=16 depths=[1] heads=2 mlp_ratio=4")


def test_the_table_of_models_is_what_can_be_made(cli: Any):
    table = cli("models").stdout.splitlines()
    assert table[0].split() == ["name", "parameters", "GFLOP", "input", "T", "family", "options"]
    rows = [json.loads(line) for line in cli("models", "--json").stdout.splitlines()]
    own = [name for name in tdformer.list_models() if MODELS.origin(name).startswith("tdformer.")]
    assert [line.split()[0] for line in table[1:]] == [row["name"] for row in rows] == own
    (row,) = (row for row in rows if row["name"] == "quickstart")
    count = sum(p.numel() for p in tdformer.create_model("quickstart").parameters())
    assert row["parameters"] == count and row["input"] == [1, 28, 28] and row["family"] == "QKFormer"
    size = {"width": 96, "depths": [1, 1, 1], "heads": 4, "mlp_ratio": 4}
    assert row["options"] == size | {"leaky_proj_lif": False} and 0.02 < row["gflop"] < 0.04
    refused = cli("models", "model.width=48")
    assert refused.returncode == 2 and "model.width changes nothing in this table" in refused.stderr
