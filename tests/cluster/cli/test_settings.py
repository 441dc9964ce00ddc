"""`tdformer config show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.config import load

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"


def test_config_show_prints_what_it_loads(cli: Any, tmp_path: Path):
    done = cli("config", "show", CONFIGS / "digits.yaml", "train.lr=1e-4", "name=mine")
    assert done.returncode == 0, done.stderr
    (tmp_path / "shown.yaml").write_text(done.stdout)
    assert load(tmp_path / "shown.yaml") == load(CONFIGS / "digits.yaml", ["train.lr=1e-4", "name=mine"])
    assert "lr: 0.5" in cli("config", "show", "train.lr=0.5").stdout
