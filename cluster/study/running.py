"""Running a study: what is to be started is started, within its limits, until nothing is left to do.

All that it knows lies in files, those of the cells and its own, and with Slurm. So it may be killed at any moment, and
started again it goes on.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from ..errors import RunError
from ..jobs import request
from ..jobs.launch import on_slurm, place
from ..run.lock import exclusive
from ..run.states import RunState
from ..slurm import State
from . import fits, grid, report, schema
from .cost import Costs
from .folder import CALM, ENDED, STATES, CellFolder, StudyFolder
from .grid import Cell
from .places import Arrays, Local, Place
from .schema import Study
from .usage import budget, reached

BACKOFF = 5.0
"""Seconds before a cell that crashed is tried again; twice as many after each crash more."""
LONGEST = 600.0
"""Of them."""
LIVE = (RunState.RUNNING, RunState.QUEUED)
OPEN = (RunState.WAITING, RunState.SAVED)
"""States of cells that have a start, and of those that may get one."""


class Asked(BaseException):
    """The study's process was asked to end."""


def run(
    given: str | Path,
    overrides: Sequence[str] = (),
    site: Path | None = None,
    again: bool = False,
    where: str | None = None,
) -> int:
    """Run a study until nothing is left to do. again: cells that have failed are tried anew; where: instead of what the
    study says. Returns the exit code: 0 where all cells are finished or were stopped by a rule, 1 where some are not,
    143 after a signal. Raises RunError for what can be seen before anything starts."""
    study = schema.read(schema.find(given), overrides, site)
    study = study if where is None else study.at(where)
    if study.report is not None:  # a wrong word there costs nothing now
        report.check(study.report)
        fits.check(study.report.get("fits", []))
    place(study.base)
    queued = on_slurm(study.options.where)
    if queued and study.options.failures:
        raise RunError(f"study {study.options.name}: failures are of cells on this machine; --where local")
    folder = StudyFolder(study.path)
    folder.check()
    with exclusive(folder.path, wait=5):  # of a process that was just killed, cells may have to end
        revision = folder.keep_code(study)
        cells = grid.cells(study, revision)
        _check(cells, queued)
        folder.keep(study, cells)
        for cell in folder.cells if again else ():
            if cell.wrong() or cell.crashes():
                cell.forgive()
        print(f"{folder.path}: {len(cells)} cells, code of revision {revision}", flush=True)
        return Runner(study, folder, cells, Arrays(folder) if queued else Local(folder)).run()


def _check(cells: Sequence[Cell], queued: bool) -> None:
    for cell in cells:
        if queued:
            request.check_site(cell.config)
        elif cell.shape.nodes > 1:
            nodes = cell.shape.nodes
            raise RunError(f"cell {cell.name} is of {nodes} nodes, and those need Slurm; run it where sbatch is")


