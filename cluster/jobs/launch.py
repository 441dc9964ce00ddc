"""Runs as jobs: through submitit to Slurm, or to this machine where there is no Slurm.

Each start of a job takes up the newest good checkpoint, so queueing it again is all that going on needs.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import submitit

from pipelines.store.index import INDEX

from .. import config as configs
from .. import slurm
from ..config import Config
from ..config.overrides import for_training, while_running
from ..config.plugins import name_of, source, take
from ..config.shape import Shape
from ..errors import NotNow, RunError, disk_errors, user_errors
from ..run.folder import RunFolder
from ..run.provenance import REVISION, revision
from ..run.records import appears, record, write_atomic
from . import status as jobs
from . import submission

PACKAGES = ("tdformer", "pipelines", "cluster")


class Job:
    """What submitit calls in every task: one rank of the run in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        """Train, and end the process with the exit code of `processes.start`; 1 for a bug."""
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
                folder.tell("starting", **_known(folder) | _this_start())
            if env.name() == "slurm":
                self._leave_to_aftermath(env.global_rank)
            from .processes import start

            code = start(_config(folder), env.num_tasks)
        except user_errors() as error:
            line = " ".join(str(error).split())
            print(f"error: {line}", file=sys.stderr, flush=True)
            code = 1 if isinstance(error, NotNow) else 2  # the next start may find a free port, the others, its folder
            if code == 2:
                with suppress(RunError):  # the line is in the log where the disk is full
                    folder.tell("failed", **_known(folder), reason=line)
        except Exception:
            traceback.print_exc()
            code = 1
        from .processes import end

        end(code)

    def _leave_to_aftermath(self, rank: int) -> None:
        """USR2 ends this rank; the job's last line then queues it again, and asks again where Slurm does not answer, as
        submitit does not. Before it trains, the first rank alone acts on it: its end is that of the others."""
        folder = RunFolder(self.folder)

        def leave(*_: Any) -> None:
            known = _known(folder)
            if folder.status().get("state") == "starting":
                known["started_at"] = known.get("step")  # it has not begun
            with suppress(RunError):
                folder.tell("saved", **known, reason=f"stopped by {signal.SIGUSR2.name}")
            sys.stdout.flush()
            os._exit(128 + signal.SIGTERM)

        signal.signal(signal.SIGUSR2, (lambda *_: None) if rank else leave)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What to queue again; the state is in the run folder."""
        return submitit.helpers.DelayedSubmission(self)


def launch(config: Config, shape: Shape, where: str = "auto", dry_run: bool = False) -> int:
    """Queue `config`, or say that it is queued, running or finished already. Returns the exit code.

    where: slurm, local, or auto: Slurm where sbatch is found. Raises RunError for what could never work, before
    anything is queued or written.
    """
    from ..run import weights
    from . import planned
    from .processes import check_inputs, describe

    config.runs_dir = str(Path(config.runs_dir).resolve())
    if isinstance(shards := config.data.folder, Path):
        config.data.root = str(shards.resolve())
    if config.data.cache is not None:
        config.data.cache = str(Path(config.data.cache).resolve())
    if config.model.weights is not None:
        config.model.weights = os.path.abspath(config.model.weights)
    queued = on_slurm(where)
    if not queued and shape.nodes > 1:
        raise RunError(f"{shape.nodes} nodes need Slurm, and sbatch is not on the PATH; load its module, or --nodes 1")
    if queued:
        _check_site(config)
    folder = RunFolder(config.run_path)
    folder.settle(config)
    weights.settle(folder, config)
    setup = check_inputs(config, shape.world, begun=not folder.unsaved())
    done = folder.summary()
    job = jobs.of(folder) if done is None else None
    now = job.look() if job is not None else slurm.State()
    folder.check(config, running=now.alive or now.unknown)
    if done is not None:
        print(f"{folder.path} is finished: {describe(done)}; another run needs another name=...")
        return 0
    if job is not None and now.unknown and not dry_run:
        raise RunError(
            f"{folder.path} was launched as job {job.id}, and whether that runs is not known: {now.reason}; "
            "nothing is queued: the same command when Slurm does"
        )
    if job is not None and now.alive:
        if job.moved:
            raise RunError(
                f"{folder.path} was {job.place} when it became job {job.id}, which is {now.word.lower()} and cannot "
                f"write here; tdformer stop {folder.path}, then the same command"
            )
        while_running(folder.stored("launch.yaml"), config, folder.path, job.id)
        why = f"; {why}" if (why := now.why(job.id)) else ""
        print(f"{folder.path} is job {job.id} already ({now.word.lower()}); tdformer logs -f {folder.path}{why}")
        return 0
    for place in _code(folder):
        _check_snapshot(place)
    there = folder.path.exists()
    if there and not dry_run:
        with folder.lock():  # refuses where a process trains in it
            pass
    for warning in planned.tell(setup, shape, queued, sys.stderr if dry_run else sys.stdout):  # where no script goes
        _warn(warning)
    if dry_run and not queued:
        print(f"{shape.processes} processes on this machine:\n{submission.Slurm(folder.path / 'logs').command}")
        return 0
    if queued:
        executor = _slurm(config, shape, folder)
        script = executor.script()
        if dry_run:
            print(script)
        for variable, setting in slurm.overriding(os.environ, script).items():
            _warn(f"{variable} of the environment is left out: {setting}")
            del os.environ[variable]
        _try(script, config, shape, dry_run)
        if dry_run:
            return 0
    with folder.lock():
        if (line := folder.set_aside(config)) is not None:
            print(line, flush=True)
    with disk_errors(folder.path), _taken_back(folder, new=not there):
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        shipped = [source(plugin) for plugin in config.plugins]
        config.plugins = [name_of(plugin) for plugin in config.plugins]  # as they are found in the snapshot
        write_atomic(folder.path / "launch.yaml", configs.to_yaml(config).encode())  # from now on the folder is a run's
        _snapshot(folder, shipped)
        os.environ |= {"PYTHONPATH": str(folder.path / "code"), "PYTHONSAFEPATH": "1"}
        if queued:
            submitted = _submitted(executor, folder)
        else:
            with _silent():
                submitted = submission.local(folder.path / "logs", shape.processes, shape.gpus).submit(Job(folder.path))
    facts = {"id": submitted.job_id, "slurm": queued, "time": time.time(), "command": sys.argv, **shape.__dict__}
    facts |= {"host": socket.gethostname(), **folder.mark()}
    write_atomic(folder.path / "job.json", (json.dumps(facts) + "\n").encode())
    print(f"{folder.path} is job {submitted.job_id}; tdformer status, tdformer logs -f {folder.path}", flush=True)
    if queued and slurm.requeues(submitted.job_id) is False:
        _warn(
            f"this site lets no job be queued again: at its time limit the run saves and ends, and goes on with "
            f"tdformer resume {folder.path}"
        )
    return 0


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


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


def cores(config: Config) -> int:
    """That a process asks of Slurm: without a setting, one to train on and one for each loader worker."""
    return config.site.cpus_per_process or 1 + config.data.workers


def _slurm(config: Config, shape: Shape, folder: RunFolder) -> submission.Slurm:
    site, code, cpus = config.site, shlex.quote(str(folder.path / "code")), cores(config)
    python = site.python or shlex.quote(sys.executable)
    executor = submission.Slurm(folder.path / "logs", python)
    extra: dict[str, Any] = dict(map(slurm.option, site.sbatch))
    # Where TERM reaches the script alone, the ranks and its last line go on.
    setup = ["trap : TERM", f"export PYTHONPATH={code} PYTHONSAFEPATH=1", *site.setup]
    if site.cpus_per_process is None:
        why = f"site.cpus_per_process is not set: it is 1 core, and {config.data.workers} for data.workers"
        setup.append(f'[ -n "$SLURM_RESTART_COUNT" ] || echo {shlex.quote(why)}')
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
        "teardown": [f"exec {python} -m cluster.jobs.aftermath {shlex.quote(str(folder.path))} $?"],
        "additional_parameters": {"requeue": True, **{k: v or True for k, v in extra.items()}},
    }
    executor.ask_for(given)
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


@contextmanager
def _taken_back(folder: RunFolder, new: bool) -> Iterator[None]:
    """Where the job is refused in the end, remove what this launch has written. new: the folder is of this launch."""
    file, logs, code = folder.path / "launch.yaml", folder.path / "logs", folder.path / "code"
    before = file.read_bytes() if file.exists() else None
    there = set(logs.iterdir()) if logs.is_dir() else set()
    try:
        yield
    except RunError:
        if new:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        if before is not None:
            write_atomic(file, before)
        else:
            shutil.rmtree(code, ignore_errors=True)
            file.unlink(missing_ok=True)
        for entry in set(logs.iterdir()) - there if logs.is_dir() else ():
            entry.unlink()
        for folder_of_none in (logs, folder.checkpoints):
            with suppress(OSError):
                folder_of_none.rmdir()
        raise


def _submitted(executor: submission.Slurm, folder: RunFolder) -> Any:
    """Raises RunError where sbatch refuses the job after all."""
    try:
        return executor.submit(Job(folder.path))
    except submission.Refused as error:
        refused = slurm.submission(str(error))
        more = "; it may have queued a job all the same: squeue --me" if isinstance(refused, slurm.NoAnswer) else ""
        raise type(refused)(f"{refused}{more}") from error


def _check_site(config: Config) -> None:
    """Raises RunError for options of sbatch that collide with ours, and for a signal that comes before it can help."""
    for entry in config.site.sbatch:
        slurm.option(entry)
    limit, before = 60 * config.site.minutes, config.site.signal_seconds
    if before + 60 >= limit:  # Slurm may send it a minute early
        raise RunError(
            f"site.signal_seconds={before} leaves no time in site.minutes={config.site.minutes}: each start would be "
            "told to save as it begins (Slurm may do so a minute early); a longer site.minutes, or fewer seconds"
        )


def _try(script: str, config: Config, shape: Shape, dry_run: bool) -> None:
    """Ask Slurm whether it would take the job and could ever start it; warn where it cannot do so now. Raises RunError
    with its reason; dry_run: not where it does not answer."""
    try:
        refused = slurm.refusal(script)
    except slurm.NoAnswer as error:
        if not dry_run:
            raise
        _warn(f"Slurm was not asked whether it takes the job: {error}")
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
        _warn(f"Slurm cannot begin the job now, and it will wait ({states or refused})")
    if not shape.gpus and (most := max((n.gpus for n in nodes), default=0)):
        _warn(f"nodes of partition {names} have {most} GPUs, and none is asked for: --gpus-per-node {most}")


def _code(folder: RunFolder) -> tuple[Path, Path]:
    """Where a run's snapshot of the code is, and where it is made."""
    return folder.path / "code", folder.path / ".code.tmp"


