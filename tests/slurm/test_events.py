"""Every way in which a cluster ends or disturbs a job, on a real Slurm with two nodes: the run goes on by itself, and
its metrics and weights are those of a run that nothing disturbed, to the bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from forked import Ranks
from same_run import assert_equal

from cluster.build.shards import write_shards
from cluster.config import load
from cluster.run import checkpoint
from cluster.run.folder import RunFolder, exclusive
from cluster.run.records import write_atomic

pytestmark = pytest.mark.timeout(3000)  # six starts of four ranks on two cores, which others may keep busy

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all, cm: 1, pm: 2}
data: {dataset: digits, root: SHARDS, workers: 1, augment: {crop_padding: 1, flip: 0.5}}
train: {epochs: 2, global_batch: 140, lr: 0.003, ema_decay: 0.9, threads: 1}
engine: {timeout_minutes: 5}
recompute: {policy: none}
checkpoint: {every_steps: 4, keep: 2}
log: {every_steps: 1}
site: {minutes: 20, signal_seconds: 30}
"""
EPOCH, TOTAL = 10, 20
HELD = """\
import os, signal, time
from pathlib import Path

def hold(trainer):
    last = trainer.rank == trainer.world - 1
    while True:
        step, *cut_off = Path("{file}").read_text().split()
        if trainer.state.step < int(step) or any(trainer.notice.seen):
            return
        if not last:
            trainer.watchdog.seconds = 5 if cut_off else 300
            return
        if cut_off:
            os.kill(os.getpid(), signal.SIGSTOP)
        trainer.watchdog.alive()
        time.sleep(0.05)
"""
"""After a step, the last rank waits for another one to be named or to be asked to stop, and the others wait for it in
the next step. There the run meets what happens to it, however long that takes to come."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    write_shards("digits", folder / "shards", samples_per_shard=500)
    (folder / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(folder / "shards")))
    return folder / "recipe.yaml"


@pytest.fixture(autouse=True)
def nothing_left(slurm) -> Iterator[None]:
    """The next test finds both nodes idle, whatever became of this one."""
    yield
    slurm.clear()


class Run:
    """A launched run."""

    def __init__(self, slurm, recipe: Path, runs: Path, processes: int, *words: str) -> None:
        self.slurm, self.runs = slurm, runs
        shape = ("--nodes", 2, "--processes-per-node", processes)
        self.last = 2 * processes - 1  # rank; it is on the last node
        done = slurm.launch(recipe, f"runs_dir={runs}", *shape, *words)
        assert done.returncode == 0, done.stderr
        self.folder = RunFolder(runs / "run")
        self.id = json.loads((self.folder.path / "job.json").read_text())["id"]

    def in_its_step(self, line: str) -> None:
        """Put `line` after each step of a run that is held, into its own snapshot of the code, and let it start."""
        file = self.folder.path / "code" / "cluster" / "train" / "loop.py"
        step = "        state.step += 1\n"
        assert file.read_text().count(step) == 1
        file.write_text(file.read_text().replace(step, f"{step}        {line}\n"))
        self.slurm.run("scontrol", "release", self.id)
        self.slurm.wait(lambda: self.state() == "RUNNING", "it starts")
        self.begun = time.monotonic()

    def start_held(self, step: int) -> None:
        """Let a run that is held by Slurm start, to be held after that step by `HELD`."""
        self.hold(step)
        (self.folder.path / "code" / "cluster" / "held.py").write_text(HELD.format(file=self.runs / "hold"))
        self.in_its_step('__import__("cluster.held").held.hold(self)')

    def hold(self, step: int, *words: str) -> None:
        """After this step from now on."""
        self.held = step
        write_atomic(self.runs / "hold", " ".join([str(step), *words]).encode())

    def reach(self, step: int) -> None:
        rows = self.folder.metrics.read
        self.slurm.wait(lambda: any(row["step"] >= step for row in rows()), f"step {step}", self.log)

    def rows(self) -> int:
        return len(self.folder.metrics.read())

    def until(self, rows: int) -> None:
        self.slurm.wait(lambda: self.rows() >= rows, f"{rows} rows", self.log)

    def state(self) -> str:
        return self.slurm.job(self.id)

    def queued(self, restarts: int) -> None:
        """Wait until Slurm has queued it again, and nothing is left of the start before: begun earlier, the next one
        has the same numbers, so that an old srun would end its step, and the end of the old script be taken for its
        own."""
        self.slurm.wait(lambda: f" Restarts={restarts} " in self.facts(), "queued again", self.log)
        self.slurm.wait(lambda: self.state() == "RUNNING" or self.slurm.empty(), "the old start is gone")

    def begin(self) -> None:
        """Let it begin at once."""
        # Asked while it is completing, Slurm may forget that it is to be queued again.
        self.slurm.wait(lambda: self.state() in ("PENDING", "RUNNING"), "is queued", self.log)
        # slurmd refuses what was started in the second in which it ended the job, and Slurm then fails it.
        second = int(time.time())
        self.slurm.wait(lambda: int(time.time()) > second, "the next second")
        now = ["scontrol", "update", f"jobid={self.id}", "TimeLimit=20", "StartTime=now"]
        subprocess.run(now, env=self.slurm.env, capture_output=True)  # refused where it runs already
        self.slurm.wait(lambda: self.state() == "RUNNING", "starts again", self.log)

    def facts(self) -> str:
        return self.slurm.run("scontrol", "show", "job", "-o", self.id)

    def finished(self) -> None:
        """Wait for the end, and see that nothing is left of it."""
        self.slurm.wait(lambda: self.state() in ("COMPLETED", "FAILED", "CANCELLED"), "ends", self.log)
        assert self.state() == "COMPLETED", self.log()
        assert self.folder.status()["state"] == "finished" and self.folder.summary() is not None
        self.slurm.wait(self.slurm.empty, "nothing is left")

    def log(self) -> str:
        return "\n".join(p.read_text() for p in sorted(self.folder.path.glob("logs/*.out")))

    def starts(self) -> list[int]:
        """The step that each start but the first went on from."""
        return [int(step) for step in re.findall(r"^goes on from step (\d+)", self.log(), re.MULTILINE)]

    def saved_steps(self) -> list[int]:
        return [checkpoint.step_of(p) for p in checkpoint.complete(self.folder.checkpoints)]


@pytest.fixture(scope="module")
def undisturbed(slurm, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder of a run that nothing happened to, not even Slurm, by processes a node; made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(processes: int) -> Path:
        runs = base / f"undisturbed-{processes}"
        with exclusive(runs, wait=1500):
            config = load(recipe, [f"runs_dir={runs}", "data.workers=0"])
            if RunFolder(config.run_path).summary() is None:
                with Ranks(config, 2 * processes, slurm.env) as ranks:
                    assert ranks.end(600) == [0] * 2 * processes
            assert len(RunFolder(config.run_path).metrics.read()) == TOTAL + 2
        return runs

    return get


def usr2(run: Run) -> None:
    run.slurm.run("scancel", "--signal=USR2", run.id)


def requeue(run: Run) -> None:
    run.slurm.run("scontrol", "requeue", run.id)


def preempt(run: Run) -> None:
    """By a job of higher priority that takes both nodes for a second."""
    run.slurm.run("sbatch", "-p", "high", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")


def node_down(run: Run) -> None:
    restarts = len(run.starts()) + 1
    run.slurm.run("scontrol", "update", f"nodename={run.slurm.last}", "state=down", "reason=test")
    run.queued(restarts)
    run.slurm.run("scontrol", "update", f"nodename={run.slurm.last}", "state=resume")


def time_limit(run: Run) -> None:
    """A new one, in whole minutes since the start, for a job that asked for USR2 90 seconds before its end, and that
    Slurm ends five minutes after it."""
    minutes = int(time.monotonic() - run.begun + 30) // 60 + 1
    run.slurm.run("scontrol", "update", f"jobid={run.id}", f"TimeLimit={minutes}")


def kill_a_rank(run: Run) -> None:
    (pid,) = run.slurm.ranks(run.last)
    os.kill(pid, signal.SIGKILL)


def cut_off(run: Run) -> None:
    """A peer that neither answers nor hangs up, as behind a network that drops everything: it stops itself, and the
    others give it 5 seconds."""
    (pid,) = run.slurm.ranks(run.last)
    run.hold(run.held + 1, "cut off")
    run.slurm.wait(lambda: {*run.slurm.ranks()} <= {pid}, "the others end", run.log)
    with suppress(ProcessLookupError):  # Slurm lets it go on, to hear of the others' end
        os.kill(pid, signal.SIGKILL)  # or would, after its KillWait


def lose_host(run: Run) -> None:
    """Its daemon and its processes are gone at once; the job starts again when the host is back."""
    os.kill(run.slurm.node_pid(run.slurm.last), signal.SIGKILL)
    kill_a_rank(run)
    run.slurm.wait(lambda: run.state() != "RUNNING", "Slurm notices", run.log)
    run.slurm.start_node(run.slurm.last)


def kill_a_daemon(run: Run) -> None:
    """Of a run that does not notice; it is held, or would be over before the commands that follow."""
    run.start_held(3)
    run.reach(3)
    os.kill(run.slurm.node_pid(run.slurm.last), signal.SIGKILL)
    run.hold(6)
    run.reach(6)
    assert run.state() == "RUNNING"
    run.slurm.start_node(run.slurm.last)


def stop(run: Run) -> int:
    """With `tdformer stop`; returns the step that it saved."""
    assert run.slurm.cli("stop", run.folder.path).returncode == 0
    run.slurm.wait(lambda: run.state() == "CANCELLED", "it is cancelled", run.log)
    run.slurm.wait(lambda: not run.slurm.ranks(), "the ranks end")
    status = run.folder.status()
    assert status["state"] == "saved" and "SIGTERM" in status["reason"]
    assert run.saved_steps()[0] == status["step"] == run.rows() - (status["step"] > EPOCH)
    return status["step"]


IN_TIME = (usr2, time_limit)
"""Events that the run hears of early enough to save: no step is computed twice."""


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    ("partition", "events"),
    [("grace", (time_limit, cut_off, preempt, lose_host)), ("low", (usr2, requeue, preempt, node_down, kill_a_rank))],
    ids=["grace", "low"],
)
def test_it_goes_on_as_if_nothing_had_happened(
    slurm,
    recipe: Path,
    tmp_path: Path,
    undisturbed,
    partition: str,
    events: tuple[Callable[[Run], None], ...],
    processes: int,
) -> None:
    """One run, one event after the other."""
    whole = undisturbed(processes)
    words = (f"site.partition={partition}", "site.sbatch=[hold]", "site.signal_seconds=90", "site.restarts=9")
    run = Run(slurm, recipe, tmp_path, processes, *words)
    steps = [*range(3, 3 * len(events) + 1, 3), TOTAL + 1]
    for number, (event, step, following) in enumerate(zip(events, steps, steps[1:], strict=False), 1):
        if number == 1:
            run.start_held(step)
        run.reach(step)
        slurm.wait(lambda: len(slurm.workers()) >= 2 * processes, "loader workers of all ranks", run.log)
        event(run)
        run.queued(number)
        run.hold(following)
        run.begin()
        slurm.wait(lambda n=number: len(run.starts()) == n, "goes on", run.log)
        begun = run.starts()[-1]
        if event in IN_TIME or (event is preempt and partition == "grace"):
            assert begun == step + 1, (event, run.log())
            assert f"stopped by SIGUSR2 after step {begun}, saved" in run.log(), (event, run.log())
        assert begun > step - 4, (event, run.log())  # a checkpoint every 4 steps
    run.finished()
    assert run.folder.status()["restarts"] == str(len(events))
    assert_equal(whole, tmp_path)


def test_a_killed_daemon_disturbs_nothing_and_stop_and_resume(slurm, recipe: Path, tmp_path: Path, undisturbed) -> None:
    whole = undisturbed(1)
    run = Run(slurm, recipe, tmp_path, 1, "site.sbatch=[hold]")
    kill_a_daemon(run)
    refused = slurm.cli("launch", recipe, f"runs_dir={tmp_path}", "--nodes", 2)
    assert refused.returncode == 2 and f"is job {run.id} already, and runs without site.sbatch=[]" in refused.stderr
    again = slurm.cli("launch", recipe, f"runs_dir={tmp_path}", "--nodes", 2, "site.sbatch=[hold]")
    assert again.returncode == 0 and f"is job {run.id} already (running)" in again.stdout
    rows = [json.loads(line) for line in slurm.cli("status", tmp_path, "--json").stdout.splitlines()]
    assert [(r["run"], r["state"], r["job"], r["job_state"]) for r in rows] == [("run", "running", run.id, "running")]
    step = stop(run)
    assert slurm.cli("resume", run.folder.path, "site.sbatch=[]").returncode == 0
    run.id = json.loads((run.folder.path / "job.json").read_text())["id"]
    run.finished()
    assert f"goes on from step {step} of {TOTAL}" in slurm.cli("logs", "-f", run.folder.path).stdout
    assert_equal(whole, tmp_path)
    assert "is finished" in slurm.cli("launch", recipe, f"runs_dir={tmp_path}", "--nodes", 2).stdout


def test_on_with_fewer_nodes_and_another_zero_stage(slurm, recipe: Path, tmp_path: Path, undisturbed) -> None:
    """After a killed daemon and a stop with two ranks a node."""
    whole = RunFolder(undisturbed(2) / "run").metrics.read()
    run = Run(slurm, recipe, tmp_path, 2, "site.sbatch=[hold]")
    kill_a_daemon(run)
    stop(run)
    before = run.folder.metrics.read()
    assert before == whole[: len(before)]
    words = ("--nodes", 1, "--processes-per-node", 2, "engine.zero_stage=2")
    done = slurm.cli("launch", recipe, f"runs_dir={tmp_path}", *words)
    assert done.returncode == 0, done.stderr
    run.id = json.loads((run.folder.path / "job.json").read_text())["id"]
    run.finished()
    rows = run.folder.metrics.read()
    assert [row["step"] for row in rows] == [row["step"] for row in whole]
    # Sums in another order: a membrane potential at its threshold may fire or not, and later steps differ by more.
    for number, (row, expected) in enumerate(zip(rows, whole, strict=True)):
        near = 1e-4 if number <= len(before) else 1e-2
        assert "loss" not in row or row["loss"] == pytest.approx(expected["loss"], rel=near)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bug_that_raises_is_tried_again_until_nothing_is_gained(
    slurm, recipe: Path, tmp_path: Path, processes: int
) -> None:
    """The bug is put into the run's own snapshot of the code: that is what runs."""
    python = f"env {sys.executable}"  # as a container's would be
    run = Run(slurm, recipe, tmp_path, processes, "site.sbatch=[hold]", f"site.python={python}")
    script = slurm.run("scontrol", "write", "batch_script", run.id, "-")
    assert f" {python} -u -m submitit.core._submit " in script and f"exec {python} -m cluster.jobs.aftermath " in script
    run.in_its_step('assert state.step != 6, "a bug"')
    run.queued(1)
    run.begin()
    # Slurm calls a job FAILED for a moment between a crash and being queued again.
    slurm.wait(lambda: run.folder.status()["state"] == "failed" and run.state() == "FAILED", "fails", run.log)
    status = run.folder.status()
    assert (status["state"], status["restarts"]) == ("failed", "1")
    assert "twice from step 4 on" in status["reason"] and "AssertionError: a bug" in run.log()
    assert run.saved_steps() == [4]


