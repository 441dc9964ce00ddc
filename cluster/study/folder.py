"""The folder of a study, and those of its cells: what is there, and what state each cell is in."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ..config import to_yaml
from ..config.plugins import name_of, source
from ..config.shape import Shape
from ..errors import RunError, disk_errors
from ..jobs import snapshot
from ..jobs import status as jobs
from ..run.folder import RunFolder
from ..run.kept import Revision, Stopped
from ..run.lock import SILENT
from ..run.provenance import REVISION
from ..run.records import Rows, record, write_atomic
from ..run.states import UNDER_WAY, RunState
from ..slurm import State
from .schema import Study

if TYPE_CHECKING:
    from .grid import Cell

CALM = (0, 2, 143, 142, -15, -14)
"""Exit codes of starts that did not crash: done, a user's error, asked to end by TERM, ended by the budget's alarm."""
STATES = (
    RunState.FINISHED,
    RunState.STOPPED,
    RunState.RUNNING,
    RunState.QUEUED,
    RunState.SAVED,
    RunState.WAITING,
    RunState.FAILED,
)
"""Of a cell, in the order in which they are told."""
ENDED = (RunState.FINISHED, RunState.STOPPED)
"""States of a cell that nothing more is to be done for."""


class Failing(TypedDict):
    """The failures that a study asks for; see `schema.Failures`."""

    mtbf_hours: float
    kills: str
    seed: int


class Facts(TypedDict, total=False):
    """cell.json."""

    digest: str
    axes: dict[str, object]
    nodes: int
    processes: int
    gpus: int
    steps: int
    images: int
    plan: dict[str, float]
    revision: str
    failures: Failing


class Attempt(TypedDict, total=False):
    """A row of attempts.jsonl."""

    time: float
    exit_code: int | None
    injected: bool


class Failure(TypedDict):
    """A row of failures.jsonl."""

    time: float
    pid: int
    killed: int


class CellFolder:
    """A cell as it lies on the disk: a run folder with more in it.

    cell.json       what the cell is: digest, axes, shape, steps and images of the whole run, its plan
    usage/          what each start has cost: see usage.py
    attempts.jsonl  how each start ended: exit code, newest checkpoint; injected: by a failure that the study asked for
    failures.jsonl  those: see failures.py
    """

    def __init__(self, path: Path) -> None:
        self.path, self.run = path, RunFolder(path)
        self.attempts: Rows[Attempt] = Rows(path / "attempts.jsonl")
        self.failures: Rows[Failure] = Rows(path / "failures.jsonl")

    @property
    def facts(self) -> Facts | None:
        """cell.json; None before the study has written it."""
        checked = ("digest", "axes", "nodes", "processes", "gpus", "steps", "images")
        return record(self.run.cell_file, "run the study again, which writes it", Facts, *checked)

    @cached_property
    def shape(self) -> Shape:
        facts = self.facts
        assert facts is not None
        return Shape(facts["nodes"], facts["processes"], facts["gpus"])

    def tried(self, code: int, pid: int | None = None) -> None:
        """A start has ended with this exit code. pid: of its first process, where that is known."""
        row = {"time": time.time(), "exit_code": code, "checkpoint": self.run.saved_step() or 0}
        failures = self.failures.whole("pid")[0][-1:]
        self.attempts.append(row | ({"injected": True} if failures and failures[0]["pid"] == pid else {}))

    def forgive(self) -> None:
        """What has failed so far counts no more."""
        self.attempts.append({"time": time.time(), "exit_code": None, "checkpoint": self.run.saved_step() or 0})

    def ends(self) -> list[int]:
        """The exit codes of starts that ended by themselves, since the last `forgive`."""
        codes = [row.get("exit_code") for row in self.attempts.whole()[0] if not row.get("injected")]
        since = max((i for i, code in enumerate(codes) if code is None), default=-1) + 1
        return [code for code in codes[since:] if isinstance(code, int)]

    def crashes(self) -> int:
        return sum(code not in CALM for code in self.ends())

    def wrong(self) -> bool:
        """Whether the last start ended with a user's error: another one would too."""
        return self.ends()[-1:] == [2]

    def stopped(self) -> Stopped | None:
        """Where a rule of the study ended it."""
        return record(self.run.stopped_file, "restore it", Stopped)

    def done(self) -> int:
        """Its steps, those that a checkpoint has, or that it last told of."""
        if (summary := self.run.summary()) is not None:
            return int(summary["step"])
        if (stopped := self.stopped()) is not None:
            return int(stopped["step"])
        return max(self.run.status().get("step") or 0, self.run.saved_step() or 0)

    def state(self, tries: int, job: State | None = None) -> RunState:
        """One of STATES. job: what Slurm says of its job, if it has one of its own."""
        if self.run.summary() is not None:
            return RunState.FINISHED
        if job is not None and (job.alive or job.unknown):
            return RunState.QUEUED if job.waits else RunState.RUNNING
        if self.run.stopped_file.exists():
            return RunState.STOPPED
        if job is None and self._runs_here():
            return RunState.RUNNING
        if self.wrong() or self.crashes() >= tries:
            return RunState.FAILED
        return RunState.WAITING if self.run.saved_step() is None else RunState.SAVED

    def _runs_here(self) -> bool:
        status = self.run.status()
        if status.get("state") not in UNDER_WAY or "pid" not in status:
            return False
        if status.get("host") == socket.gethostname():
            return os.path.exists(f"/proc/{status['pid']}")
        return time.time() - status.get("time", 0) < SILENT

    def job(self) -> jobs.Job | None:
        """Its job on Slurm."""
        job = jobs.of(self.run)
        return job if job is not None and job.slurm and job.own else None


