"""Runs beside their record: which bytes are others is named, where they can be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bits
from cluster.config import load
from cluster.run.folder import RunFolder


def test_a_run_with_other_bytes_than_recorded_is_named_where_they_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = RunFolder(tmp_path / "run"), load(None, ["train.norm_batch=64"])
    here = {"device": "CPU", "torch": "2.13"}
    run.open(config, here | {"pillow": "1"})
    run.metrics.append({"step": 1})
    step = run.checkpoints / "step-00000001"
    step.mkdir()
    (step / "model.safetensors").write_bytes(b"weights")
    recorded = {"one": {"digests": bits.digests(run.path), "surroundings": bits.surroundings(run.path)}}
    monkeypatch.setattr(bits, "RECORD", tmp_path / "bits.json")
    bits.RECORD.write_text(json.dumps(recorded))
    assert bits.differences("one", run.path) == []
    run.open(config, here | {"pillow": "2"})
    run.metrics.append({"step": 2})
    assert bits.differences("one", run.path) == ["metrics.jsonl"]
    (step / "model.safetensors").write_bytes(b"Weights")
    assert bits.differences("one", run.path) == ["metrics.jsonl", "model.safetensors"]
    run.open(config, here | {"torch": "2.14"})
    assert bits.differences("one", run.path) is None
