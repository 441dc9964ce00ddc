"""What a cluster has, and whether it would take a job."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RunError
from .asking import NoAnswer, asked, is_away, run, words

BUSY = re.compile("nodes are busy|node not available", re.IGNORECASE)
ABSENT = "configuration is not available"
"""As sbatch --test-only refuses what cannot begin now; ABSENT, also what never can."""


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
        shown = run("scontrol", "show", "partition", "-o").stdout
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
        shown = run("sinfo", "-h", "-N", "-p", partition, "-o", "%N|%c|%m|%T|%G").stdout
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
    done = run("sbatch", "--test-only", given=script)
    if done.returncode == 0:
        return None
    said = words(done.stderr)
    if is_away(said):
        raise NoAnswer(f"Slurm does not answer (sbatch: {said})")
    return said.removeprefix("allocation failure: ") or "no reason given"


def submit(script: str, kept: Sequence[int] = ()) -> str:
    """Queue a script; returns the job's number. kept: descriptors that sbatch has too, so that a lock on one lasts as
    long as it does, whatever becomes of this process. Raises RunError where Slurm refuses, NoAnswer."""
    done = run("sbatch", "--parsable", given=script, kept=kept)
    if done.returncode:
        raise submission(done.stderr)
    return done.stdout.strip().partition(";")[0]


def called(name: str) -> str | None:
    """The number of a job, of any state, that has this name; None: Slurm knows none. Raises NoAnswer."""
    found = asked("squeue", "-h", "--states=all", f"--name={name}", "-o", "%F").split()
    return found[0] if found else None


def submission(said: str) -> RunError:
    """What to raise for sbatch's error in earnest."""
    line = words(said)
    if is_away(line):
        return NoAnswer(f"Slurm does not answer (sbatch: {line})")
    return RunError(f"Slurm refuses the job: {line.removeprefix('Batch job submission failed: ') or 'no reason given'}")
