"""The run folder: one place for what a run is, what it measured and what it kept; one process at a time."""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import math
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
import time
import uuid
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import config as configs
from .config import Config
from .errors import RunError, disk_errors

REVISION = "revision.json"
"""In a snapshot of the code: what `revision` said where it was taken."""


class RunFolder:
    """Paths and files of one run.

    config.yaml     the whole configuration, as last started
    metrics.jsonl   what was measured; no clock in it, so a killed and an undisturbed run write the same bytes
    speed.jsonl     what the clock says: images/s, data wait, pauses
    curves.png      metrics.jsonl drawn
    checkpoints/    see checkpoint.py
    health.jsonl    what it warned of; steps left out, with the ids of their batch
    starts.jsonl    each start: code revision, versions, machine
    crashes.jsonl   each crash of a job: its exit code, and the newest checkpoint there was
    status.json     what the run last said of itself; see `RunFolder.tell`
    launch.yaml, job.json, code/, logs/    of a launched run: the configuration, the job, its code and output
    summary.json    the final line; it exists when the run is finished
    lock            held by the process that writes here
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.summary_file = self.path / "summary.json"
        self.status_file = self.path / "status.json"
        self.metrics = Rows(self.path / "metrics.jsonl")
        self.speed = Rows(self.path / "speed.jsonl")
        self.health = Rows(self.path / "health.jsonl")
        self.starts = Rows(self.path / "starts.jsonl")
        self.crashes = Rows(self.path / "crashes.jsonl")

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Keep every other process out until the block ends or this process dies, however it dies.

        wait: seconds to keep trying. Raises RunError, naming the holder, when the folder stays in use, or is no run's.
        """
        self._check_ours()
        with exclusive(self.path, wait):
            yield

    def check(self, config: Config) -> None:
        """Raises RunError where the folder holds a run with other settings. Writes nothing."""
        before = self.config()
        if before is not None and (changed := configs.differences(before, config)):
            raise RunError(
                f"{self.path} holds a run with other settings: {', '.join(changed)}; "
                f"set them back, or start a new run with name=..."
            )
        if before is None and (self.metrics.size() or any(self.checkpoints.glob("*"))):
            raise RunError(f"{self.path} holds results but no config.yaml; start a new run with name=...")
        self._check_ours()

    def _check_ours(self) -> None:
        """Raises RunError for a folder that we did not write: it may be anybody's, and nothing in it is touched."""
        of_a_run = self.config_file.exists() and self.checkpoints.is_dir()
        if not self.path.is_dir() or of_a_run or self.starts.path.exists() or (self.path / "launch.yaml").exists():
            return
        # Of a start that was killed before it wrote those; an empty folder is nobody's loss.
        begun = re.compile(r"lock|checkpoints|config\.yaml|\.config\.yaml\..*tmp")
        other = sorted(p.name for p in self.path.iterdir() if not begun.fullmatch(p.name) and not _is_empty(p))
        if other:
            raise RunError(f"{self.path} holds {other[0]} and is no run of tdformer; start the run with name=...")

    def open(self, config: Config) -> None:
        """Make the folder for `config` (as asked, not resolved), or take up the one that is there, if it is its own."""
        self.check(config)
        with disk_errors(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        if not self.config_file.exists():
            write_atomic(self.config_file, configs.to_yaml(config).encode())
        self.starts.append(_start())

    def config(self) -> Config | None:
        """The configuration that the run was first started with; None where there is none yet."""
        return configs.stored(self.config_file) if self.config_file.exists() else None

    def summary(self) -> dict[str, Any] | None:
        """The final line of a finished run; None while it is not finished."""
        try:
            return json.loads(self.summary_file.read_text())
        except FileNotFoundError:
            return None
        except ValueError as e:
            raise RunError(f"{self.summary_file} is not JSON; delete it to let the run finish again") from e

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the final line: from now on the run is finished."""
        self.metrics.sync()
        write_atomic(self.summary_file, (_row(summary) + "\n").encode())

    def tell(self, state: str, **facts: Any) -> None:
        """Replace status.json: `state` is starting, running, saved (it ended, and goes on when started again),
        failed or finished; the time; and any facts."""
        write_atomic(self.status_file, (_row({"state": state, "time": time.time(), **facts}) + "\n").encode())

    def status(self) -> dict[str, Any]:
        """What `tell` last wrote; {} before the first start."""
        try:
            return json.loads(self.status_file.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def saved_step(self) -> int | None:
        """The step of the newest checkpoint, by its name; None before the first."""
        return max((int(p.name.removeprefix("step-")) for p in self.checkpoints.glob("step-*")), default=None)

    def wandb_id(self) -> str:
        """One id for all starts of this run."""
        file = self.path / "wandb_id"
        if not file.exists():
            write_atomic(file, uuid.uuid4().hex[:8].encode())
        return file.read_text().strip()

    def wandb_step(self) -> int:
        """The step up to which wandb has every row, whatever a kill has cost it since."""
        try:
            return int((self.path / "wandb_step").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def wandb_has(self, step: int) -> None:
        """Note it; see `wandb_step`."""
        write_atomic(self.path / "wandb_step", str(step).encode())


class Rows:
    """A JSON-lines file that is appended to: a row is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Keys keep their order, floats all their digits; what is not finite becomes null."""
        line = (_row(row) + "\n").encode()
        with disk_errors(self.path):
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                before = os.fstat(fd).st_size
                try:
                    _write_all(fd, line)
                except OSError:
                    os.ftruncate(fd, before)
                    raise
            finally:
                os.close(fd)

    def read(self) -> list[dict[str, Any]]:
        """All whole rows; a last line that a killed process left half-written is not one."""
        if not self.path.exists():
            return []
        whole = self.path.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def truncate(self, size: int) -> None:
        """Go back to the first `size` bytes: what a run wrote after the checkpoint it goes on from."""
        if self.size() < size:
            raise RunError(
                f"{self.path} has {self.size()} bytes, the checkpoint was written when it had {size}; "
                f"restore the file, or start a new run with name=..."
            )
        if self.path.exists():
            with disk_errors(self.path):
                os.truncate(self.path, size)

    def sync(self) -> None:
        """Return when every row is on the disk."""
        if self.path.exists():
            with disk_errors(self.path), open(self.path, "rb") as f:
                os.fsync(f.fileno())


@contextmanager
def exclusive(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Make `folder` and keep every other process out of it; see `RunFolder.lock`."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = _Lock(folder / "lock")
    try:
        held.acquire(time.monotonic() + wait)
        yield
    finally:
        held.close()


def write_atomic(path: Path, content: bytes) -> None:
    """Write `path` so that it holds the old content or the new, whatever happens. RunError: no space."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # a name that nobody has
    with disk_errors(path):
        try:
            with open(temporary, "xb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def sync_folder(path: Path) -> None:
    """Make the names in a folder (new files, renames) as lasting as their content."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def revision() -> dict[str, Any]:
    """The commit of the code that runs, and whether files differ from it; None where it is not in git."""
    here = Path(__file__).resolve().parent.parent
    if (here / REVISION).exists():  # a snapshot, which knows what it was taken from
        return json.loads((here / REVISION).read_text())

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(here), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "--verify", "HEAD"), git("status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _start() -> dict[str, Any]:
    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": sys.argv,
        **revision(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "deepspeed", "numpy")},
    }


_held: weakref.WeakSet[_Lock] = weakref.WeakSet()


class _Lock:
    """flock, which the system lets go of when its holder dies. A forked child (a loader worker) must not
    keep it beyond that, so the copy that it inherits is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        _held.add(self)

    def acquire(self, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as e:
                if time.monotonic() >= deadline:
                    raise RunError(
                        f"{self.path.parent} is in use by {self._holder()}; "
                        f"wait for it, stop it, or use another folder (name=...)"
                    ) from e
                time.sleep(0.05)
        self._holder()
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def _holder(self) -> str:
        """Who holds it, or did. Raises RunError for a file that is no lock of ours."""
        if not (content := os.pread(self.fd, 4096, 0)):
            return "another process"
        try:
            holder = json.loads(content)
            return f"process {holder['pid']} on {holder['host']}"
        except (ValueError, KeyError, TypeError) as e:
            raise RunError(f"{self.path} is a file that tdformer did not write; move it, or use another folder") from e

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _after_fork() -> None:
    for lock in list(_held):
        lock.close()


os.register_at_fork(after_in_child=_after_fork)


def _row(row: Mapping[str, Any]) -> str:
    return json.dumps({k: _plain(v) for k, v in row.items()}, allow_nan=False)


def _plain(value: Any) -> Any:
    """A number of any library as Python's own, whose repr has every digit."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _write_all(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]
