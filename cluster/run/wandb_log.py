"""wandb: a log that is one run for all starts of ours, and sending later what was logged offline."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..config import Config, flat
from ..errors import RunError, disk_errors
from .folder import RunFolder
from .provenance import revision
from .wandb_id import identity

if TYPE_CHECKING:
    from wandb import Run


def start(run: RunFolder, config: Config, say: Callable[[str], None]) -> Run:
    """A run of wandb's; without a key it is kept in the run folder, to be sent later. Raises RunError where wandb does
    not start."""
    wandb = _loaded(run)
    *entity, project = config.log.wandb_project.split("/")
    online = config.log.wandb == "online"
    if online and (why := _no_wandb()):
        say(f"{why}: logging offline; `tdformer sync {run.path}` sends it later")
        online = False
    try:
        started: Run = wandb.init(
            entity=entity[0] if entity else None,
            project=project,
            name=config.name,
            id=identity(run),
            resume="allow" if online else None,
            dir=str(run.path),
            mode="online" if online else "offline",
            config=flat(config),
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.Error as error:
        raise RunError(f"wandb does not start: {' '.join(str(error).split())}; log.wandb=off leaves it out") from error
    started.config.update(_facts(), allow_val_change=True)  # another one at each start
    # After a kill some steps are sent again; against our own step they lie over each other.
    started.define_metric("*", step_metric="step")
    return started


def _loaded(run: RunFolder) -> ModuleType:
    """wandb. As it is imported it makes folders where other programs make theirs, and processes that are killed or end
    as ours do leave them behind: these are in the run folder, and go at its next start. Under the run's lock."""
    if "wandb" not in sys.modules:
        place = run.path / "wandb" / "tmp"
        with disk_errors(place):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True, exist_ok=True)
        usual, tempfile.tempdir = tempfile.tempdir, str(place)
        try:
            import wandb  # noqa: F401 - taken from where it is then
        finally:
            tempfile.tempdir = usual
    return sys.modules["wandb"]


def finish(started: Run) -> None:
    """End it; a log that is to be sent later has a mark of that, since one that was killed may look whole to wandb."""
    folder = Path(started.dir).parent
    started.finish()
    if folder.name.startswith("offline-"):
        _ended(folder).touch()


def _ended(folder: Path) -> Path:
    return folder / "ended"


def sync(run: RunFolder) -> str:
    """Send what a run logged offline to wandb; returns a line that says so. Raises RunError where nothing is to be
    sent, or wandb refuses."""
    logged = sorted(run.path.glob(f"wandb/offline-run-*-{identity(run)}"))
    if not logged:
        raise RunError(f"{run.path} has nothing logged offline by itself; log.wandb=offline does")
    if why := _no_wandb():
        raise RunError(f"{why}; `wandb login` first, on a machine with network")
    cut = 0
    for folder in logged:
        marker = folder / f"run-{identity(run)}.wandb.synced"
        if marker.exists():
            continue
        # One by one: wandb sends nothing at all where one of several logs ends before its first record.
        command = [sys.executable, "-m", "wandb", "sync", "--id", identity(run), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        said = (done.stderr + done.stdout).strip()
        short = re.search("incomplete record|next record: EOF", said)
        if not short and (done.returncode or not marker.exists()):  # where a log cannot be sent, its exit code is 0
            raise RunError(f"wandb refuses {folder}: {said.splitlines()[-1] if said else 'no reason given'}")
        if short or not _ended(folder).exists():
            cut += 1
            marker.touch()
            if folder == logged[-1]:  # that may be running
                marker.unlink()
    told = f"; {cut} of them without an end (killed: the next start has the rest; or running)" if cut else ""
    return f"{run.path}: sent as run {identity(run)}, {len(logged)} starts{told}"


def _no_wandb() -> str | None:
    """Why nothing can be sent to wandb from here; None: it can."""
    import wandb

    try:
        return None if wandb.login(prompt=False) else "wandb has no key here"
    except wandb.Error as error:  # a key that it does not take, or no network
        return " ".join(str(error).split())


def _facts() -> dict[str, object]:
    """The code's revision, and where Slurm has put this start."""
    slurm = ("JOB_ID", "RESTART_COUNT", "JOB_PARTITION", "JOB_ACCOUNT", "JOB_NODELIST", "NNODES", "NTASKS")
    given = {key.lower(): os.environ.get(f"SLURM_{key}") for key in slurm}
    return {f"start.{key}": value for key, value in (revision() | given).items() if value is not None}