def test_a_users_error_is_not_tried_again(slurm, recipe: Path, tmp_path: Path) -> None:
    run = Run(slurm, recipe, tmp_path, 1, "site.sbatch=[hold]")
    launched = run.folder.path / "launch.yaml"
    launched.write_text(launched.read_text().replace("global_batch: 140", "global_batch: 141"))
    slurm.run("scontrol", "release", run.id)
    slurm.wait(lambda: run.state() == "FAILED", "fails", run.log)
    assert run.folder.status()["state"] == "failed" and "global_batch=141" in run.folder.status()["reason"]
    assert slurm.job(run.id, "%r") != "PENDING"


def test_a_queued_run_that_is_copied_or_moved(slurm, recipe: Path, tmp_path: Path) -> None:
    """A copy leaves the job alone and gets its own; what was moved has its job, which must end first."""
    run = Run(slurm, recipe, tmp_path, 1, "site.sbatch=[hold]")
    copy, moved = Path(shutil.copytree(run.folder.path, tmp_path / "copy")), tmp_path / "moved"
    refused = slurm.cli("stop", copy)
    assert refused.returncode == 2 and f"copy of {run.folder.path}, whose job {run.id} is" in refused.stderr
    (row,) = [json.loads(line) for line in slurm.cli("status", copy, "--json").stdout.splitlines()]
    assert (row["run"], row["state"], row["job"]) == ("copy", "copied", None) and run.state() == "PENDING"
    run.folder.path.rename(moved)
    hold = "site.sbatch=[hold]"  # stored, it could be anybody's
    refused = slurm.cli("resume", moved)
    assert refused.returncode == 2 and "has a stored command, site.sbatch=[hold]" in refused.stderr
    refused = slurm.cli("resume", moved, hold)
    assert refused.returncode == 2 and f"became job {run.id}, which is pending and cannot write here" in refused.stderr
    assert slurm.cli("stop", moved).returncode == 0
    slurm.wait(lambda: run.state() == "CANCELLED", "it is cancelled")
    ids = [run.id]
    for folder in (copy, moved):
        assert slurm.cli("resume", folder, hold).returncode == 0
        ids.append(json.loads((folder / "job.json").read_text())["id"])
        script = slurm.run("scontrol", "write", "batch_script", ids[-1], "-")
        assert f"{folder}/code" in script and f"{run.folder.path}/" not in script
    assert len(set(ids)) == 3 and not run.folder.path.exists()


