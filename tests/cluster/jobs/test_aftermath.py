"""What a job's last line does when its ranks have ended."""

from __future__ import annotations

import pytest
from stand_in_slurm import Site, aftermath

from cluster import slurm
from cluster.config import load
from cluster.jobs.aftermath import fruitless, limited, verdict
from cluster.run.folder import RunFolder


@pytest.mark.parametrize("name", ["squeue", "scontrol"])
def test_a_crash_is_queued_again_when_slurm_answers_again(site: Site, run: RunFolder, name: str) -> None:
    site.says("RUNNING")
    site.away(name, 2)
    if name == "scontrol":  # as it says where the controller is away
        (site.here / "away").write_text("Unexpected message received for job 12\n")
    said = aftermath(run)
    assert "Slurm does not answer: it is asked again for 10 minutes" in said
    assert len(site.calls("scontrol requeue")) == (3 if name == "scontrol" else 1)
    assert [row["exit_code"] for row in run.crashes.read()] == [1] and run.status()["state"] == "saved"


def test_patience_has_an_end(site: Site, run: RunFolder) -> None:
    site.away("squeue")
    said = aftermath(run, program="from cluster.slurm import asking; asking.PATIENCE = 0.5; ")
    assert "Slurm has not answered for" in said and len(run.crashes.read()) == 1
    assert run.status()["state"] == "saved" and f"tdformer resume {run.path}" in run.status()["reason"]


@pytest.mark.parametrize("reason", [None, "stopped by SIGUSR2"], ids=["crash", "time limit"])
def test_a_site_that_queues_no_job_again_is_one_line(site: Site, run: RunFolder, reason: str | None) -> None:
    site.says("RUNNING")
    site.answers("scontrol", "echo 'Requested operation is presently disabled for job 12' >&2; exit 1")
    if reason is not None:
        run.tell("saved", job="12", step=7, started_at=0, reason=reason)
    said = aftermath(run, 143)
    line = "Slurm does not queue it again (Requested operation is presently disabled for job 12): goes on with"
    assert f"{line} tdformer resume {run.path}\n" in said and "Traceback" not in said
    assert run.status()["state"] == "saved" and line in run.status()["reason"]
    assert len(site.calls("scontrol requeue")) == 1 and len(run.crashes.read()) == (reason is None)


def test_words_of_an_earlier_start_are_not_this_one_s(site: Site, run: RunFolder) -> None:
    """It had saved, and the start after it died before it said anything."""
    site.says("RUNNING")
    run.tell("saved", job="12", restarts="1", step=7, reason="stopped by SIGTERM")
    assert "crashed (exit code 1): to be queued again" in aftermath(run) and len(run.crashes.read()) == 1


def test_a_time_limit_that_leaves_no_time_ends_after_two_starts(site: Site, run: RunFolder) -> None:
    site.says("RUNNING", left="4:40")  # the signal came 300 seconds, or a little more, before the end
    run.tell("saved", job="12", step=1, started_at=0, reason="stopped by SIGUSR2")
    (run.checkpoints / "step-00000001").mkdir()
    assert "stopped by SIGUSR2: to be queued again" in aftermath(run, 143)
    run.tell("saved", job="12", step=2, started_at=1, reason="stopped by SIGUSR2")
    assert "had time for at most one step each: site.minutes=1440 is too short" in aftermath(run, 143)
    assert run.status()["state"] == "failed" and len(site.calls("scontrol requeue")) == 1
    assert verdict(run.crashes.read() + [{"exit_code": 1, "checkpoint": 2}], limit=1) is None  # they are no crashes


@pytest.mark.parametrize(
    ("left", "steps", "so"), [("4:40", 1, True), ("4:40", 2, False), ("1-00:00:00", 0, False), ("UNLIMITED", 0, False)]
)
def test_only_the_time_limit_counts(left: str, steps: int, so: bool) -> None:
    """A run may be preempted as often as it likes."""
    status = {"step": 5 + steps, "started_at": 5}
    assert limited(slurm.State("RUNNING", "None", left), status, 300) == so
    gained = [{"limit": True, "checkpoint": 4}, {"limit": True, "checkpoint": 6}]
    assert fruitless(gained, status, load().site) is None  # a start between the two


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([0], None),  # the first crash, even before a checkpoint
        ([8], None),
        ([8, 12], None),
        ([8, 8], "twice from step 8 on"),
        ([4, 8, 12], "3 times, site.restarts=2"),
    ],
)
def test_a_crash_is_tried_again_while_it_gains_checkpoints(steps: list[int], why: str | None) -> None:
    said = verdict([{"exit_code": 1, "checkpoint": step} for step in steps], limit=2)
    assert (said is None) == (why is None)
    assert why is None or (said is not None and why in said)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([0], None),
        ([4, 8, 12, 16], None),  # as often as preemption likes to send TERM ahead of it
        ([4, 8, 8], "ended by SIGTERM twice from step 8 on"),
    ],
)
def test_an_end_by_term_is_no_crash_while_it_gains_checkpoints(steps: list[int], why: str | None) -> None:
    rows = [{"exit_code": 143, "checkpoint": step, "saved": True} for step in steps]
    assert verdict(rows, limit=2) == why
    crash = {"exit_code": 1, "checkpoint": 20}
    assert verdict([*rows, crash], limit=1) is None  # they do not count for it
