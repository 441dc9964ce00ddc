"""What a run is between two steps: what is written of it comes back, and what cannot be used is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cluster.config import Config
from cluster.errors import RunError
from cluster.run.folder import RunFolder
from cluster.train.scale import LossScale
from cluster.train.state import Checkpoints, TrainState
from cluster.train.watchdog import Watchdog
from pipelines.errors import DataError
from pipelines.order import Cursor
from pipelines.store.tars import TarDataset

STATE = TrainState(
    step=5,
    cursor=Cursor(1, 2, 3, 8, "digest", damaged=(4, 6)),
    window=[1.5, 2.0, 3.0],
    accuracy=0.25,
    best_accuracy=0.5,
    metrics_bytes=7,
    evaluated=2,
    skipped=3,
    in_a_row=1,
    metrics_sha256="abc",
    scale=LossScale(1024.0, 3),
    hooks={"mine": {"seen": [1, 2]}},
)


def test_all_of_it_comes_back() -> None:
    usual = TrainState(0, Cursor(0, 0, 0, 1, ""))
    assert not [f.name for f in fields(TrainState) if getattr(STATE, f.name) == getattr(usual, f.name)]
    assert TrainState.from_dict(json.loads(json.dumps(STATE.to_dict()))) == STATE


@pytest.mark.parametrize(
    "changes", [{"more": 1}, {"cursor": {"seed": 1}}, {"cursor": 3}, {"scale": {"value": 1.0, "x": 1}}]
)
def test_what_is_no_state_is_an_error_that_is_known(changes: dict) -> None:
    with pytest.raises((TypeError, KeyError, ValueError, AttributeError)):
        TrainState.from_dict(STATE.to_dict() | changes)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "meet"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def data(few_digits: Path) -> TarDataset:
    return TarDataset(few_digits / "train")


@pytest.fixture
def own(alone: None, tmp_path: Path) -> Checkpoints:
    folder = RunFolder(tmp_path / "run")
    folder.open(Config())
    folder.checkpoints.mkdir(exist_ok=True)
    return Checkpoints(folder, 9, Watchdog(5), True)


def save(own: Checkpoints, data: TarDataset, step: int, **rest: object) -> TrainState:
    state = replace(STATE, step=step, cursor=Cursor(1, 2, 3, 8, data.digest))
    with own.watchdog:
        own.begin({"model": {"w": torch.full((3,), float(step))}}, state, rest, best=False)
        own.wait()
    return state


def test_the_newest_that_is_whole_is_gone_on_with(own: Checkpoints, data: TarDataset) -> None:
    warnings: list[str] = []
    assert own.newest(data, warnings.append) is None
    own.folder.metrics.append({"step": 3, "loss": 1.0})
    states = [save(own, data, step) for step in (3, 6)]
    found = own.newest(data, warnings.append)
    assert found is not None and found.state == states[1] and found.where.name == "step-00000006" and not warnings
    assert found.state.metrics_bytes == own.folder.metrics.path.stat().st_size > 0
    assert found.parts["model"]["w"].tolist() == [6.0] * 3
    file = found.where / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    older = own.newest(data, warnings.append)
    assert older is not None and older.state == states[0] and len(warnings) == 1 and "step-00000006" in warnings[0]


def test_other_data_other_classes_and_another_version_are_refused(
    own: Checkpoints, data: TarDataset, few_digits: Path
) -> None:
    save(own, data, 3, classes=data.class_names)
    assert own.newest(data, print) is not None
    with pytest.raises(DataError, match="training data has digest"):
        own.newest(TarDataset(few_digits / "test"), print)
    save(own, data, 4, classes=["other", *data.class_names[1:]])
    with pytest.raises(DataError, match="other"):
        own.newest(data, print)
    state = save(own, data, 5)
    rest = {"state": state.to_dict() | {"of a later version": 1}}
    with own.watchdog:
        own.begin({"model": {}}, replace(state, step=6), rest, best=False)
        own.wait()
    with pytest.raises(RunError, match="step-00000006 has a state of another version .*; use the one that wrote it$"):
        own.newest(data, print)