def test_what_cannot_work_is_refused_before_it_is_queued(slurm, recipe: Path, tmp_path: Path) -> None:
    before = slurm.run("squeue", "-h", "--states=all", "-o", "%i")
    for words, said in (
        (("--nodes", 4), "Slurm refuses the job"),
        (("site.partition=none",), "Slurm refuses the job: "),
        (("site.minutes=90",), "site.minutes=90 is above the limit of partition low, 60"),
        (("--gpus-per-node", 4), "Slurm refuses the job: "),
        (
            ("--nodes", 2, "train.global_batch=101", "train.micro_batch=0"),
            "train.global_batch=101 is not divisible by the 2 processes",
        ),
        (("site.partitio=low",), "the nearest is site.partition"),
    ):
        done = slurm.launch(recipe, f"runs_dir={tmp_path}", *words)
        assert done.returncode == 2 and said in done.stderr, (words, done.stderr)
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists() and slurm.run("squeue", "-h", "--states=all", "-o", "%i") == before


def test_a_dry_run_prints_the_job(slurm, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "account: vision\npartition: low\nsetup: [module load cuda]\nmail: me@lab.org\n"
    )
    words = ("--nodes", 2, "--processes-per-node", 2, "--site", tmp_path / "site.yaml", "--dry-run")
    done = slurm.cli("launch", recipe, f"runs_dir={tmp_path}", *words)
    assert done.returncode == 0, done.stderr
    for line in ("--account=vision", "--nodes=2", "--ntasks-per-node=2", "--signal=USR2@30", "--mail-type=END,FAIL"):
        assert f"#SBATCH {line}\n" in done.stdout
    assert "\nmodule load cuda\n" in done.stdout and "--kill-on-bad-exit=1" in done.stdout
    assert not (tmp_path / "run").exists()