def _by_size(name: str) -> list[tuple[float, str]]:
    """A key to sort by: `time_steps=4` before `time_steps=16`."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(float(part), part) if i % 2 else (0.0, part) for i, part in enumerate(parts)]


class StudyFolder:
    """study.yaml     the study, over the configuration in base.yaml
    code/          the code that all cells run: a copy of what ran when the study was begun
    cells/CELL/    the run folder of each cell
    arrays/        the job arrays that were asked of Slurm, logs/ what their jobs and local cells print
    budget.json    the budget; reached.json: where it ended cells
    lock.N         who runs it: see run/lock.py
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.file, self.base = self.path / "study.yaml", self.path / "base.yaml"
        self.code, self.logs, self.arrays = self.path / "code", self.path / "logs", self.path / "arrays"

    @property
    def cells(self) -> list[CellFolder]:
        """Those that the study has made, by name, numbers in it by size."""
        found = self.path.glob("cells/[!.]*/cell.json")
        return [CellFolder(file.parent) for file in sorted(found, key=lambda file: _by_size(file.parent.name))]

    def check(self) -> None:
        """Raises RunError where the folder is another thing's."""
        if self.file.exists() or not self.path.exists():
            return
        ours = ("study.yaml", "base.yaml", "code", "cells", "logs", "arrays", ".code.tmp")
        names = sorted(path.name for path in self.path.iterdir())
        if other := [name for name in names if name not in ours and not name.startswith(("lock", "."))]:
            raise RunError(f"{self.path} holds {other[0]} and is no study; give the study another name or runs_dir")

    def keep_code(self, study: Study) -> str:
        """Take the snapshot that cells run, where there is none yet; returns its revision."""
        if not (self.code / REVISION).exists():
            snapshot.check(self.path)
            with disk_errors(self.path):
                snapshot.take(self.path, [source(plugin) for plugin in study.base.plugins])
        return self.revision()

    def revision(self) -> str:
        """Of the code in the snapshot: its commit, and where files differed from that, a digest of them."""
        remedy = "restore it, or run the study under another name"
        facts: Revision = record(self.code / REVISION, remedy, Revision, "commit", "dirty") or {}
        commit = (facts.get("commit") or "")[:12]
        if commit and not facts.get("dirty"):
            return commit
        digest = hashlib.sha256()
        files = [file for kind in ("*.py", "*.yaml") for file in self.code.rglob(kind)]
        for file in sorted(files):
            digest.update(f"{file.relative_to(self.code)}\n".encode() + file.read_bytes())
        return "+".join(filter(None, [commit, digest.hexdigest()[:8]]))

    def keep(self, study: Study, cells: Sequence[Cell]) -> None:
        """Write the study and its cells, or what may have changed of them. Raises RunError where a cell that was begun
        is not among them, and for a cell that could never work."""
        known = {cell.path.name: cell for cell in self.cells}
        if gone := sorted(known.keys() - {cell.name for cell in cells}):
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            raise RunError(
                f"{self.path} has the cell {gone[0]}{more}, and this study has not: it is another one. Cells may be "
                "added, and budget_gpu_hours, at_once, tries, where and report may change; set the rest back, or give "
                "it another name"
            )
        from .grid import sized  # imports torch, which the last line of a job does without

        sizes = {cell.name: sized(cell) for cell in cells if cell.name not in known}
        with disk_errors(self.path):
            for folder in (self.path / "cells", self.logs, self.arrays):
                folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.base, to_yaml(study.base).encode())
        write_atomic(self.file, study.to_yaml(self.base.name).encode())
        allowed = {"budget_gpu_hours": study.options.budget_gpu_hours}
        write_atomic(self.path / "budget.json", (json.dumps(allowed) + "\n").encode())
        for cell in cells:
            self._keep_cell(study, cell, sizes.get(cell.name))

    def _keep_cell(self, study: Study, cell: Cell, size: dict[str, object] | None) -> None:
        """size: steps, images and plan of a cell that is new."""
        path, config = self.path / "cells" / cell.name, cell.config
        run = RunFolder(path)
        config.plugins = [name_of(plugin) for plugin in config.plugins]  # as they are found in the snapshot
        config.site.restarts = study.options.tries - 1
        text = to_yaml(config).encode()
        with disk_errors(path):
            path.mkdir(exist_ok=True)
            with suppress(FileExistsError):
                (path / "logs").symlink_to(Path("..", "..", "logs"))
        if not run.launch_file.exists() or run.launch_file.read_bytes() != text:
            write_atomic(run.launch_file, text)
        if size is None:
            return
        if study.options.stop:
            write_atomic(run.limits_file, (json.dumps(asdict(study.options.stop)) + "\n").encode())
        facts = {"digest": cell.digest, "axes": dict(cell.axes), **cell.shape.__dict__, **size}
        facts |= {"revision": self.revision()}
        if study.options.failures:
            facts["failures"] = asdict(study.options.failures)
        write_atomic(run.cell_file, (json.dumps(facts) + "\n").encode())