class Runner:
    """One sitting of a study."""

    def __init__(self, study: Study, folder: StudyFolder, cells: Sequence[Cell], where: Place) -> None:
        self.study, self.folder, self.where = study, folder, where
        self.cells = {cell.name: cell for cell in cells}
        self.folders = {name: CellFolder(folder.path / "cells" / name) for name in self.cells}
        self.costs = Costs([*self.folders.values()])
        self.budget = budget(folder.path)
        self.begun: dict[str, int] = {}  # in this sitting: attempts that there were before
        self.left: dict[str, str] = {}  # not to be started any more in this sitting, and why
        self.dear: dict[str, str] = {}  # what does not fit into the budget now
        self.told, self.unknown = "", False

    def run(self) -> int:
        with _signals():
            try:
                while self.look():
                    time.sleep(self.where.pause)
            except Asked:
                line = self.where.leave()
                print(f"asked to end{f': {line}' if line else ''}; the same command goes on", flush=True)
                return 128 + signal.SIGTERM
        return self.end()

    def look(self) -> bool:
        """One turn; False: nothing is left to do."""
        self.where.look()
        jobs = self.where.jobs([*self.folders.values()])
        states = self.states(jobs)
        live = [name for name, state in states.items() if state in LIVE]
        self.tell(states)
        if reached(self.folder.path, self.budget):
            self.where.withdraw([name for name in live if states[name] == RunState.QUEUED])
            return bool(live) or self.where.busy()
        self.where.spread(live, self.study.options.at_once)
        for name in self.begun.keys() - {*live}:
            self.ended(name, jobs.get(name))
        open_ = [name for name, state in states.items() if state in OPEN and name not in self.left]
        now = time.time()
        todo = self.affordable([name for name in open_ if self.not_before(name) <= now], states)
        room = self.study.options.at_once - len(live)
        if todo and room > 0:
            started = self.where.start([self.cells[name] for name in todo], room)
            self.begun |= {name: len(self.folders[name].attempts.whole()[0]) for name in started}
            return True
        return bool(live) or self.where.busy() or any(self.not_before(name) > now for name in open_)

    def states(self, jobs: Mapping[str, State]) -> dict[str, RunState]:
        tries = self.study.options.tries
        return {name: cell.state(tries, jobs.get(name)) for name, cell in self.folders.items()}

    def ended(self, name: str, job: State | None) -> None:
        """A start of this sitting has ended: whether another one makes sense."""
        cell, before = self.folders[name], self.begun.pop(name)
        if cell.run.summary() is not None or cell.stopped() is not None:
            return
        rows = cell.attempts.whole()[0][before:]
        if rows and rows[-1].get("injected"):
            return
        if not rows and job is not None and job.word != "CANCELLED":
            cell.tried(1)  # it ended without a word
        elif not rows or rows[-1].get("exit_code") in CALM:
            reason = str(cell.run.status().get("reason") or "")
            # Of a time limit where the site queues nothing again another start makes sense.
            if not reason.startswith(f"stopped by {signal.SIGUSR2.name}"):
                self.left[name] = reason or "was told to end"

    def not_before(self, name: str) -> float:
        """The clock from which a cell may be started: after a crash, some time later."""
        cell = self.folders[name]
        crashes = cell.crashes()
        if not crashes:
            return 0.0
        pause: float = min(LONGEST, BACKOFF * 2 ** (crashes - 1))
        return float(cell.attempts.whole("time")[0][-1]["time"]) + pause

    def affordable(self, todo: Sequence[str], states: Mapping[str, RunState]) -> list[str]:
        """Those of `todo` that fit into what is left of the budget, beside those that run; and those whose cost nobody
        knows yet, as long as something is left. `dear` keeps the others."""
        self.dear = {}
        if self.budget is None or not todo:
            return [*todo]
        costs = self.costs.left(states)
        free = self.budget - self.costs.spent()
        free -= sum(costs[name] or 0 for name, state in states.items() if state in LIVE)
        if free > 0 and None in costs.values() and not self.unknown:
            print(
                "what a cell will take is not known before one is finished: cells are started all the same", flush=True
            )
            self.unknown = True
        found = []
        for name in todo:
            cost = costs[name] or 0.0
            if cost < free:
                free -= cost
                found.append(name)
            else:
                takes = f"would take {cost / 3600:.3g} GPU-hours, " if costs[name] is not None else ""
                self.dear[name] = f"{takes}and {max(0.0, free) / 3600:.3g} are left of the budget"
        return found

    def tell(self, states: Mapping[str, RunState]) -> None:
        """A line where something has changed."""
        counts = Counter(states.values())
        line = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        if line != self.told:
            self.told = line
            hours = self.costs.spent() / 3600
            of = "" if self.budget is None else f" of {self.budget / 3600:g}"
            print(f"{line}; {hours:.4f}{of} GPU-hours", flush=True)

    def end(self) -> int:
        """The last lines; returns the exit code."""
        states = self.states(self.where.jobs([*self.folders.values()]))
        missing = [name for name, state in states.items() if state not in ENDED]
        for name in missing:
            if states[name] == RunState.FAILED:
                reason = self.folders[name].run.status().get("reason") or f"see {self.folder.logs}"
                print(f"failed: {name}: {reason}", flush=True)
            elif why := self.left.get(name) or self.dear.get(name):
                print(f"not started: {name}: {why}", flush=True)
        done = len(states) - len(missing)
        if reached(self.folder.path, self.budget):
            print(f"budget reached: {done} cells finished, {len(missing)} not", flush=True)
        else:
            print(f"{done} of {len(states)} cells are finished", flush=True)
        return 1 if missing else 0


@contextmanager
def _signals() -> Iterator[None]:
    """While a study runs, what asks its process to end is raised as Asked, once; what is ignored (`nohup`) stays so."""
    all_kinds = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    kinds = [kind for kind in all_kinds if signal.getsignal(kind) != signal.SIG_IGN]

    def ask(*_: object) -> NoReturn:
        for kind in kinds:
            signal.signal(kind, signal.SIG_IGN)
        raise Asked

    before = {kind: signal.signal(kind, ask) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
