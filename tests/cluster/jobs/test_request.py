"""What is asked of Slurm for a job, and what is refused before it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stand_in_slurm import Site

from cluster.config.shape import Shape
from cluster.errors import RunError
from cluster.jobs import processes
from cluster.jobs.launch import launch, resume
from cluster.run.folder import RunFolder


@pytest.mark.parametrize(("minutes", "seconds"), [(5, 300), (6, 300), (1, 1)])
def test_a_signal_before_the_start_is_refused(
    site: Site, asked: Any, tmp_path: Path, minutes: int, seconds: int
) -> None:
    with pytest.raises(RunError, match=f"site.signal_seconds={seconds} leaves no time in site.minutes={minutes}"):
        launch(asked(f"site.minutes={minutes}", f"site.signal_seconds={seconds}"), Shape(1, 1, 0), "slurm")
    assert not (tmp_path / "runs").exists() and not site.calls("sbatch")


def test_options_that_collide_are_refused_before_anything_is_written(
    site: Site, asked: Any, tmp_path: Path, run: RunFolder
) -> None:
    site.says("COMPLETED")
    for entry, says in {"signal=USR1@10": "site.signal_seconds", "o=x": "own files", "array=0-3": "one job"}.items():
        with pytest.raises(RunError, match=says):
            launch(asked(f"site.sbatch=[{entry}]"), Shape(1, 1, 0), "slurm")
        with pytest.raises(RunError, match=says):
            resume(run.path, [f"site.sbatch=[{entry}]"])
    assert not site.calls("sbatch") and not (run.path / "logs").exists()


def test_variables_do_not_override_what_is_asked(
    site: Site, asked: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SIGNAL", "NO_REQUEUE", "TIMELIMIT", "PARTITION", "ACCOUNT", "ARRAY_INX"):
        monkeypatch.setenv(f"SBATCH_{name}", "1")
    site.answers("sbatch", f'env | grep ^SBATCH_ >{site.here}/env; echo "Submitted batch job 77"')
    assert launch(asked("site.partition=gpu"), Shape(1, 1, 0), "slurm") == 0
    left = (site.here / "env").read_text().splitlines()
    assert left == ["SBATCH_ACCOUNT=1"]
    said = capsys.readouterr().err
    assert "SBATCH_TIMELIMIT of the environment is left out: site.minutes" in said
    assert "SBATCH_NO_REQUEUE of the environment is left out: " in said and "ACCOUNT" not in said


def script(asked: Any, capsys: Any, *words: str, processes: int) -> str:
    launch(asked(*words), Shape(1, processes, 0), "slurm", dry_run=True)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "cores"),
    [((), 1), (("data.workers=3",), 4), (("data.workers=3", "site.cpus_per_process=2"), 2)],
)
def test_a_process_has_cores_for_its_workers(
    site: Site, asked: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], cores: int
) -> None:
    text = script(asked, capsys, *words, processes=2)
    assert f"#SBATCH --cpus-per-task={cores}\n" in text and f" --cpus-per-task={cores} " in text
    assert ("site.cpus_per_process is not set" in text) == ("site.cpus_per_process=2" not in words)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", str(2 * cores))
    assert max(1, processes._cores() // 2 - processes._loading(asked(*words))) == 1
