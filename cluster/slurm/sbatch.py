"""What a job asks of sbatch: which of its options are ours, and which would break a run."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import RunError

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
