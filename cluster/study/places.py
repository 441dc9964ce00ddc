"""Where cells run: as processes of this machine, or as elements of job arrays of Slurm."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypedDict

from .. import slurm
from ..errors import RunError, disk_errors
from ..jobs import request, submission
from ..jobs.launch import note
from ..run.records import record, write_atomic
from ..slurm import State
from .folder import CellFolder, StudyFolder
from .grid import Cell


class Place(Protocol):
    """pause: seconds between two looks at it."""

    pause: float

    def look(self) -> None:
        """See what has become of the cells that were started."""
        ...

    def jobs(self, cells: Sequence[CellFolder]) -> dict[str, State]:
        """What is known of the job of each cell that has one, by the cell's name."""
        ...

    def start(self, cells: Sequence[Cell], most: int) -> list[str]:
        """Start cells, of which `most` may run at once; returns the names of those that are now running or queued."""
        ...

    def spread(self, names: Sequence[str], most: int) -> None:
        """Of these cells, which are running or queued, let `most` run at once."""
        ...

    def withdraw(self, names: Sequence[str]) -> None:
        """Take these cells, which wait, out of the queue."""
        ...

    def busy(self) -> bool:
        """Whether a start has not quite ended that must not be cut off."""
        ...

    def leave(self) -> str | None:
        """The study's process ends, having been asked to; what becomes of the cells, in a line."""
        ...


def begin(words: Sequence[str], code: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start Python with these words, on the code in a folder; what it prints is appended to `log`."""
    env = os.environ | {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    with log.open("ab") as out:
        # A session of its own: Ctrl-C is for the study, which tells it to save.
        return subprocess.Popen(
            [sys.executable, "-u", *words],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


class Local:
    """Each cell is a process below this one, and dies with it."""

    pause = 0.2

    def __init__(self, study: StudyFolder) -> None:
        self.study = study
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def look(self) -> None:
        for name, process in list(self.running.items()):
            if (code := process.poll()) is not None:
                del self.running[name]
                CellFolder(self.study.path / "cells" / name).tried(code, process.pid)

    def jobs(self, cells: Sequence[CellFolder]) -> dict[str, State]:
        return {name: State("RUNNING") for name in self.running}

    def start(self, cells: Sequence[Cell], most: int) -> list[str]:
        for cell in cells[:most]:
            path = self.study.path / "cells" / cell.name
            words = ("-m", "cluster.study.element", "local", str(path))
            self.running[cell.name] = begin(words, self.study.code, self.study.logs / f"{cell.name}.out")
        return [cell.name for cell in cells[:most]]

    def spread(self, names: Sequence[str], most: int) -> None:
        """Here none waits."""

    def withdraw(self, names: Sequence[str]) -> None:
        """Here none waits."""

    def busy(self) -> bool:
        return bool(self.running)

    def leave(self) -> str | None:
        for process in self.running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        count = len(self.running)
        while self.running:
            time.sleep(self.pause)
            self.look()
        return f"{count} running cell{'s' * (count != 1)} saved" if count else None


class Asked(TypedDict):
    """arrays/N.json."""

    name: str
    cells: list[str]
    id: str | None


class Arrays:
    """A job array for cells of one shape, whose file arrays/N.json is written before it is submitted: its name, by
    which Slurm is asked for it, its cells in order, and then its number."""

    pause = 5.0

    def __init__(self, study: StudyFolder) -> None:
        self.study = study
        self.limits: dict[str, int] = {}  # of each array that runs: elements at once
        with disk_errors(study.arrays):
            self.lock = (study.arrays / "lock").open("w")
        # An sbatch that outlives its study has it: what it has submitted is known to Slurm once it ends.
        with suppress(OSError):  # a file system may have no flock: then that is taken to have ended by now
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        for file in self._files():
            facts = self._read(file)
            if facts["id"] is None and (job := slurm.called(facts["name"])) is not None:
                self._note(file, facts, job)

    def _files(self) -> list[Path]:
        return sorted(self.study.arrays.glob("*.json"), key=lambda file: int(file.stem))

    def _read(self, file: Path) -> Asked:
        facts = record(file, "restore it, or run the study under another name", Asked)
        assert facts is not None
        return facts

    def _note(self, file: Path, facts: Asked, job: str) -> None:
        """An array is queued: each of its cells is the job of its run folder."""
        for number, name in enumerate(facts["cells"]):
            cell = self._cell(name)
            note(cell.run, f"{job}_{number}", cell.shape, queued=True)
        write_atomic(file, (json.dumps({**facts, "id": job}) + "\n").encode())

    def look(self) -> None:
        pass

    def jobs(self, cells: Sequence[CellFolder]) -> dict[str, State]:
        known = {cell.path.name: job.id for cell in cells if (job := cell.job()) is not None}
        told = slurm.states([*known.values()])
        return {name: told[job] for name, job in known.items()}

    def start(self, cells: Sequence[Cell], most: int) -> list[str]:
        queued: list[str] = []
        for group in groups(cells):
            if (room := most - len(queued)) > 0:
                self._submit(group, min(room, len(group)))
                queued += [cell.name for cell in group]
        return queued

    def spread(self, names: Sequence[str], most: int) -> None:
        alive = Counter(job.id.partition("_")[0] for name in names if (job := self._cell(name).job()) is not None)
        for array in sorted(alive, key=int):  # an older one leaves what it has no elements for to the next
            limit = max(1, most)
            most -= alive[array]
            if self.limits.get(array) != limit:
                with suppress(slurm.NoAnswer):
                    change = ("scontrol", "update", f"jobid={array}", f"arraytaskthrottle={limit}")
                    slurm.asked(*change, unless="already finished")  # as it says of elements that are
                    self.limits[array] = limit

    def _cell(self, name: str) -> CellFolder:
        return CellFolder(self.study.path / "cells" / name)

    def withdraw(self, names: Sequence[str]) -> None:
        for name in names:
            if (job := self._cell(name).job()) is not None:
                slurm.cancel(job.id)

    def busy(self) -> bool:
        return False

    def _submit(self, cells: Sequence[Cell], most: int) -> None:
        number = 1 + max((int(file.stem) for file in self._files()), default=0)
        file, first = self.study.arrays / f"{number}.json", cells[0]
        name = f"{self.study.path.name}-{number}-{uuid.uuid4().hex[:8]}"
        element = f"{request.python(first.config)} -u -m cluster.study.element"
        array = submission.Array(self.study.logs, f"{element} rank {shlex.quote(str(file))}", len(cells), most)
        last = f"exec {element} aftermath {shlex.quote(str(file))} $?"
        request.ask(array, first.config, first.shape, name, self.study.code, last)
        script = array.script()
        request.leave_out_overriding(script)
        request.check(script, first.config, first.shape, dry_run=False)
        facts: Asked = {"name": name, "cells": [cell.name for cell in cells], "id": None}
        write_atomic(file, (json.dumps(facts) + "\n").encode())
        try:
            job = slurm.submit(script, [self.lock.fileno()])
        except slurm.NoAnswer:  # it may be queued: the study's next start asks for it by its name
            raise
        except RunError:
            file.unlink()
            raise
        self._note(file, facts, job)

    def leave(self) -> str | None:
        return "what is queued or runs on Slurm goes on"


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that one job array can be made of: the same processes, cores, and settings of the site."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        key = repr((cell.shape, request.cores(cell.config), cell.config.site))
        found.setdefault(key, []).append(cell)
    return list(found.values())
