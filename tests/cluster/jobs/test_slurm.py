"""What Slurm's words mean to a run: states of a job, options of sbatch, refusals, and no answer. Stand-ins for its
programs say what Slurm 22.05 was seen to say; tests/slurm has a real one, which cannot be brought into most of this."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Command

from cluster import config as configs
from cluster import slurm
from cluster.build.shards import write_shards
from cluster.config import load
from cluster.config.shape import Shape
from cluster.errors import RunError
from cluster.jobs import processes
from cluster.jobs import status as jobs
from cluster.jobs.aftermath import fruitless, limited, verdict
from cluster.jobs.launch import launch, resume
from cluster.run.folder import RunFolder
from cluster.slurm import asking

# code, squeue's word, may it still run, what status shows of a run that has said nothing, is a crash in it queued again
STATES = [
    ("BF", "BOOT_FAIL", False, "lost", False),
    ("CA", "CANCELLED", False, "cancelled", False),
    ("CD", "COMPLETED", False, "lost", False),
    ("CF", "CONFIGURING", True, "queued", False),
    ("CG", "COMPLETING", True, "queued", False),
    ("DL", "DEADLINE", False, "lost", False),
    ("F", "FAILED", False, "lost", False),
    ("NF", "NODE_FAIL", False, "lost", False),
    ("OOM", "OUT_OF_MEMORY", False, "lost", False),
    ("PD", "PENDING", True, "queued", False),
    ("PR", "PREEMPTED", False, "lost", False),
    ("R", "RUNNING", True, "queued", True),
    ("RD", "RESV_DEL_HOLD", True, "held", False),
    ("RF", "REQUEUE_FED", True, "queued", False),
    ("RH", "REQUEUE_HOLD", True, "held", False),
    ("RQ", "REQUEUED", True, "queued", False),
    ("RS", "RESIZING", True, "queued", True),
    ("RV", "REVOKED", True, "queued", False),
    ("SI", "SIGNALING", True, "queued", True),
    ("SE", "SPECIAL_EXIT", True, "held", False),
    ("SO", "STAGE_OUT", True, "queued", False),
    ("ST", "STOPPED", True, "queued", True),
    ("S", "SUSPENDED", True, "queued", True),
    ("TO", "TIMEOUT", False, "lost", False),
    ("", "POWER_UP_NODE", True, "queued", False),  # of a later Slurm
]
AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
PROGRAM = """\
#!/bin/sh
echo "$(basename $0) $*" >> {here}/calls
left=$(cat {here}/$(basename $0).away 2>/dev/null || echo 0)
if [ "$left" -gt 0 ]; then
    echo $((left - 1)) > {here}/$(basename $0).away
    cat {here}/away >&2
    exit 1
fi
. {here}/$(basename $0).answer
"""


class Site:
    """A Slurm of programs that answer as they are told to, the only one on the PATH."""

    def __init__(self, here: Path) -> None:
        self.here = here
        (here / "away").write_text(AWAY + "\n")
        for name in ("sbatch", "squeue", "scontrol", "sinfo", "scancel"):
            (here / name).write_text(PROGRAM.format(here=here))
            (here / name).chmod(0o755)
            self.answers(name, "")
        self.answers("sbatch", '[ "$1" = --test-only ] || echo "Submitted batch job 77"')
        self.partition()

    def answers(self, name: str, shell: str) -> None:
        (self.here / f"{name}.answer").write_text(shell + "\n")

    def says(self, state: str, reason: str = "None", left: str = "1:00:00", job: int = 12) -> None:
        self.answers("squeue", f"echo '{job}|{state}|{left}|{reason}'")

    def away(self, name: str, times: int = 10**6) -> None:
        """Its next answers are that the controller is not there."""
        (self.here / f"{name}.away").write_text(f"{times}\n")

    def partition(self, gres: str = "(null)", states: str = "idle idle", limit: str = "UNLIMITED") -> None:
        nodes = "\n".join(f"echo 'n{i}|8|16000|{state}|{gres}'" for i, state in enumerate(states.split()))
        self.answers("sinfo", nodes)
        line = f"PartitionName=gpu Default=YES MaxTime={limit} TotalNodes={len(states.split())}"
        # Slurm ends the job, whose last line asks.
        self.answers("scontrol", f'case "$1" in requeue) kill $PPID;; *) echo "{line} Requeue=1";; esac')

    def calls(self, name: str) -> list[str]:
        file = self.here / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(name + " ")]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # a launch sets both
    return Site(tmp_path / "bin")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "shards"
    write_shards("digits", folder, samples_per_shard=2000)
    return folder


@pytest.fixture
def asked(tmp_path: Path, shards: Path) -> Callable[..., configs.Config]:
    """A configuration, with overrides, whose run is `runs/run`."""
    given = [f"runs_dir={tmp_path / 'runs'}", f"data.root={shards}", "data.dataset=digits", "train.global_batch=160"]
    given.append("train.norm_batch=80")  # else a launch fills it in
    return lambda *words: load(None, [*given, *words])


@pytest.fixture
def run(asked: Callable[..., configs.Config]) -> RunFolder:
    """Of job 12, which has said nothing yet."""
    config = asked()
    folder = RunFolder(config.run_path)
    folder.checkpoints.mkdir(parents=True)
    (folder.path / "launch.yaml").write_text(configs.to_yaml(config))
    record = {"id": "12", "slurm": True, "nodes": 1, "processes": 1, "gpus": 0, "host": None, **folder.mark()}
    (folder.path / "job.json").write_text(json.dumps(record))
    return folder


def row(folder: RunFolder) -> dict[str, Any]:
    (found,) = (row for row in jobs.table(folder.path.parent) if row["run"] == folder.path.name)
    return found


def aftermath(folder: RunFolder, code: int = 1, program: str = "") -> str:
    """The job's last line, in the environment of a job; what it says."""
    program += f"import sys; from cluster.jobs.aftermath import main; sys.exit(main({str(folder.path)!r}, '{code}'))"
    env = os.environ | {"SLURM_JOB_ID": "12", "SLURM_CLUSTER_NAME": "here"}
    out, err = Command(cwd=folder.path, env=env, program=program).communicate()
    assert not err, err
    return out


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


