"""A launch: what it prints and writes, and what it leaves where Slurm refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from stand_in_slurm import Site

from cluster.config.shape import Shape
from cluster.errors import RunError
from cluster.jobs.launch import launch
from cluster.run.folder import RunFolder


@pytest.mark.parametrize("where", ["slurm", "local"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
@pytest.mark.parametrize("slurm_there", [False, True])
def test_a_dry_run_prints_the_job_and_writes_nothing(
    asked: Any,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    site: Site,
    where: str,
    there: bool,
    slurm_there: bool,
) -> None:
    if not slurm_there:
        monkeypatch.setenv("PATH", "/nowhere")
    if there:
        RunFolder(tmp_path / "runs" / "run").open(asked())
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if site.here not in (p, *p.parents)}
    assert launch(asked(), Shape(1, 2, 0), where, dry_run=True) == 0
    said = capsys.readouterr()
    assert "submitit.core._submit" in said.out and said.out.startswith("#!" if where == "slurm" else "2 processes")
    assert ("Slurm was not asked" in said.err) == (where == "slurm" and not slurm_there)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if site.here not in (p, *p.parents)} == before


@pytest.mark.parametrize("answer", ["", "away"])
def test_a_slurm_that_is_not_there_queues_nothing(
    site: Site, asked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    site.away("sbatch")
    if not answer:
        monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RunError, match="Slurm does not answer" if answer else "sbatch is not on the PATH"):
        launch(asked(), Shape(1, 1, 0), "slurm")
    assert not (tmp_path / "runs").exists()


def _files(folder: Path) -> dict[Path, bytes]:
    """All but its lock's."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith("lock.")}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("said", ["QOSMaxSubmitJobPerUserLimit", "Socket timed out on send/recv operation"])
def test_a_refusal_in_earnest_leaves_things_as_they_were(
    site: Site, asked: Any, tmp_path: Path, request: pytest.FixtureRequest, there: bool, said: str
) -> None:
    line = f"sbatch: error: Batch job submission failed: {said}"
    site.answers("sbatch", f'[ "$1" = --test-only ] || {{ echo "{line}" >&2; exit 1; }}')
    site.says("COMPLETED")
    if there:
        request.getfixturevalue("run")
    before = _files(tmp_path / "runs")
    with pytest.raises(RunError, match=re.escape(said)) as refused:
        launch(asked("site.minutes=99"), Shape(1, 1, 0), "slurm")
    assert ("may have queued" in str(refused.value)) == ("timed out" in said)
    after = _files(tmp_path / "runs")
    assert {p: content for p, content in after.items() if "code" not in p.parts} == before
    assert there or not (tmp_path / "runs" / "run").exists()


def test_a_site_that_will_not_queue_it_again_is_seen_at_the_launch(site: Site, asked: Any, capsys: Any) -> None:
    site.answers("scontrol", "echo 'PartitionName=gpu Default=YES MaxTime=UNLIMITED TotalNodes=1 Requeue=0'")
    assert launch(asked(), Shape(1, 1, 0), "slurm") == 0
    assert "lets no job be queued again: at its time limit" in capsys.readouterr().err
