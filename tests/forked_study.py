"""A small study, its process with cells that are forked, and what of its table no clock has decided."""

from __future__ import annotations

from pathlib import Path

from forked import TDFORMER

from cluster.study.folder import StudyFolder
from cluster.study.rows import rows
from cluster.study.table import of_clock, to_csv

FORKED = f"""\
import os, signal, sys
from cluster.jobs import processes
from cluster.study import element, places, running, usage

class Child:
    '''A cell's process, forked: the imports of a new interpreter are the most of its start.'''

    def __init__(self, words, code, log):
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            for kind in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(kind, signal.SIG_DFL)
            out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(out, 1), os.dup2(out, 2)
            processes.end(element.main(*words[2:]))

    def poll(self):
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def send_signal(self, number):
        os.kill(self.pid, number)

places.begin, running.BACKOFF, usage.BEAT, usage.SAVING = Child, 0.2, 0.5, 1.0
{TDFORMER}
"""
SETTINGS = """\
config: digits
settings:
  model: {time_steps: 2, segments: 2, feedback: all}
  data: {root: SHARDS, share: 0.2}
  train: {epochs: 3, global_batch: 60, threads: 1, eval_every_epochs: 3, warmup_epochs: 0}
  recompute.policy: none
  checkpoint: {every_steps: 2, every_minutes: null}
  log.every_steps: 1
  log.curves: false
where: local
"""
STEPS = 12


def without_clock(folder: Path) -> str:
    """The table as CSV, without what a clock has decided."""
    return to_csv([{key: value for key, value in row.items() if not of_clock(key)} for row in rows(folder)])


class Kept:
    """What a study that is killed has on the disk at each kill, of which nothing may be done again."""

    def __init__(self, study: StudyFolder) -> None:
        self.study = study
        self.safe: dict[str, list[tuple[int, int]]] = {}  # of each cell, at each kill: steps done, newest checkpoint
        self.finished: dict[str, int] = {}  # of each finished cell: its starts when it was seen so

    def note(self) -> None:
        """Now is a kill."""
        for cell in self.study.cells:
            safe = cell.run.saved_step() or 0  # before the steps are counted
            self.safe.setdefault(cell.path.name, []).append((len(cell.run.speed.whole("step")[0]), safe))
            if cell.run.summary() is not None:
                self.finished.setdefault(cell.path.name, len(cell.run.starts.read()))

    def check(self) -> tuple[int, int]:
        """Starts of all cells, and steps that were done again. Raises AssertionError where a checkpoint had one of
        those by then, or where its cell was finished."""
        again = starts = 0
        for cell in self.study.cells:
            name, facts = cell.path.name, cell.facts
            assert facts is not None
            steps = [row["step"] for row in cell.run.metrics.read() if "loss" in row]
            assert steps == [*range(1, facts["steps"] + 1)], (name, steps)
            done = [row["step"] for row in cell.run.speed.read()]  # of all starts: a row for each step
            for count, safe in self.safe.get(name, ()):
                assert all(step > safe for step in done[count:]), (name, count, safe, done)
            own = len(cell.run.starts.read())
            assert own == self.finished.get(name, own), name
            again, starts = again + len(done) - len(steps), starts + own
        return starts, again