def test_the_states_are_those_of_the_manual() -> None:
    manual, page = Path("/usr/share/man/man1/squeue.1.gz"), Path(__file__).parents[3] / "docs" / "cluster.md"
    assert all(f"`{word}`" in page.read_text() for code, word, *_ in STATES if code)
    if not manual.exists():
        pytest.skip("needs Slurm's manual")
    codes = gzip.decompress(manual.read_bytes()).decode().partition('.SH "JOB STATE CODES"')[2].partition("\n.SH")[0]
    named = re.findall(r"^\\fB([A-Z]+) +([A-Z_]+)\\fR$", codes, re.MULTILINE)
    assert sorted(named) == sorted((code, word) for code, word, *_ in STATES if code)


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


@pytest.mark.parametrize(("minutes", "seconds"), [(5, 300), (6, 300), (1, 1)])
def test_a_signal_before_the_start_is_refused(
    site: Site, asked: Any, tmp_path: Path, minutes: int, seconds: int
) -> None:
    with pytest.raises(RunError, match=f"site.signal_seconds={seconds} leaves no time in site.minutes={minutes}"):
        launch(asked(f"site.minutes={minutes}", f"site.signal_seconds={seconds}"), Shape(1, 1, 0), "slurm")
    assert not (tmp_path / "runs").exists() and not site.calls("sbatch")


TAKEN = """
bb bbf begin comment cpu-freq dependency deadline delay-boot chdir export export-file get-user-env gres-flags
hold ignore-pbs input no-kill licenses container distribution mcs-label nice overcommit power priority profile propagate
reboot oversubscribe core-spec spread-job switches thread-spec time-min use-min-nodes verbose wckey cluster-constraint
contiguous nodefile mincpus reservation tmp nodelist exclude exclusive mem-per-cpu sockets-per-node cores-per-socket
threads-per-core extra-node-info ntasks-per-core ntasks-per-socket gpu-bind gpu-freq gpus-per-socket gpus-per-task
mem-per-gpu gres hint acctg-freq network prefer
"""


def test_each_option_of_sbatch_is_taken_or_refused_by_name() -> None:
    """All that `sbatch --help` of this machine has, long and short; the beginning of a name; `_` for `-`."""
    text = subprocess.run(["sbatch", "--help"], capture_output=True, text=True).stdout if shutil.which("sbatch") else ""
    listed = re.findall(r"^ +(?:-(\w),? +)?--([\w-]+)", text, re.MULTILINE)
    taken = TAKEN.split()
    names = {name for _, name in listed} | {*taken, *slurm.OURS, *slurm.BREAKING}
    for name in sorted(names - {"mem"}):
        refused = name in slurm.OURS or name in slurm.BREAKING
        assert refused != (name in taken), f"nobody has thought of {name}"
        for spelling in (name, name.replace("-", "_"), f" {name} "):
            for entry in (spelling, f"{spelling}=x", f"{spelling} x"):
                if refused:
                    with pytest.raises(RunError, match="leave it out"):
                        slurm.option(entry)
                else:
                    assert slurm.option(entry)[0] == name
    assert {short: name for short, name in listed if short} in ({}, slurm.SHORT)
    for short, name in slurm.SHORT.items():
        if name in taken:
            assert slurm.option(f"{short}=x") == (name, "x")
        else:
            with pytest.raises(RunError):
                slurm.option(short)
    for entry, says in {
        "sig=USR1@10": "site.signal_seconds",
        "no-req": "could not go on",
        "mem=4G": "site.memory_gb",
        "gres=gpu:4": "--gpus-per-node",
        "gres=lustre:1,gpu:a100:2": "--gpus-per-node",
        "": "without dashes",
    }.items():
        with pytest.raises(RunError, match=says):
            slurm.option(entry)
    assert slurm.option("mem=0") == ("mem", "0") and slurm.option("gres=lustre:1") == ("gres", "lustre:1")
    assert slurm.option("comment=a=b c") == ("comment", "a=b c")


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


