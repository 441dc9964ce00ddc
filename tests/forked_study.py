"""A small study, its process with cells that are forked, and what of its table no clock has decided."""

from __future__ import annotations

from pathlib import Path

from forked import TDFORMER

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
where: local
"""
STEPS = 12


def without_clock(folder: Path) -> str:
    """The table as CSV, without what a clock has decided."""
    return to_csv([{key: value for key, value in row.items() if not of_clock(key)} for row in rows(folder)])
