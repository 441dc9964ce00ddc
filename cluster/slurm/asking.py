"""Asking Slurm. It may not answer, which says nothing of a job."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Sequence

from ..errors import RunError
from .job import GOING, UNKNOWN, State

ANSWER = 60.0
"""Seconds for one command of Slurm."""
PATIENCE = 600.0
"""Seconds for which a job that has to be queued again asks a Slurm that does not answer."""


_AWAY = re.compile(
    "contact slurm|timed out|authentication|munge|standby|transmitted or received|unexpected message"
    "|(connection|send|receive|shutdown|communication)s? (failure|refused|reset)|temporarily un|configuration source"
    "|rate limit",
    re.IGNORECASE,
)
"""As its commands say that the controller, the way there or munge is away; `unexpected message`: scontrol requeue."""


class NoAnswer(RunError):
    """Slurm does not answer, or is not here."""


def state(job: str) -> State:
    return states([job])[job]


def states(jobs: Sequence[str]) -> dict[str, State]:
    """What Slurm says of each job, asked at once; UNKNOWN, with what is wrong, where it does not answer."""
    found = dict.fromkeys(jobs, State())
    if not jobs:
        return found
    command = ("squeue", "-h", "-r", "--states=all", "-j", ",".join(jobs), "-o", "%i|%T|%L|%r")
    try:
        said = asked(*command, unless="Invalid job id")
    except NoAnswer as error:
        return dict.fromkeys(jobs, State(UNKNOWN, str(error)))
    for line in said.splitlines():
        job, word, left, reason = line.split("|", 3)
        found[job] = State(word, reason, left)
    return found


def cancel(job: str) -> None:
    """Raises NoAnswer."""
    asked("scancel", job)


def settled(job: str) -> State:
    """Its state as soon as Slurm answers; UNKNOWN where that takes more than PATIENCE."""
    for _ in _patiently():
        if not (found := state(job)).unknown:
            return found
    return State(UNKNOWN)


def requeue(job: str) -> str | None:
    """Queue a running job again. Returns why that cannot be done; None: it is queued, or is not ours to decide."""
    for _ in _patiently():
        found = state(job)
        if found.unknown:
            continue
        if found.word not in GOING:  # an earlier try was heard, or somebody else's
            return None
        try:
            done = run("scontrol", "requeue", job)
        except NoAnswer:
            continue
        said = words(done.stderr or done.stdout)
        if done.returncode == 0:
            return None
        if not is_away(said) and state(job).word in (*GOING, UNKNOWN):  # or it was, in between
            return f"Slurm does not queue it again ({said})"
    return f"Slurm has not answered for {PATIENCE / 60:.0f} minutes"


def cluster() -> str | None:
    """The name of the cluster; None: not known."""
    try:
        found = re.search(r"^ClusterName\s*=\s*(\S+)", run("scontrol", "show", "config").stdout, re.MULTILINE)
    except NoAnswer:
        return None
    return None if found is None else found[1]


def requeues(job: str) -> bool | None:
    """Whether it may be queued again, as Slurm and the site have taken it; None: not known."""
    try:
        found = re.search(r"\bRequeue=(\d)", run("scontrol", "show", "job", "-o", job).stdout)
    except NoAnswer:
        return None
    return None if found is None else found[1] == "1"


def _patiently() -> Iterator[None]:
    """Tries, at growing distances, for PATIENCE."""
    end, pause = time.monotonic() + PATIENCE, 1.0
    while True:
        yield
        if time.monotonic() + pause > end:
            return
        if pause == 1:
            print(f"Slurm does not answer: it is asked again for {PATIENCE / 60:.0f} minutes", flush=True)
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


def asked(*command: str, unless: str | None = None) -> str:
    """What a command prints. Raises NoAnswer where it fails, unless it says so."""
    done = run(*command)
    if done.returncode and (unless is None or unless not in done.stderr):
        raise NoAnswer(f"Slurm does not answer ({command[0]}: {words(done.stderr) or done.returncode})")
    return done.stdout.strip()


def run(*command: str, given: str | None = None, kept: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
    """given: its input; kept: descriptors of ours that it has too. Raises NoAnswer where the command is not there, or
    waits for ever."""
    try:
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=ANSWER, pass_fds=kept)
    except FileNotFoundError as e:
        raise NoAnswer(f"{command[0]} is not on the PATH; load Slurm's module") from e
    except subprocess.TimeoutExpired as e:
        raise NoAnswer(f"Slurm does not answer ({command[0]} has not for {ANSWER:.0f} s)") from e


def is_away(said: str) -> bool:
    """Whether a command's words say that Slurm is away, and nothing of what was asked."""
    return bool(_AWAY.search(said))


def words(text: str) -> str:
    """The line of a command's output that says why: its last, without who says it."""
    lines = [line.split("error:")[-1].strip() for line in text.splitlines() if line.strip()]
    return " ".join((lines or [""])[-1].split())