NEVER = "allocation failure: Requested node configuration is not available"


@pytest.mark.parametrize(
    ("states", "said", "shape", "waits"),
    [
        ("idle drained", NEVER, Shape(2, 1, 0), "n1 drained"),
        ("down* down*", NEVER, Shape(1, 1, 0), "n0 down*, n1 down*"),
        ("maint idle", NEVER, Shape(2, 8, 0), "n0 maint"),
        ("allocated mixed", "allocation failure: Requested nodes are busy", Shape(1, 1, 0), "Requested nodes are busy"),
        ("idle drained", NEVER, Shape(3, 1, 0), None),  # it has two
        ("idle drained", NEVER, Shape(2, 9, 0), None),  # of 8 cores
        ("idle drained", NEVER, Shape(2, 1, 1), None),  # and no GPU
        ("idle idle", NEVER, Shape(2, 1, 0), None),  # something else
        ("idle drained", "allocation failure: Invalid feature specification", Shape(2, 1, 0), None),
    ],
)
def test_what_cannot_begin_now_waits_and_what_never_can_is_refused(
    site: Site, asked: Any, tmp_path: Path, capsys: Any, states: str, said: str, shape: Shape, waits: str | None
) -> None:
    site.partition(states=states)
    site.answers("sbatch", f'[ "$1" = --test-only ] && echo "{said}" >&2 && exit 1; echo "Submitted batch job 77"')
    config = asked("train.global_batch=144", "train.norm_batch=null")
    if waits is None:
        with pytest.raises(RunError, match="Slurm refuses the job: "):
            launch(config, shape, "slurm")
        assert not (tmp_path / "runs").exists()
        return
    assert launch(config, shape, "slurm") == 0
    told = capsys.readouterr()
    assert "is job 77" in told.out and f"cannot begin the job now, and it will wait ({waits})" in told.err


@pytest.mark.parametrize(
    ("minutes", "partition", "limit", "refused"),
    [(1440, None, "1-00:00:00", False), (1441, None, "1-00:00:00", True), (10**5, None, "UNLIMITED", False)],
)
def test_the_limit_of_a_partition(
    site: Site, asked: Any, minutes: int, partition: str | None, limit: str, refused: bool
) -> None:
    site.partition(limit=limit)
    config = asked(f"site.minutes={minutes}")
    if refused:
        with pytest.raises(RunError, match="above the limit of partition gpu, 1440"):
            launch(config, Shape(1, 1, 0), "slurm")
    else:
        assert launch(config, Shape(1, 1, 0), "slurm") == 0


@pytest.mark.parametrize(
    ("gres", "gpus", "said"), [("gpu:a100:4(S:0-1)", 0, "--gpus-per-node 4"), ("(null)", 0, ""), ("gpu:4", 4, "")]
)
def test_gpus_that_nobody_asked_for(site: Site, asked: Any, capsys: Any, gres: str, gpus: int, said: str) -> None:
    site.partition(gres=gres)
    assert launch(asked(), Shape(1, 1, gpus), "slurm") == 0
    err = capsys.readouterr().err
    assert ("none is asked for" in err) == bool(said) and said in err


def test_gpus_that_are_not_there(site: Site, asked: Any) -> None:
    site.answers("sbatch", "echo 'sbatch: error: Invalid generic resource (gres) specification' >&2; exit 1")
    with pytest.raises(RunError, match="gres.* specification; no node of partition gpu has GPUs"):
        launch(asked(), Shape(1, 1, 4), "slurm")


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


def test_a_row_for_programs_has_numbers_and_one_for_people_words(site: Site, run: RunFolder, capsys: Any) -> None:
    site.says("RUNNING", left="1:00:05")
    facts = {"loss": 1.25, "images_per_second": 236.4, "seconds_left": 61.0, "restarts": "2"}
    run.tell("running", step=3, total=64, **facts)
    (run.checkpoints / "step-00000002").mkdir()
    found = row(run)
    assert found.pop("seconds_since_heard") < 60
    assert found == {
        **{"run": "run", "state": "running", "job": "12", "job_state": "running", "step": 3, "total_steps": 64},
        **{"loss": 1.25, "images_per_second": 236.4, "restarts": 2, "seconds_left": 61.0, "job_seconds_left": 3605},
        **{"checkpoint": 2, "reason": ""},
    }
    assert all(re.fullmatch("[a-z_]+", key) for key in found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        jobs.show(run.path.parent, False)
    said = capsys.readouterr().out
    assert "1 min 01 s" in said and "1 h 00 min" in said and "3/64" in said and "236" in said and "236.4" not in said
