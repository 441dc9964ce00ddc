"""What a job asks of Slurm, and whether Slurm would take it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from .. import slurm
from ..config import Config
from ..config.shape import Shape
from ..errors import RunError
from ..run.folder import RunFolder
from . import submission


def warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def cores(config: Config) -> int:
    """That a process asks of Slurm: without a setting, one to train on and one for each loader worker."""
    return config.site.cpus_per_process or 1 + config.data.workers


def job(config: Config, shape: Shape, folder: RunFolder) -> submission.Slurm:
    """A launched run's."""
    executor = submission.Slurm(folder.path / "logs", python(config))
    last = f"exec {python(config)} -m cluster.jobs.aftermath {shlex.quote(str(folder.path))} $?"
    ask(executor, config, shape, config.name, folder.path / "code", last)
    return executor


def python(config: Config) -> str:
    """The command that a job's script calls Python by."""
    return config.site.python or shlex.quote(sys.executable)


def ask(executor: submission.Slurm, config: Config, shape: Shape, name: str, folder: Path, last: str) -> None:
    """All that a job asks of sbatch. folder: of the code that it runs; last: the last line of its script."""
    site, code, cpus = config.site, shlex.quote(str(folder)), cores(config)
    extra: dict[str, object] = dict(map(slurm.option, site.sbatch))
    # Where TERM reaches the script alone, the ranks and its last line go on.
    setup = ["trap : TERM", f"export PYTHONPATH={code} PYTHONSAFEPATH=1", *site.setup]
    if site.cpus_per_process is None:
        why = f"site.cpus_per_process is not set: it is 1 core, and {config.data.workers} for data.workers"
        setup.append(f'[ -n "$SLURM_RESTART_COUNT" ] || echo {shlex.quote(why)}')
    given = {
        "job_name": name,
        "account": site.account,
        "partition": site.partition,
        "qos": site.qos,
        "constraint": site.constraint,
        "time": site.minutes,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.processes,
        "gpus_per_node": shape.gpus or None,
        "cpus_per_task": cpus,
        "mem": None if site.memory_gb is None else f"{round(site.memory_gb * 1024)}M",
        "mail_user": site.mail,
        "mail_type": site.mail_on if site.mail else None,
        "signal_delay_s": site.signal_seconds,
        "stderr_to_stdout": True,
        # Safe: or a job started in a clone of the repository would run that and not the snapshot.
        "setup": setup,
        # Slurm 22.05 and later do not pass sbatch's own number on; and what the script exports goes to the ranks, also
        # where sbatch was told to export nothing.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}", "--export=ALL", *site.srun],
        "teardown": [last],
        "additional_parameters": {"requeue": True, **{k: v or True for k, v in extra.items()}},
    }
    executor.ask_for(given)


def leave_out_overriding(script: str) -> None:
    """Take those variables from the environment that would override what a script asks, and say so."""
    for variable, setting in slurm.overriding(os.environ, script).items():
        warn(f"{variable} of the environment is left out: {setting}")
        del os.environ[variable]


def check_site(config: Config) -> None:
    """Raises RunError for options of sbatch that collide with ours, and for a signal that comes before it can help."""
    for entry in config.site.sbatch:
        slurm.option(entry)
    limit, before = 60 * config.site.minutes, config.site.signal_seconds
    if before + 60 >= limit:  # Slurm may send it a minute early
        raise RunError(
            f"site.signal_seconds={before} leaves no time in site.minutes={config.site.minutes}: each start would be "
            "told to save as it begins (Slurm may do so a minute early); a longer site.minutes, or fewer seconds"
        )


def check(script: str, config: Config, shape: Shape, dry_run: bool) -> None:
    """Ask Slurm whether it would take the job and could ever start it; warn where it cannot do so now. Raises RunError
    with its reason; dry_run: not where it does not answer."""
    try:
        refused = slurm.refusal(script)
    except slurm.NoAnswer as error:
        if not dry_run:
            raise
        warn(f"Slurm was not asked whether it takes the job: {error}")
        return
    asked = config.site.partition or os.environ.get("SBATCH_PARTITION")
    partitions = slurm.partitions(asked)
    names = ",".join(p.name for p in partitions)
    nodes = slurm.nodes(names) if names else []
    cpus, mib = cores(config) * shape.processes, 1024 * (config.site.memory_gb or 0)
    fit = [n for n in nodes if n.cpus >= cpus and n.mib >= mib and n.gpus >= shape.gpus]
    # To --test-only, nodes that are down or drained are not there; in earnest sbatch lets the job wait for them.
    away = [n for n in fit if not n.available]
    later = slurm.BUSY.search(refused or "") or (away and len(fit) >= shape.nodes and slurm.ABSENT in (refused or ""))
    if refused is not None and not later:
        hint = (
            f"; no node of partition {names} has GPUs"
            if shape.gpus and nodes and not any(n.gpus for n in nodes)
            else ""
        )
        raise RunError(f"Slurm refuses the job: {refused}{hint}; see the section site")
    # Many sites accept what is beyond a partition's limits, and let it wait for ever.
    limits = [p.minutes for p in partitions]
    if limits and None not in limits and config.site.minutes > (limit := max(m for m in limits if m is not None)):
        raise RunError(
            f"site.minutes={config.site.minutes} is above the limit of partition {names}, {limit}; "
            "the run goes on beyond its time limit, so a shorter one will do"
        )
    if partitions and shape.nodes > (most := max(p.nodes for p in partitions)):
        raise RunError(f"{shape.nodes} nodes are asked of partition {names}, it has {most}")
    if refused is not None:
        states = ", ".join(f"{n.name} {n.state}" for n in away[:4]) + (", ..." if len(away) > 4 else "")
        warn(f"Slurm cannot begin the job now, and it will wait ({states or refused})")
    if not shape.gpus and (most := max((n.gpus for n in nodes), default=0)):
        warn(f"nodes of partition {names} have {most} GPUs, and none is asked for: --gpus-per-node {most}")