def _check_snapshot(place: Path) -> None:
    """Raises RunError where something is in the place of a snapshot that is none."""
    if place.is_symlink() or place.exists():
        folder = place.is_dir() and not place.is_symlink()
        names = {path.name for path in place.iterdir()} if folder else {""}
        # An empty folder is one whose making was killed, or nobody's loss.
        kinds = {"plugins": list | None}
        shipped = (record(place / REVISION, "move it away", kinds) or {}).get("plugins") if REVISION in names else None
        if names and (REVISION not in names or names - {REVISION, *PACKAGES, *(shipped or ()), "__pycache__"}):
            raise RunError(f"{place} is no snapshot of the code that tdformer took; move it away, or set name=...")


def _snapshot(folder: RunFolder, plugins: Sequence[Path] = ()) -> None:
    """Copy the code that is running, and that of plugins, into the run's folder, so that a later start runs the
    same."""
    here = Path(__file__).resolve().parents[2]
    place, fresh = _code(folder)
    if here == place.resolve():
        return
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    kept = {"plugins": sorted({plugin.name for plugin in plugins})} if plugins else {}
    (fresh / REVISION).write_text(json.dumps({k: v for k, v in revision().items() if k != "plugins"} | kept))
    for package in PACKAGES:
        shutil.copytree(here / package, fresh / package)
    for plugin in {plugin.name: plugin for plugin in plugins}.values():
        if plugin.is_dir():
            shutil.copytree(plugin, fresh / plugin.name, ignore=shutil.ignore_patterns("__pycache__", ".git"))
        else:
            shutil.copy(plugin, fresh / plugin.name)
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)


def _this_start() -> dict[str, Any]:
    """What tells this start's words in the status from an earlier one's."""
    return {"job": os.environ.get("SLURM_JOB_ID"), "restarts": os.environ.get("SLURM_RESTART_COUNT")}


def _config(folder: RunFolder) -> Config:
    """What the job was launched with, once this host sees it, and the data that it names."""
    appears(folder.path / "launch.yaml")
    config = folder.stored("launch.yaml")
    take(config.plugins, str(folder.path / "launch.yaml"))  # from the snapshot, which this process runs
    if isinstance(config.data.folder, Path):
        for split in ("train", "test"):
            appears(config.data.folder / split / INDEX)
    return config


def _known(folder: RunFolder) -> dict[str, Any]:
    return {k: v for k, v in folder.status().items() if k not in ("state", "time", "reason")}