def test_a_rank_that_dies_while_slurm_does_not_answer(slurm, recipe: Path, tmp_path: Path) -> None:
    """The controller is stopped meanwhile; the job's last line, which asks for 2 seconds at a time here, asks again."""
    run = Run(slurm, recipe, tmp_path, 1, "site.sbatch=[hold]")
    file = run.folder.path / "code" / "cluster" / "slurm" / "asking.py"
    file.write_text(file.read_text().replace("ANSWER = 60.0", "ANSWER = 2.0"))
    run.in_its_step("time.sleep(0.5)")
    run.until(5)
    controller = int((slurm.folder / "run" / "slurmctld.pid").read_text())
    os.kill(controller, signal.SIGSTOP)
    try:
        kill_a_rank(run)
        # srun ends after Slurm's MessageTimeout, as the controller does not take its word that the ranks have.
        slurm.wait(lambda: "Slurm does not answer" in run.log(), "the last line asks", run.log)
    finally:
        os.kill(controller, signal.SIGCONT)
    run.queued(1)
    (crash,) = run.folder.crashes.read()
    assert crash["job"] == run.id and crash["checkpoint"] == 4
    assert run.folder.status()["state"] == "saved"


def test_a_term_that_slurm_did_not_send_is_heard_and_the_run_goes_on(slurm, recipe: Path, tmp_path: Path) -> None:
    """To one rank, then to the job's script alone, which waits for the ranks."""
    run = Run(slurm, recipe, tmp_path, 1, "site.sbatch=[hold]")
    run.in_its_step('time.sleep(0 if "SLURM_RESTART_COUNT" in __import__("os").environ else 1)')
    run.until(3)
    (script,) = (pid for pid in slurm.processes("slurm_script") if b"slurm_script" in _cmdline(pid))
    os.kill(script, signal.SIGTERM)
    run.until(5)
    assert run.state() == "RUNNING"
    os.kill(slurm.ranks()[-1], signal.SIGTERM)
    run.queued(1)
    assert "ended by SIGTERM, and not by Slurm: to be queued again" in run.log()
    saved = run.saved_steps()[0]
    run.begin()
    run.finished()
    assert run.starts() == [saved] and len(run.folder.metrics.read()) == TOTAL + 2


def _cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
