"""`tdformer config show --resolved`."""

from __future__ import annotations

from pathlib import Path

from commands import user_command
from forked import Command

from cluster.build.data import training_data
from cluster.build.model import build_model
from cluster.config import load, resolve


def test_a_resolved_configuration_trains_the_same_and_has_no_open_ends(trained: Path):
    done = user_command(trained, "config", "show", "small.yaml", "--resolved", "--processes", "2")
    assert done.returncode == 0, done.stderr
    (trained / "resolved.yaml").write_text(done.stdout)
    asked, found = load(trained / "small.yaml"), load(trained / "resolved.yaml")
    data, _ = training_data(load(trained / "small.yaml", [f"data.root={trained / 'shards'}"]))
    assert build_model(found, data).config == build_model(asked, data).config
    assert resolve(found, 2) == resolve(asked, 2)
    assert None not in (found.model.num_classes, found.model.image_size, found.train.norm_batch, found.train.alphas)
    assert (found.model.num_classes, found.train.micro_batch, found.train.processes) == (10, 125, 2)
    notes = [line for line in done.stdout.splitlines() if line.startswith("# ")]
    assert "# training samples: 1437, steps: 5, of an epoch: 5" in notes and any("GiB planned" in n for n in notes)
    words = ("config", "show", "small.yaml", "data.root=none", "--resolved")
    without = Command(*words, cwd=trained).completed().stdout
    assert "none/train/index.json is missing" in without and "num_classes: null" in without
