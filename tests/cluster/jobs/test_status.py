"""What Slurm's words mean to a run, and what is shown of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from stand_in_slurm import STATES, Site, aftermath, row

from cluster.config.shape import Shape
from cluster.errors import RunError
from cluster.jobs import status as jobs
from cluster.jobs.launch import launch, resume
from cluster.run.folder import RunFolder
from cluster.slurm import asking


@pytest.mark.parametrize(("code", "word", "alive", "shown", "again"), STATES, ids=[row[1] for row in STATES])
def test_each_state_of_a_job_means_what_it_means(
    site: Site, run: RunFolder, asked: Any, capsys: Any, code: str, word: str, alive: bool, shown: str, again: bool
) -> None:
    site.says(word)
    found = row(run)
    assert (found["state"], found["job"], found["job_state"]) == (shown, "12", word.lower())
    assert ("scontrol release 12" in found["reason"]) == (shown == "held")
    assert launch(asked(), Shape(1, 1, 0), "slurm") == 0
    if alive:
        assert f"is job 12 already ({word.lower()})" in capsys.readouterr().out and not site.calls("sbatch")
    else:
        assert "is job 77;" in capsys.readouterr().out
    said = aftermath(run)
    assert (site.calls("scontrol requeue") == ["scontrol requeue 12"]) == ("to be queued again" in said) == again
    assert len(run.crashes.read()) == again


@pytest.mark.parametrize(
    ("reason", "shown", "said"),
    [
        ("Priority", "queued", "waits (Priority)"),
        ("QOSMaxJobsPerUserLimit", "queued", "waits (QOSMaxJobsPerUserLimit)"),
        ("BeginTime", "queued", "waits (BeginTime)"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", "queued", "waits (ReqNodeNotAvail, UnavailableNodes:n[1-2])"),
        ("None", "queued", ""),
        ("JobHeldUser", "held", "held (JobHeldUser): scontrol release 12"),
        ("JobHeldAdmin", "held", "held by an administrator (JobHeldAdmin): scontrol release 12"),
        ("job requeued in held state", "held", "held (job requeued in held state): scontrol release 12"),
        ("launch failed requeued held", "held", "held (launch failed requeued held): scontrol release 12"),
        ("JobHoldMaxRequeue", "held", "held (JobHoldMaxRequeue): scontrol release 12"),
    ],
)
def test_status_says_why_a_job_waits(
    site: Site, run: RunFolder, asked: Any, capsys: Any, reason: str, shown: str, said: str
) -> None:
    site.says("PENDING", reason)
    assert (row(run)["state"], row(run)["reason"]) == (shown, said)
    launch(asked(), Shape(1, 1, 0), "slurm")
    assert f"already (pending); tdformer logs -f {run.path}{'; ' * bool(said)}{said}\n" in capsys.readouterr().out
    for state, then in (("running", "queued"), ("saved", "saved"), ("failed", "failed")):
        run.tell(state, step=3)  # the words of an earlier start
        assert row(run)["state"] == ("held" if shown == "held" and then != "failed" else then)


@pytest.mark.parametrize("trouble", ["away", "munge", "time-out", "no program"])
def test_a_slurm_that_does_not_answer_is_a_state(
    site: Site, run: RunFolder, asked: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    site.away("squeue")
    if trouble == "munge":
        (site.here / "away").write_text("squeue: error: Munge encode failed\nsqueue: error: authentication error\n")
    elif trouble == "time-out":
        (site.here / "squeue").write_text("#!/bin/sh\nexec sleep 100\n")
        monkeypatch.setattr(asking, "ANSWER", 0.1)
    elif trouble == "no program":
        (site.here / "squeue").unlink()
        monkeypatch.setenv("PATH", str(site.here))
    for said in ("queued", "starting", "running", "saved", "failed", "finished"):
        if said != "queued":
            run.tell(said, step=3)
        found = row(run)
        assert (found["state"], found["job"], found["job_state"]) == (said, "12", "unknown")
        assert "Slurm does not answer (squeue" in found["reason"] or "squeue is not on the PATH" in found["reason"]
    before = sorted(run.path.rglob("*"))
    for queue in (lambda: launch(asked(), Shape(1, 1, 0), "slurm"), lambda: resume(run.path, [])):
        with pytest.raises(
            RunError, match="was launched as job 12, and whether that runs is not known.*nothing is queued"
        ):
            queue()
    with pytest.raises(RunError, match="job 12 of .* was not asked to stop: "):
        jobs.existing(run.path).stop()
    assert not site.calls("sbatch") and not site.calls("scancel") and sorted(run.path.rglob("*")) == before
    log = jobs.existing(run.path).log(0)
    log.parent.mkdir()
    log.write_text("step 1\n")
    assert list(jobs.follow(jobs.existing(run.path), 0, True)) == ["step 1\n"]  # the run has said that it is finished
    assert "going on" in capsys.readouterr().err


def test_logs_go_on_while_slurm_does_not_answer(site: Site, run: RunFolder, capsys: Any) -> None:
    log = jobs.existing(run.path).log(0)
    log.parent.mkdir()
    log.write_text("step 1\n")
    site.away("squeue", 2)
    site.says("COMPLETED")
    run.tell("running")
    follow = jobs.follow(jobs.existing(run.path), 0, True)
    assert next(follow) == "step 1\n"
    log.write_text("step 1\nstep 2\n")
    assert list(follow) == ["step 2\n"] and capsys.readouterr().err.count("warning") == 1
    assert len(site.calls("squeue")) == 3


def test_one_question_for_all_runs(site: Site, run: RunFolder) -> None:
    other = RunFolder(run.path.parent / "other")
    other.path.mkdir()
    record = json.loads((run.path / "job.json").read_text()) | {"id": "13"} | other.mark()
    (other.path / "job.json").write_text(json.dumps(record))
    site.answers("squeue", "echo '12|PENDING|1:00:00|Priority'; echo '13|RUNNING|59:11|None'")
    rows = jobs.table(run.path.parent)
    assert [(r["run"], r["job"], r["job_state"], r["job_seconds_left"]) for r in rows] == [
        ("other", "13", "running", 59 * 60 + 11),
        ("run", "12", "pending", None),
    ]
    assert len(site.calls("squeue")) == 1


def test_a_row_for_programs_has_numbers_and_one_for_people_words(site: Site, run: RunFolder, capsys: Any) -> None:
    site.says("RUNNING", left="1:00:05")
    rates = {"images_per_second": 236.4, "tflops": 120.5, "mfu": 0.1218, "hfu": 0.1624}
    facts = {"loss": 1.25, **rates, "seconds_left": 61.0, "restarts": "2"}
    run.tell("running", step=3, total=64, **facts)
    (run.checkpoints / "step-00000002").mkdir()
    found = row(run)
    assert found.pop("seconds_since_heard") < 60
    assert found == {
        **{"run": "run", "state": "running", "job": "12", "job_state": "running", "step": 3, "total_steps": 64},
        **{"loss": 1.25, **rates, "restarts": 2, "seconds_left": 61.0, "job_seconds_left": 3605},
        **{"checkpoint": 2, "reason": "", "goodput": None},
    }
    assert all(re.fullmatch("[a-z_]+", key) for key in found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        jobs.show(run.path.parent, False)
    said = capsys.readouterr().out
    assert (
        "1 min 01 s" in said
        and "1 h 00 min" in said
        and "3/64" in said
        and "236" in said
        and "236.4" not in said
        and "12.2%" in said
    )
