"""A run is where its folder is: moved it is the same run, copied it is another; and a name is free again where a run
never saved."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Config, load, to_yaml
from cluster.errors import RunError
from cluster.jobs import status as jobs
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from cluster.run.records import write_atomic
from cluster.run.wandb_id import identity, note_sent, sent


def _renamed(folder: Path) -> Path:
    return folder.rename(folder.with_name("renamed"))


def _moved_and_replaced(folder: Path) -> Path:
    """Another run begins where it was."""
    moved = _renamed(folder)
    RunFolder(folder).open(Config())
    return moved


def _linked(folder: Path) -> Path:
    (folder.with_name("link")).symlink_to(folder)
    return folder.with_name("link")


def _copied(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder.with_name("copy")))


def _copied_and_moved(folder: Path) -> Path:
    return _copied(folder).rename(folder.with_name("copy-moved"))


def _copied_twice(folder: Path) -> Path:
    return Path(shutil.copytree(_copied(folder), folder.with_name("copy-of-copy")))


def _copied_and_removed(folder: Path) -> Path:
    """As mv to another disk does: no job that was started there can write here."""
    copy = _copied(folder)
    shutil.rmtree(folder)
    return copy


def _restored(folder: Path) -> Path:
    """From a backup, to its own place."""
    shutil.rmtree(_copied_and_removed(folder).rename(folder.with_name("backup")).with_name("none"), ignore_errors=True)
    return Path(shutil.copytree(folder.with_name("backup"), folder))


@pytest.mark.parametrize(
    ("how", "same", "same_without_mark"),
    [
        (lambda folder: folder, True, True),
        (_renamed, True, True),
        (_linked, True, True),
        (_restored, True, True),
        (_moved_and_replaced, True, False),
        (_copied, False, False),
        (_copied_and_moved, False, False),
        (_copied_twice, False, False),
        (_copied_and_removed, False, True),
    ],
)
def test_a_copy_is_told_from_what_was_moved(
    tmp_path: Path, how: Callable[[Path], Path], same: bool, same_without_mark: bool
) -> None:
    """same_without_mark: of a job.json that was written before it had a mark, from the place in launch.yaml alone."""
    first = RunFolder(tmp_path / "runs" / "run")
    config = load(None, [f"runs_dir={tmp_path / 'runs'}"])
    first.open(config)
    first.tell("running")
    wandb, job = identity(first), {"id": "7", "slurm": True, "nodes": 1, "processes": 1, "gpus": 0}
    note_sent(first, 5)
    write_atomic(first.path / "launch.yaml", to_yaml(config).encode())
    write_atomic(first.path / "job.json", json.dumps(job | first.mark()).encode())

    folder = RunFolder(how(first.path))
    assert folder.made(folder.status()) == same
    assert jobs.existing(folder.path).own == same
    assert (identity(folder) == wandb, sent(folder) == 5) == (same, same)
    assert identity(folder) == identity(folder)
    write_atomic(folder.path / "job.json", json.dumps(job).encode())
    assert jobs.existing(folder.path).own == same_without_mark
    stored = folder.stored(folder.launch_file, ["site.minutes=5"])
    assert stored.run_path.resolve() == folder.path.resolve() and stored.site.minutes == 5
    for word in ("name=other", "runs_dir=elsewhere"):
        with pytest.raises(RunError, match="a run is where its folder is"):
            folder.stored(folder.launch_file, [word])


def test_an_inode_takes_all_of_64_bits(tmp_path: Path) -> None:
    """As GlusterFS gives them: half of its folders have the highest one set."""
    run = RunFolder(tmp_path / "run")
    run.open(Config())
    run.tell("running")
    largest = 2**64 - 1
    run.status_file.write_text(json.dumps(run.said() | {"inode": largest}))
    assert run.said()["inode"] == largest


def test_a_writer_whose_folder_was_moved_ends_in_one_line_and_makes_no_new_one(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.open(Config())
    run.metrics.append({"step": 1})
    _renamed(run.path)
    writes: tuple[Callable[[], Any], ...] = (
        lambda: run.metrics.append({"step": 2}),
        lambda: run.tell("running"),
        lambda: run.finish({"step": 2}),
        lambda: _save(run),
    )
    for write in writes:
        with pytest.raises(RunError, match="its folder is gone"):
            write()
    assert not run.path.exists()


def _save(run: RunFolder) -> None:
    saver = checkpoint.Saver(run.checkpoints, 1)
    saver.begin(2, {}, {}, False, run.metrics.sync)
    saver.wait()


OTHER = load(None, ["train.lr=0.5"])


@pytest.mark.parametrize("state", ["starting", "running", "failed", None])
def test_a_run_that_never_saved_begins_anew_with_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str | None
) -> None:
    run = RunFolder(tmp_path / "run")
    for attempt, config in enumerate((Config(), OTHER, Config()), 1):
        run.open(config)
        run.metrics.append({"step": attempt})
        run.health.append({"warning": "of this attempt"})
        (run.path / "notes.txt").write_text("of the user")
        identity(run)
        if state:
            run.tell(state)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "train.lr (0.001, now 0.5)" in said[0] and "before-1" in said[0] and "before-2" in said[1]
    assert run.config() == Config() and run.metrics.read() == [{"step": 3}]
    for attempt, config in ((1, Config()), (2, OTHER)):
        kept = RunFolder(run.path / f"before-{attempt}")
        assert kept.config() == config and kept.metrics.read() == [{"step": attempt}]
        assert kept.health.read() == [{"warning": "of this attempt"}] and (kept.path / "wandb_id").exists()
        assert kept.status_file.exists() == bool(state)
    assert len(run.starts.read()) == 3 and (run.path / "notes.txt").exists()


def _saved(run: RunFolder) -> None:
    (run.checkpoints / "step-00000004").mkdir()


def _finished(run: RunFolder) -> None:
    run.finish({"accuracy": 0.5, "epochs": 1, "step": 4})


@pytest.mark.parametrize("worth", [_saved, _finished])
def test_a_run_with_a_checkpoint_or_an_end_keeps_its_name(tmp_path: Path, worth: Callable[[RunFolder], None]) -> None:
    run = RunFolder(tmp_path / "run")
    run.open(Config())
    worth(run)
    before = sorted(run.path.rglob("*"))
    with pytest.raises(RunError, match="holds a run with other settings"):
        run.open(OTHER)
    assert sorted(run.path.rglob("*")) == before


def test_a_run_that_runs_keeps_its_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.open(Config())
    with pytest.raises(RunError, match="holds a run with other settings"):
        run.check(OTHER, running=True)
    run.check(OTHER)
    assert not (run.path / "before-1").exists() and os.listdir(run.path / "checkpoints") == []
