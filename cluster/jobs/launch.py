"""Launching runs as jobs: through submitit to Slurm, or to this machine where there is no Slurm."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import submitit

from .. import config as configs
from .. import slurm
from ..config import Config
from ..config.overrides import for_training, while_running
from ..config.plugins import name_of, source
from ..config.shape import Shape
from ..errors import RunError, disk_errors
from ..run.folder import RunFolder
from ..run.records import write_atomic
from . import request, snapshot, submission
from . import status as jobs
from .rank import Job
from .request import warn


def launch(config: Config, shape: Shape, where: str = "auto", dry_run: bool = False) -> int:
    """Queue `config`, or say that it is queued, running or finished already. Returns the exit code.

    where: slurm, local, or auto: Slurm where sbatch is found. Raises RunError for what could never work, before
    anything is queued or written.
    """
    from ..run import weights
    from . import planned
    from .processes import check_inputs

    place(config)
    queued = on_slurm(where)
    if not queued and shape.nodes > 1:
        raise RunError(f"{shape.nodes} nodes need Slurm, and sbatch is not on the PATH; load its module, or --nodes 1")
    if queued:
        request.check_site(config)
    folder = RunFolder(config.run_path)
    folder.settle(config)
    weights.settle(folder, config)
    setup = check_inputs(config, shape.world, begun=not folder.unsaved())
    if (line := _already(folder, config, dry_run)) is not None:
        print(line)
        return 0
    snapshot.check(folder.path)
    there = folder.path.exists()
    if there and not dry_run:
        with folder.lock():  # refuses where a process trains in it
            pass
    for warning in planned.tell(setup, shape, queued, sys.stderr if dry_run else sys.stdout):  # where no script goes
        warn(warning)
    if dry_run and not queued:
        print(f"{shape.processes} processes on this machine:\n{submission.Slurm(folder.path / 'logs').command}")
        return 0
    if queued:
        executor = request.job(config, shape, folder)
        script = executor.script()
        if dry_run:
            print(script)
        request.leave_out_overriding(script)
        request.check(script, config, shape, dry_run)
        if dry_run:
            return 0
    with folder.lock():
        if (line := folder.set_aside(config)) is not None:
            print(line, flush=True)
    with disk_errors(folder.path), _taken_back(folder, new=not there):
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        shipped = [source(plugin) for plugin in config.plugins]
        config.plugins = [name_of(plugin) for plugin in config.plugins]  # as they are found in the snapshot
        write_atomic(folder.launch_file, configs.to_yaml(config).encode())  # from now on the folder is a run's
        snapshot.take(folder.path, shipped)
        os.environ |= {"PYTHONPATH": str(folder.path / "code"), "PYTHONSAFEPATH": "1"}
        if queued:
            submitted = _submitted(executor, folder)
        else:
            with _silent():
                submitted = submission.local(folder.path / "logs", shape.processes, shape.gpus).submit(Job(folder.path))
    note(folder, submitted.job_id, shape, queued)
    print(f"{folder.path} is job {submitted.job_id}; tdformer status, tdformer logs -f {folder.path}", flush=True)
    if queued and slurm.requeues(submitted.job_id) is False:
        warn(
            f"this site lets no job be queued again: at its time limit the run saves and ends, and goes on with "
            f"tdformer resume {folder.path}"
        )
    return 0


def _already(folder: RunFolder, config: Config, dry_run: bool) -> str | None:
    """What to say of a run that is finished, or a job that waits or runs; None: neither. Raises RunError where it holds
    another run, where its job cannot write here, and, but in a dry run, where Slurm does not say whether it lives."""
    from .processes import describe

    done = folder.summary()
    job = jobs.of(folder) if done is None else None
    now = job.look() if job is not None else slurm.State()
    folder.check(config, running=now.alive or now.unknown)
    if done is not None:
        return f"{folder.path} is finished: {describe(done)}; another run needs another name=..."
    if job is not None and now.unknown and not dry_run:
        raise RunError(
            f"{folder.path} was launched as job {job.id}, and whether that runs is not known: {now.reason}; "
            "nothing is queued: the same command when Slurm does"
        )
    if job is None or not now.alive:
        return None
    if job.moved:
        raise RunError(
            f"{folder.path} was {job.place} when it became job {job.id}, which is {now.word.lower()} and cannot "
            f"write here; tdformer stop {folder.path}, then the same command"
        )
    while_running(folder.stored(folder.launch_file), config, folder.path, job.id)
    why = f"; {why}" if (why := now.why(job.id)) else ""
    return f"{folder.path} is job {job.id} already ({now.word.lower()}); tdformer logs -f {folder.path}{why}"


def place(config: Config) -> None:
    """Make the paths in a configuration those of any process, wherever it is started."""
    config.runs_dir = str(Path(config.runs_dir).resolve())
    if isinstance(shards := config.data.folder, Path):
        config.data.root = str(shards.resolve())
    if config.data.cache is not None:
        config.data.cache = str(Path(config.data.cache).resolve())
    if config.model.weights is not None:
        config.model.weights = os.path.abspath(config.model.weights)


def note(folder: RunFolder, job: str, shape: Shape, queued: bool) -> None:
    """Write job.json. queued: it is Slurm's."""
    facts = {"id": job, "slurm": queued, "time": time.time(), "command": sys.argv, **shape.__dict__}
    facts |= {"host": socket.gethostname(), **folder.mark()}
    write_atomic(folder.job_file, (json.dumps(facts) + "\n").encode())


def on_slurm(where: str) -> bool:
    """Whether a launch `where` (slurm, local or auto) goes to Slurm."""
    return where == "slurm" or (where == "auto" and shutil.which("sbatch") is not None)


def resume(run: Path, overrides: Sequence[str], site: Path | None = None) -> int:
    """Launch a run again as it was launched, with the code of now."""
    folder = RunFolder(run)
    if folder.cell_file.exists():  # what it costs is counted there, against the budget
        study = folder.path.resolve().parents[1]
        raise RunError(f"{run} is a cell of a study, which goes on with it: tdformer scale run {study}")
    job = jobs.of(folder)
    if job is None:
        raise RunError(f"{run} was not launched; a run of `tdformer train` goes on with the same command")
    shape = Shape(*(job.record[key] for key in ("nodes", "processes", "gpus")))
    config = folder.stored(folder.launch_file, overrides, site)
    configs.check_commands(config, folder.launch_file, overrides, site=site)
    for_training(config, overrides, launched=True, slurm=job.slurm)
    return launch(config, shape, "slurm" if job.slurm else "local")


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
    file, logs, code = folder.launch_file, folder.path / "logs", folder.path / "code"
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


def _submitted(executor: submission.Slurm, folder: RunFolder) -> submitit.core.core.Job[None]:
    """Raises RunError where sbatch refuses the job after all."""
    try:
        return executor.submit(Job(folder.path))
    except submission.Refused as error:
        refused = slurm.submission(str(error))
        more = "; it may have queued a job all the same: squeue --me" if isinstance(refused, slurm.NoAnswer) else ""
        raise type(refused)(f"{refused}{more}") from error
