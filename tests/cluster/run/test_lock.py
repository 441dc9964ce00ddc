"""One process at a time in a folder, where flock works, where it shows a dead host's, and where there is none: holders
are real processes, other hosts are namespaces of processes, and a file system without flock is a kernel that refuses
it (seccomp)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from forked import Command, children

from cluster.run.folder import RunFolder
from cluster.run.lock import SILENT, Fate, Holder, exclusive, judge

ROOT = Path(__file__).parents[3]
HERE = Holder.me()
BEATS = """
from cluster.run import lock
lock.BEAT, lock.PAUSE, lock.SILENT, lock.ASK = 0.1, 0.5, 2.0, 0.2
"""
REFUSE = """
import ctypes, platform, struct
FLOCK, LINK = {"x86_64": ((73,), (86, 265)), "aarch64": ((32,), (37,))}[platform.machine()]
def refuse(errno, calls):
    # Each call in turn: if it is this one, return errno; then, allow it.
    code = [(0x20, 0, 0, 0)]
    for number in calls:
        code += [(0x15, 0, 1, number), (6, 0, 0, 0x50000 | errno)]
    code.append((6, 0, 0, 0x7FFF0000))
    rules = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(rules)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
        raise SystemExit(77)
"""
HOLD = """
import sys
from pathlib import Path
with lock.exclusive(Path(sys.argv[1]), wait=float(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.readline()
    lock.check(Path(sys.argv[1]))
    print("wrote", flush=True)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a process that holds `tmp_path/run` once it has it: `elsewhere` on what looks like another host."""
    started: list[subprocess.Popen[str]] = []

    def start(elsewhere: bool = False, flock: bool = True, wait: float = 0.0, **env: str) -> subprocess.Popen[str]:
        program = BEATS + ("" if flock else f"{REFUSE}\nrefuse(38, FLOCK)\n") + HOLD
        command = [sys.executable, "-c", program, str(tmp_path / "run"), str(wait)]
        if elsewhere:
            command = [*OTHER_HOST, *command]
        given = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")} | env
        given["PYTHONPATH"] = str(ROOT)
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=given, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


OTHER_HOST = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--pid", "--fork", "--kill-child"]
other_hosts = pytest.mark.skipif(
    bool(subprocess.run([*OTHER_HOST, "true"], capture_output=True).returncode),
    reason="another host needs a namespace of processes (root, or user namespaces)",
)


def ends(process: subprocess.Popen[str]) -> str:
    """Let a holder that has it write and end; its standard error."""
    out, err = process.communicate("\n", timeout=60)
    assert (process.returncode, out[-6:]) == (0, "wrote\n"), (out, err)
    return out + err


def held(process: subprocess.Popen[str]) -> None:
    """Return once it has the folder."""
    assert process.stdout.readline() == "held\n", process.stderr.read()


# Every holder, whatever flock shows of it, whatever Slurm says, and however long it has been silent -------------------


def _gone() -> Holder:
    child = subprocess.Popen(["sleep", "60"])
    record = replace(HERE, pid=child.pid, started=Path(f"/proc/{child.pid}/stat").read_text().split()[21])
    child.kill()
    child.wait()
    return record


def _expected(name: str, locked: bool | None, over: bool | None, silent: bool) -> Fate:
    held, free, gone = Fate.HELD, Fate.FREE, Fate.OVER
    if name in ("released", "alive here"):
        return free if name == "released" else held
    if name in ("dead here", "its number used again here"):
        return held if locked else free  # where another user's processes cannot be seen, flock can
    if name == "a later start of the job":
        return held
    if locked is False:
        return free
    if name == "an earlier start of the job":
        return gone
    if name == "another job" and over is not None:
        return gone if over else held
    return gone if silent and locked is None else held


OTHER = replace(HERE, kernel="another", host="other")
MINE = replace(HERE, job="7", cluster="ci", restart=1)
HOLDERS: dict[str, Callable[[], Holder]] = {
    "released": lambda: replace(OTHER, released=1, job="8"),
    "alive here": lambda: HERE,
    "dead here": _gone,
    "its number used again here": lambda: replace(HERE, started="1"),
    "another host": lambda: OTHER,
    "another job": lambda: replace(OTHER, job="8", cluster="ci"),
    "a job of another cluster": lambda: replace(OTHER, job="7", cluster="other"),
    "an earlier start of the job": lambda: replace(OTHER, job="7", cluster="ci", restart=0),
    "the same start of the job": lambda: replace(OTHER, job="7", cluster="ci", restart=1),
    "a later start of the job": lambda: replace(OTHER, job="7", cluster="ci", restart=2),
    "an earlier version": lambda: Holder.read(json.dumps({"pid": 1, "host": "other"}).encode(), Path("lock")),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_what_has_become_of_a_holder(name: str) -> None:
    record = HOLDERS[name]()
    for locked, over, silence in product((True, False, None), (True, False, None), (0.0, SILENT + 1)):
        asked = over if name != "a job of another cluster" else None  # whose Slurm is not asked
        fate = judge(record, MINE, locked, silence, lambda _, asked=asked: asked)
        assert fate is _expected(name, locked, over, silence > SILENT), (locked, over, silence)


# Real ones ------------------------------------------------------------------------------------------------------------


def told(program: str, folder: Path) -> list[str]:
    """The lines of a program that refuses itself what file systems may lack."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    if done.returncode == 77:
        pytest.skip("needs seccomp")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


WITHOUT = (
    BEATS
    + REFUSE
    + """
import os, signal, sys, time
from pathlib import Path
from cluster.errors import InUse
for name in ("ENOSYS", "EOPNOTSUPP", "ENOLCK", "EINVAL"):
    import errno
    folder = Path(sys.argv[1]) / name
    down, up = os.pipe(), os.pipe()
    if not (pid := os.fork()):
        refuse(getattr(errno, name), FLOCK)
        with lock.exclusive(folder):
            if not (worker := os.fork()):
                time.sleep(60)
            os.write(up[1], f"{worker}\\n".encode())
            os.read(down[0], 1)
        os._exit(0)
    worker = int(os.read(up[0], 100))
    judged = os.fork()
    if not judged:
        refuse(getattr(errno, name), FLOCK)
        try:
            with lock.exclusive(folder):
                os._exit(1)
        except InUse as error:
            assert f"process {pid} on " in str(error)
        os.kill(pid, signal.SIGKILL)
        with lock.exclusive(folder, wait=5):  # at once, though its worker lives: waits only for the kernel
            os.kill(worker, 0)
        with lock.exclusive(folder):  # it was given back
            os._exit(0)
    assert os.waitpid(judged, 0)[1] == 0, name
    os.kill(worker, signal.SIGKILL)
    print(name, *sorted(os.listdir(folder)))
"""
)


def test_where_there_is_no_flock(tmp_path: Path) -> None:
    """Each error that a file system may give: held by a living process, freed by its death and at the end."""
    assert told(WITHOUT, tmp_path) == [f"{n} lock.3" for n in ("ENOSYS", "EOPNOTSUPP", "ENOLCK", "EINVAL")]


CROWD = (
    BEATS
    + REFUSE
    + """
import os, sys, time
from pathlib import Path
for name in ("flock", "none", "no-links"):
    folder = Path(sys.argv[1]) / name
    crowd = []
    for n in range(6):
        if not (pid := os.fork()):
            if name != "flock":
                refuse(38, FLOCK)
            if name == "no-links":
                refuse(1, LINK)
            for _ in range(4):
                with lock.exclusive(folder, wait=60):
                    count = folder / "count"
                    before = int(count.read_text()) if count.exists() else 0
                    time.sleep(0.002)
                    count.write_text(str(before + 1))
            os._exit(0)
        crowd.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in crowd] == [0] * 6
    print(name, (folder / "count").read_text(), *sorted(os.listdir(folder)))
"""
)


def test_a_crowd_has_it_one_at_a_time(tmp_path: Path) -> None:
    assert told(CROWD, tmp_path) == [f"{name} 24 count lock.24" for name in ("flock", "none", "no-links")]


@other_hosts
def test_another_host_without_flock(tmp_path: Path, holder: Callable[..., Any]) -> None:
    """Held while it gives signs of life; free at once when given back, and after a silence when it was killed."""
    first = holder(elsewhere=True, flock=False)
    held(first)
    time.sleep(3)  # longer than the silence that counts
    second = holder(flock=False)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 1 and "is in use by process " in said and "heard of 0 s ago" in said
    ends(first)
    third = holder(elsewhere=True, flock=False)
    held(third)
    third.kill()
    fourth = holder(flock=False, wait=60)
    held(fourth)
    assert f"{tmp_path / 'run'} is taken over from process " in ends(fourth)


@other_hosts
@pytest.mark.parametrize("flock", [True, False])
def test_a_requeued_job_takes_over_from_a_host_that_is_cut_off(
    tmp_path: Path, holder: Callable[..., Any], flock: bool
) -> None:
    """The stopped process still has its flock; when it goes on, it ends without another write."""
    job = {"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "ci"}
    first = holder(elsewhere=True, flock=flock, **job)
    held(first)
    (inside,) = children(first.pid)
    os.kill(inside, signal.SIGSTOP)
    other = holder(**job | {"SLURM_JOB_ID": "8"})
    _, said = other.communicate(timeout=60)
    assert other.returncode == 1 and "is in use by process 1 on " in said and "(job 7)" in said
    again = holder(flock=flock, **job, SLURM_RESTART_COUNT="1")
    held(again)
    os.kill(inside, signal.SIGCONT)
    out, said = first.communicate("\n", timeout=60)
    assert first.returncode == 1 and "wrote" not in out and "was taken over by process " in said
    assert "is taken over from process 1 on " in ends(again)


SQUEUE = """\
#!/bin/sh
echo "$@" >>"$0.log"
case "$(cat "$0.state")" in
silent) echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1;;
gone) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1;;
*) echo "7|RUNNING|1:00:00|None";;
esac
"""


@other_hosts
def test_a_job_that_slurm_calls_gone_has_nothing_any_more(tmp_path: Path, holder: Callable[..., Any]) -> None:
    """Its host is lost and its flock still shows. While Slurm says that it runs, or nothing, it holds."""
    squeue, answer = tmp_path / "squeue", tmp_path / "squeue.state"
    squeue.write_text(SQUEUE)
    squeue.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CLUSTER_NAME": "ci"}
    first = holder(elsewhere=True, SLURM_JOB_ID="7", **path)
    held(first)
    (inside,) = children(first.pid)
    os.kill(inside, signal.SIGSTOP)
    for state in ("running", "silent"):
        answer.write_text(state)
        other = holder(wait=1, **path)
        assert "(job 7)" in other.communicate(timeout=60)[1] and other.returncode == 1, state
    answer.write_text("gone")
    other = holder(**path)
    held(other)
    assert "is taken over from process 1 on " in ends(other)


def test_a_launched_start_that_does_not_get_it_is_tried_again(tmp_path: Path) -> None:
    """Exit code 1, which the job's last line queues again, and no verdict."""
    from cluster.build.shards import write_shards
    from cluster.config import load, to_yaml

    write_shards("digits", tmp_path / "shards")
    given = [f"runs_dir={tmp_path}", "data.dataset=digits", f"data.root={tmp_path / 'shards'}", "train.norm_batch=128"]
    config = load(None, given)
    folder = RunFolder(tmp_path / "run")
    folder.open(config)
    (folder.path / "launch.yaml").write_text(to_yaml(config))
    program = (
        "import sys; from pathlib import Path; from cluster.jobs import processes, rank; processes.WAIT = 0.2\n"
        "rank.Job(Path(sys.argv[1]))()"
    )
    place = {"EXECUTOR": "local", "LOCAL_JOB_ID": "1", "LOCAL_NTASKS": "1", "LOCAL_GLOBALRANK": "0"}
    place |= {"LOCAL_LOCALID": "0", "LOCAL_NODES": "1"}
    env = os.environ | {f"SUBMITIT_{k}": v for k, v in place.items()}
    with exclusive(folder.path):
        done = Command(str(folder.path), cwd=tmp_path, env=env, program=program).completed()
    assert done.returncode == 1 and "is in use by process " in done.stderr, done.stderr
    assert folder.status()["state"] == "starting"
