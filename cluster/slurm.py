"""What Slurm is asked, and what its words mean. It may not answer, which says nothing of a job."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .errors import RunError

OVER = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
"""squeue's states of a job that has ended for good. In any other, also of a later Slurm, it may still run."""
GOING = ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")
"""Of a job that has its nodes and that nobody has ended."""
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
"""Of a job that is to begin."""
HELD = ("REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
ENDED, UNKNOWN = "ENDED", "UNKNOWN"
"""Not of Slurm: it knows no such job any more; it does not answer."""
ANSWER = 60.0
"""Seconds for one command of Slurm."""
PATIENCE = 600.0
"""Seconds for which a job that has to be queued again asks a Slurm that does not answer."""

_HELD = re.compile("held|JobHold|ReservationDeleted", re.IGNORECASE)
_AWAY = re.compile(
    "contact slurm|timed out|authentication|munge|standby|transmitted or received|unexpected message"
    "|(connection|send|receive|shutdown|communication)s? (failure|refused|reset)|temporarily un|configuration source"
    "|rate limit",
    re.IGNORECASE,
)
"""As its commands say that the controller, the way there or munge is away; `unexpected message`: scontrol requeue."""


BUSY = re.compile("nodes are busy|node not available", re.IGNORECASE)
ABSENT = "configuration is not available"
"""As sbatch --test-only refuses what cannot begin now; ABSENT, also what never can."""


class NoAnswer(RunError):
    """Slurm does not answer, or is not here."""


@dataclass(frozen=True)
class State:
    """Of a job: squeue's word for it, the reason that goes with it, and the time to its limit."""

    word: str = ENDED
    reason: str = ""
    left: str = ""

    @property
    def unknown(self) -> bool:
        return self.word == UNKNOWN

    @property
    def alive(self) -> bool:
        """Whether it may still run; not of a state that is unknown."""
        return self.word not in (*OVER, ENDED, UNKNOWN)

    @property
    def waits(self) -> bool:
        return self.word in WAITING

    @property
    def held(self) -> bool:
        """Whether it waits until somebody releases it."""
        return self.word in HELD or (self.waits and bool(_HELD.search(self.reason)))

    @property
    def seconds_left(self) -> int | None:
        """Until the time limit; None: there is none."""
        match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", self.left)
        if match is None:
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    def why(self, job: str) -> str:
        """Why it waits or is unknown, and what to do; empty where there is nothing to say."""
        reason = "" if self.reason in ("None", "(null)") else self.reason
        if self.unknown:
            return reason
        if self.word == "REVOKED":
            return "another cluster of the federation has the job: squeue --federation"
        if self.held:
            by = " by an administrator" if "Admin" in reason else ""
            return f"held{by} ({reason or self.word}): scontrol release {job}"
        return f"waits ({reason})" if self.waits and reason else ""


def state(job: str) -> State:
    return states([job])[job]


def states(jobs: Sequence[str]) -> dict[str, State]:
    """What Slurm says of each job, asked at once; UNKNOWN, with what is wrong, where it does not answer."""
    found = dict.fromkeys(jobs, State())
    if not jobs:
        return found
    command = ("squeue", "-h", "--states=all", "-j", ",".join(jobs), "-o", "%i|%T|%L|%r")
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
            done = _run("scontrol", "requeue", job)
        except NoAnswer:
            continue
        said = _words(done.stderr or done.stdout)
        if done.returncode == 0:
            return None
        if not _AWAY.search(said) and state(job).word in (*GOING, UNKNOWN):  # or it was, in between
            return f"Slurm does not queue it again ({said})"
    return f"Slurm has not answered for {PATIENCE / 60:.0f} minutes"


def cluster() -> str | None:
    """The name of the cluster; None: not known."""
    try:
        found = re.search(r"^ClusterName\s*=\s*(\S+)", _run("scontrol", "show", "config").stdout, re.MULTILINE)
    except NoAnswer:
        return None
    return None if found is None else found[1]


def requeues(job: str) -> bool | None:
    """Whether it may be queued again, as Slurm and the site have taken it; None: not known."""
    try:
        found = re.search(r"\bRequeue=(\d)", _run("scontrol", "show", "job", "-o", job).stdout)
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
    done = _run(*command)
    if done.returncode and (unless is None or unless not in done.stderr):
        raise NoAnswer(f"Slurm does not answer ({command[0]}: {_words(done.stderr) or done.returncode})")
    return done.stdout.strip()


def _run(*command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Raises NoAnswer where the command is not there, or waits for ever."""
    try:
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=ANSWER)
    except FileNotFoundError as e:
        raise NoAnswer(f"{command[0]} is not on the PATH; load Slurm's module") from e
    except subprocess.TimeoutExpired as e:
        raise NoAnswer(f"Slurm does not answer ({command[0]} has not for {ANSWER:.0f} s)") from e


def _words(text: str) -> str:
    """The line of a command's output that says why: its last, without who says it."""
    lines = [line.split("error:")[-1].strip() for line in text.splitlines() if line.strip()]
    return " ".join((lines or [""])[-1].split())


# What is asked of sbatch ----------------------------------------------------------------------------------------------

OURS = {
    "account": "site.account",
    "constraint": "site.constraint",
    "cpus-per-gpu": "site.cpus_per_process",
    "cpus-per-task": "site.cpus_per_process",
    "gpus": "--gpus-per-node",
    "gpus-per-node": "--gpus-per-node",
    "job-name": "name",
    "mail-type": "site.mail_on",
    "mail-user": "site.mail",
    "nodes": "--nodes",
    "ntasks": "--nodes and --processes-per-node",
    "ntasks-per-gpu": "--processes-per-node",
    "ntasks-per-node": "--processes-per-node",
    "partition": "site.partition",
    "qos": "site.qos",
    "signal": "site.signal_seconds",
    "time": "site.minutes",
}
"""Options of sbatch that a setting, or an option of `tdformer launch`, gives."""
BREAKING = {
    "array": "a run is one job",
    "clusters": "status, stop and the job itself ask the cluster that launches it",
    "error": "tdformer logs reads the run's own files",
    "gid": "launch it as that user",
    "help": "it queues nothing",
    "no-requeue": "the job could not go on after its time limit",
    "open-mode": "each start's output follows that of the one before",
    "output": "tdformer logs reads the run's own files",
    "parsable": "the job's number would not be found",
    "quiet": "the job's number would not be found",
    "requeue": "it is there already",
    "test-only": "it queues nothing; launch --dry-run does not either",
    "uid": "launch it as that user",
    "usage": "it queues nothing",
    "version": "it queues nothing",
    "wait": "the launch would last as long as the job; tdformer logs -f follows it",
    "wrap": "the job has a script",
}
"""Options of sbatch with which the run, or this program, would not work."""
SHORT = {
    **{"A": "account", "B": "extra-node-info", "C": "constraint", "D": "chdir", "F": "nodefile", "G": "gpus"},
    **{"H": "hold", "J": "job-name", "L": "licenses", "M": "clusters", "N": "nodes", "O": "overcommit", "Q": "quiet"},
    **{"S": "core-spec", "V": "version", "W": "wait", "a": "array", "b": "begin", "c": "cpus-per-task"},
    **{"d": "dependency", "e": "error", "h": "help", "i": "input", "k": "no-kill", "m": "distribution", "n": "ntasks"},
    **{"o": "output", "p": "partition", "q": "qos", "s": "oversubscribe", "t": "time", "v": "verbose"},
    **{"w": "nodelist", "x": "exclude"},
}
VARIABLES = {"ARRAY_INX": "array", "MEM_PER_NODE": "mem", "TIMELIMIT": "time"}
"""SBATCH_... that are not called as their option."""


def option(entry: str) -> tuple[str, str]:
    """Name and value of an entry of site.sbatch. Raises RunError where it is for another setting, or breaks the run."""
    name, value = re.fullmatch(r"\s*([^\s=]*)[\s=]*(.*)", entry, re.DOTALL).groups()  # type: ignore[union-attr]
    name = SHORT.get(name, name.replace("_", "-"))
    if not name:
        raise RunError(f"site.sbatch has {entry!r}; write key=value or key, without dashes")
    # sbatch takes the beginning of a name for the name.
    full = name if name in (*OURS, *BREAKING) else next((o for o in (*OURS, *BREAKING) if o.startswith(name)), name)
    if full in OURS:
        raise RunError(f"site.sbatch has {entry!r}, which {OURS[full]} gives; leave it out")
    if full in BREAKING:
        raise RunError(f"site.sbatch has {entry!r}: {BREAKING[full]}; leave it out")
    if name == "mem" and value != "0":
        raise RunError(f"site.sbatch has {entry!r}, which site.memory_gb gives (mem=0, all of a node, may stay)")
    if name == "gres" and re.search(r"\bgpu\b", value):
        raise RunError(f"site.sbatch has {entry!r}, which --gpus-per-node gives (a kind of GPU: site.constraint)")
    return name, value


def overriding(environment: Iterable[str], script: str) -> dict[str, str]:
    """Those of sbatch's variables that would override what `script` asks, with what is asked there."""
    written = set(re.findall(r"^#SBATCH --([\w-]+)", script, re.MULTILINE))
    found = {}
    for variable in sorted(environment):
        name = variable.removeprefix("SBATCH_")
        name = VARIABLES.get(name, name.lower().replace("_", "-"))
        if variable.startswith("SBATCH_") and (name in written or name in BREAKING):
            found[variable] = OURS.get(name, BREAKING.get(name, "site.sbatch"))
    return found


# What a cluster has ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partition:
    name: str
    minutes: int | None
    """The longest time limit; None: any."""
    nodes: int


@dataclass(frozen=True)
class Node:
    name: str
    cpus: int
    mib: int
    gpus: int
    state: str

    @property
    def available(self) -> bool:
        """Whether it works: also where others use it now."""
        return bool(re.fullmatch("(idle|mixed|allocated|completing|planned)[+~#%-]*", self.state))


def partitions(asked: str | None) -> list[Partition]:
    """Those that a job asks for, one or more names; the default one where it names none; [] where none is known."""
    try:
        shown = _run("scontrol", "show", "partition", "-o").stdout
    except NoAnswer:
        return []
    names, found = (asked or "").split(","), []
    for line in shown.splitlines():
        facts = dict(re.findall(r"(\w+)=(\S*)", line))
        if facts["PartitionName"] in names or (not asked and facts.get("Default") == "YES"):
            limit, nodes = minutes(facts.get("MaxTime", "")), int(facts.get("TotalNodes", 0))
            found.append(Partition(facts["PartitionName"], limit, nodes))
    return found


def nodes(partition: str) -> list[Node]:
    """Each node of a partition (or of several, `a,b`), whatever its state."""
    try:
        shown = _run("sinfo", "-h", "-N", "-p", partition, "-o", "%N|%c|%m|%T|%G").stdout
    except NoAnswer:
        return []
    found = {}
    for line in shown.splitlines():
        name, cpus, mib, word, gres = line.split("|", 4)
        gpus = sum(int(n) for n in re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", gres))
        found[name] = Node(name, int(cpus.rstrip("+")), int(mib.rstrip("+")), gpus, word)
    return list(found.values())


def minutes(limit: str) -> int | None:
    """Of Slurm's [days-]hours:minutes:seconds; None: no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):\d+", limit)
    return None if match is None else int(match[1] or 0) * 1440 + int(match[2]) * 60 + int(match[3])


def refusal(script: str) -> str | None:
    """Why Slurm would not take the job, or could not begin it, as things are; None: it could. Raises NoAnswer."""
    done = _run("sbatch", "--test-only", given=script)
    if done.returncode == 0:
        return None
    said = _words(done.stderr)
    if _AWAY.search(said):
        raise NoAnswer(f"Slurm does not answer (sbatch: {said})")
    return said.removeprefix("allocation failure: ") or "no reason given"


def submission(said: str) -> RunError:
    """What to raise for sbatch's error in earnest."""
    line = _words(said)
    if _AWAY.search(line):
        return NoAnswer(f"Slurm does not answer (sbatch: {line})")
    return RunError(f"Slurm refuses the job: {line.removeprefix('Batch job submission failed: ') or 'no reason given'}")
