"""A study on a real Slurm, whose process is killed as it submits and as its cells run, and one of its cells too."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import TDFORMER, Command
from forked_study import FORKED, SETTINGS, Kept, without_clock

from cluster.build.shards import write_shards
from cluster.jobs import status as jobs
from cluster.study.folder import StudyFolder
from cluster.study.status import status
from cluster.study.usage import device_seconds

pytestmark = pytest.mark.timeout(3000)

GRID = """\
tries: 9
budget_gpu_hours: 9
at_once: 2
grid: {seed: [0, 1, 2]}
"""
QUICK = f"from cluster.study import places\nplaces.Arrays.pause = 0.5\n{TDFORMER}"


@pytest.fixture(autouse=True)
def nothing_left(slurm) -> Iterator[None]:
    yield
    slurm.clear()


def test_a_study_of_job_arrays_survives_kills(slurm, tmp_path: Path) -> None:
    write_shards("digits", tmp_path / "shards")
    text = SETTINGS.replace("SHARDS", str(tmp_path / "shards")) + GRID
    (tmp_path / "calm.yaml").write_text("name: calm\n" + text)
    site = "  site: {minutes: 20, signal_seconds: 30, memory_gb: 2}\n"
    queued = text.replace("where: local", "where: slurm").replace("  log.every", site + "  log.every")
    (tmp_path / "killed.yaml").write_text("name: killed\n" + queued)
    calm = Command("scale", "run", "calm.yaml", cwd=tmp_path, env=slurm.env, program=FORKED, merged=True)

    def begin() -> Command:
        return Command("scale", "run", "killed.yaml", cwd=tmp_path, env=slurm.env, program=QUICK, merged=True)

    study = StudyFolder(tmp_path / "runs" / "killed")
    kept = Kept(study)

    def logged() -> int:
        return sum(len(cell.run.metrics.whole("step")[0]) for cell in study.cells)

    def log() -> str:
        return "\n".join(path.read_text() for path in sorted(study.logs.glob("*.out")))

    first = begin()
    slurm.wait(lambda: (study.arrays / "1.json").exists() or first.poll() is not None, "it submits")
    first.kill()
    second, (said, _) = begin(), first.communicate()
    slurm.wait(lambda: logged() >= 4, f"cells run\n{said}", log)
    second.kill()
    second.communicate()
    kept.note()
    element = next(job for cell in study.cells if (job := jobs.of(cell.run)) is not None)
    assert element.slurm and "_" in element.id and element.log(0).parent.samefile(study.logs)
    third = begin()
    slurm.wait(lambda: slurm.ranks_of("cluster.study.element") or third.poll() is not None, "a cell runs", log)
    for rank in slurm.ranks_of("cluster.study.element")[:1]:
        os.kill(rank, signal.SIGKILL)
    out, _ = third.communicate(1500)
    assert third.returncode == 0 and "3 of 3 cells are finished" in out, out + log()
    assert calm.completed(600).returncode == 0
    assert without_clock(study.path) == without_clock(tmp_path / "runs" / "calm")
    kept.check()
    for cell in study.cells:  # each start has waited in the queue since its array was submitted, not since it began
        begun = [row for row in cell.run.clock.read() if "host" in row]
        job = jobs.of(cell.run)
        assert job is not None and {row["job"] for row in begun} == {job.id}
        assert len({row["submitted"] for row in begun}) == 1 and begun[0]["submitted"] < begun[0]["time"]
    # Each cell was queued once: a kill of the study's process queues nothing again.
    files = [json.loads(file.read_text()) for file in study.arrays.glob("*.json")]
    assert sorted(name for file in files if file["id"] for name in file["cells"]) == [c.path.name for c in study.cells]
    names = slurm.run("squeue", "-h", "-r", "--states=all", "-o", "%j").split()
    assert sum(name.startswith("killed-") for name in names) == 3
    assert status(study.path)["cells"] == {"finished": 3}
    assert 0 < sum(device_seconds(cell.path) for cell in study.cells) < 9 * 3600
