"""Shards are made for a configuration where they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.build import shards as prepares
from pipelines.raw import fashion_mnist

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"


def test_prepare_takes_the_digits_where_there_is_no_fashion_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(fashion_mnist, "FOLDER", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    assert prepares.prepare(CONFIGS / "quickstart.yaml") == CONFIGS / "digits.yaml"
    assert "fashion_mnist is not on this machine: taking digits instead" in capsys.readouterr().err
    assert (tmp_path / "data/digits/test/index.json").exists()
    assert not (tmp_path / "data/fashion_mnist/train").exists()
