"""Runs as jobs: through submitit to Slurm, or to this machine where there is no Slurm.

Each start of a job takes up the newest good checkpoint, so queueing it again is all that going on needs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.local.local import LocalExecutor
from submitit.slurm.slurm import SlurmExecutor

from . import config as configs
from . import jobs
from .config import Config
from .errors import NoMeeting, RunError, disk_errors, user_errors
from .overrides import for_training, while_running
from .records import write_atomic
from .run import REVISION, RunFolder, revision

PACKAGES = ("tdformer", "pipelines", "cluster")
ENDLESS = 10**6
"""Time limits that submitit survives: the run ends by its epochs, not by their number."""


@dataclass(frozen=True)
class Shape:
    """Nodes, and processes and GPUs on each."""

    nodes: int
    processes: int
    gpus: int

    @property
    def world(self) -> int:
        return self.nodes * self.processes


class Job:
    """What submitit calls in every task: one rank of the run in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        """Train, and end the process with the exit code of `processes.main`; 1 for a bug."""
        env = submitit.JobEnvironment()
        # Below the range that systems give to outgoing connections, and another one after each restart.
        port = 20000 + (int(env.job_id) * 7 + int(os.environ.get("SLURM_RESTART_COUNT", 0)) * 13) % 10000
        here = env.num_tasks // env.num_nodes
        for name, value in (
            ("RANK", env.global_rank),
            ("WORLD_SIZE", env.num_tasks),
            ("LOCAL_RANK", env.local_rank),
            ("LOCAL_WORLD_SIZE", here),
            ("MASTER_ADDR", env.hostnames[0] if env.num_nodes > 1 else "127.0.0.1"),
            ("MASTER_PORT", port),
        ):
            os.environ[name] = str(value)
        folder = RunFolder(self.folder)
        try:
            if env.global_rank == 0:
                folder.tell("starting", **_known(folder))
            from .processes import main

            code = main(folder.stored("launch.yaml"), env.num_tasks)
        except user_errors() as error:
            line = " ".join(str(error).split())
            print(f"error: {line}", file=sys.stderr, flush=True)
            code = 1 if isinstance(error, NoMeeting) else 2  # the next start may find a free port, or the other hosts
            if code == 2:
                with suppress(RunError):  # the line is in the log where the disk is full
                    folder.tell("failed", **_known(folder), reason=line)
        except Exception:
            traceback.print_exc()
            code = 1
        from .processes import end

        end(code)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What to queue again; the state is in the run folder."""
        return submitit.helpers.DelayedSubmission(self)


def launch(config: Config, shape: Shape, where: str = "auto", dry_run: bool = False) -> int:
    """Queue `config`, or say that it is queued, running or finished already. Returns the exit code.

    where: slurm, local, or auto: Slurm where sbatch is found. Raises RunError for what could never work, before
    anything is queued or written.
    """
    from . import memory, planner
    from .processes import check_inputs, describe

    config.runs_dir = str(Path(config.runs_dir).resolve())
    if isinstance(shards := config.data.folder, Path):
        config.data.root = str(shards.resolve())
    if config.data.cache is not None:
        config.data.cache = str(Path(config.data.cache).resolve())
    slurm = on_slurm(where)
    if not slurm and shape.nodes > 1:
        raise RunError(f"{shape.nodes} nodes need Slurm, and sbatch is not on the PATH; load its module, or --nodes 1")
    folder = RunFolder(config.run_path)
    folder.settle(config)
    data, plan = check_inputs(config, shape.world)
    done = folder.summary()
    job = jobs.of(folder) if done is None else None
    state = job.state() if job is not None else ""
    folder.check(config, running=state in jobs.ALIVE)
    if done is not None:
        print(f"{folder.path} is finished: {describe(done)}; another run needs another name=...")
        return 0
    if job is not None and state in jobs.ALIVE:
        if job.moved:
            raise RunError(
                f"{folder.path} was {job.place} when it became job {job.id}, which is {state.lower()} and cannot write "
                f"here; tdformer stop {folder.path}, then the same command"
            )
        while_running(folder.stored("launch.yaml"), config, folder.path, job.id)
        print(f"{folder.path} is job {job.id} already ({state.lower()}); tdformer logs -f {folder.path}")
        return 0
    for place in _code(folder):
        _check_snapshot(place)
    if folder.path.exists():
        with folder.lock():  # refuses where a process trains in it
            pass
    there = memory.asked(config, shape.processes, shape.gpus) if slurm else memory.here(config, shape.processes)
    if there is not None and (warning := planner.check(config, data, plan, there)):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    with disk_errors(folder.path):  # the local one makes the folder of its logs
        executor = _executor(config, shape, folder, slurm)
    script = executor._make_submission_file_text(executor._submitit_command_str, "") if slurm else ""
    if slurm:
        _try(script, config, shape)
    if dry_run:
        print(script or f"{shape.processes} processes on this machine:\n{executor._submitit_command_str}")
        return 0
    with folder.lock():
        if (line := folder.set_aside(config)) is not None:
            print(line, flush=True)
    with disk_errors(folder.path):
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
    write_atomic(folder.path / "launch.yaml", configs.to_yaml(config).encode())  # from now on the folder is a run's
    with disk_errors(folder.path):
        _snapshot(folder)
    os.environ |= {"PYTHONPATH": str(folder.path / "code"), "PYTHONSAFEPATH": "1"}
    with nullcontext() if slurm else _silent():
        submitted = executor.submit(Job(folder.path))
    record = {"id": submitted.job_id, "slurm": slurm, "time": time.time(), "command": sys.argv, **shape.__dict__}
    record |= {"host": socket.gethostname(), **folder.mark()}
    write_atomic(folder.path / "job.json", (json.dumps(record) + "\n").encode())
    print(f"{folder.path} is job {submitted.job_id}; tdformer status, tdformer logs -f {folder.path}")
    return 0


def on_slurm(where: str) -> bool:
    """Whether a launch `where` (slurm, local or auto) goes to Slurm."""
    return where == "slurm" or (where == "auto" and shutil.which("sbatch") is not None)


def resume(run: Path, overrides: Sequence[str], site: Path | None = None) -> int:
    """Launch a run again as it was launched, with the code of now."""
    folder = RunFolder(run)
    job = jobs.of(folder)
    if job is None:
        raise RunError(f"{run} was not launched; a run of `tdformer train` goes on with the same command")
    shape = Shape(*(job.record[key] for key in ("nodes", "processes", "gpus")))
    config = folder.stored("launch.yaml", overrides, site)
    configs.check_commands(config, folder.path / "launch.yaml", overrides, site=site)
    for_training(config, overrides, launched=True, slurm=job.slurm)
    return launch(config, shape, "slurm" if job.slurm else "local")


def _executor(config: Config, shape: Shape, folder: RunFolder, slurm: bool) -> Any:
    site, logs = config.site, folder.path / "logs"
    if not slurm:
        executor: Any = LocalExecutor(logs, max_num_timeout=ENDLESS)
        # No time limit here: submitit would start the run again six times, and then no more.
        executor.update_parameters(
            timeout_min=ENDLESS,
            tasks_per_node=shape.processes,
            gpus_per_node=shape.gpus,
            stderr_to_stdout=True,
        )
        return executor
    python = site.python or shlex.quote(sys.executable)
    executor = SlurmExecutor(logs, max_num_timeout=ENDLESS, python=python)
    code = shlex.quote(str(folder.path / "code"))
    extra: dict[str, Any] = dict(entry.partition("=")[::2] for entry in site.sbatch)
    given = {
        "job_name": config.name,
        "account": site.account,
        "partition": site.partition,
        "qos": site.qos,
        "constraint": site.constraint,
        "time": site.minutes,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.processes,
        "gpus_per_node": shape.gpus or None,
        "cpus_per_task": site.cpus_per_process,
        "mem": None if site.memory_gb is None else f"{round(site.memory_gb * 1024)}M",
        "mail_user": site.mail,
        "mail_type": site.mail_on if site.mail else None,
        "signal_delay_s": site.signal_seconds,
        "stderr_to_stdout": True,
        # Safe: or a job started in a clone of the repository would run that and not the snapshot.
        "setup": [f"export PYTHONPATH={code} PYTHONSAFEPATH=1", *site.setup],
        # Slurm 22.05 and later do not pass sbatch's own number on.
        "srun_args": ["--kill-on-bad-exit=1"]
        + ([f"--cpus-per-task={site.cpus_per_process}"] if site.cpus_per_process else [])
        + site.srun,
        "teardown": [f"exec {python} -m cluster.aftermath {shlex.quote(str(folder.path))} $?"],
        "additional_parameters": {"requeue": True, **{k: v or True for k, v in extra.items()}},
    }
    executor._internal_update_parameters(**{k: v for k, v in given.items() if v is not None})
    return executor


@contextmanager
def _silent() -> Iterator[None]:
    """For a process that is started meanwhile and lives on: nobody who reads our output shall wait for its end."""
    sys.stdout.flush()
    kept, nothing = [os.dup(fd) for fd in range(3)], os.open(os.devnull, os.O_RDWR)
    try:
        for fd in range(3):
            os.dup2(nothing, fd)
        yield
    finally:
        for fd, own in enumerate(kept):
            os.dup2(own, fd)
            os.close(own)
        os.close(nothing)


def _try(script: str, config: Config, shape: Shape) -> None:
    """Ask Slurm whether it would take the job and could ever start it. Raises RunError with its reason."""
    asked = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
    if asked.returncode:
        lines = [line.split("error:")[-1].strip() for line in asked.stderr.splitlines() if line.strip()]
        raise RunError(f"Slurm refuses the job: {lines[-1] if lines else 'no reason given'}; see the section site")
    # Many sites accept what is beyond a partition's limits, and let it wait for ever.
    shown = subprocess.run(["scontrol", "show", "partition", "-o"], capture_output=True, text=True).stdout
    partitions = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in shown.splitlines()]
    for p in partitions:
        if p["PartitionName"] != config.site.partition and (config.site.partition or p.get("Default") != "YES"):
            continue
        if (limit := _minutes(p.get("MaxTime", ""))) is not None and config.site.minutes > limit:
            raise RunError(
                f"site.minutes={config.site.minutes} is above the limit of partition {p['PartitionName']}, {limit}; "
                "the run goes on beyond its time limit, so a shorter one will do"
            )
        if shape.nodes > int(p.get("TotalNodes", shape.nodes)):
            raise RunError(f"{shape.nodes} nodes are asked of partition {p['PartitionName']}, it has {p['TotalNodes']}")


def _minutes(limit: str) -> int | None:
    """Of Slurm's [days-]hours:minutes:seconds; None: no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):\d+", limit)
    return None if match is None else int(match[1] or 0) * 1440 + int(match[2]) * 60 + int(match[3])


def _code(folder: RunFolder) -> tuple[Path, Path]:
    """Where a run's snapshot of the code is, and where it is made."""
    return folder.path / "code", folder.path / ".code.tmp"


def _check_snapshot(place: Path) -> None:
    """Raises RunError where something is in the place of a snapshot that is none."""
    if place.is_symlink() or place.exists():
        folder = place.is_dir() and not place.is_symlink()
        names = {path.name for path in place.iterdir()} if folder else {""}
        # An empty folder is one whose making was killed, or nobody's loss.
        if names and (REVISION not in names or names - {REVISION, *PACKAGES, "__pycache__"}):
            raise RunError(f"{place} is no snapshot of the code that tdformer took; move it away, or set name=...")


def _snapshot(folder: RunFolder) -> None:
    """Copy the code that is running into the run's folder, so that a later start runs the same."""
    here = Path(__file__).resolve().parent.parent
    place, fresh = _code(folder)
    if here == place.resolve():
        return
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    (fresh / REVISION).write_text(json.dumps(revision()))
    for package in PACKAGES:
        shutil.copytree(here / package, fresh / package)
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)


def _known(folder: RunFolder) -> dict[str, Any]:
    return {k: v for k, v in folder.status().items() if k not in ("state", "time", "reason")}
