"""A study of 24 cells on a Slurm of its own, whose process and cells are killed at random moments, against the same
study that nothing happens to.

    python -m benchmarks.study [--kills 10] [--seed 0] [--cells 24]

Needs root and Slurm's packages, as tests/slurm does. It ends with an error where the two tables differ in a column that
no clock decides, where a finished step was done again, or where the budget was exceeded.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster.build.shards import write_shards
from cluster.study.folder import StudyFolder
from cluster.study.rows import rows
from cluster.study.usage import device_seconds

from . import machine, table

TESTS = Path(__file__).resolve().parents[1] / "tests"
STUDY = """\
name: {name}
config: digits
settings:
  model.feedback: all
  data: {{root: {data}, share: 0.2}}
  train: {{epochs: 10, global_batch: 60, threads: 1, eval_every_epochs: 10, warmup_epochs: 0}}
  recompute.policy: none
  checkpoint: {{every_steps: 2, every_minutes: null}}
  log.every_steps: 1
  site: {{minutes: 30, signal_seconds: 30, memory_gb: 1.5}}
cases:
- {{case: T2 N1, model.time_steps: 2, model.segments: 1, model.feedback: none}}
- {{case: T2 N2, model.time_steps: 2, model.segments: 2}}
- {{case: T4 N2, model.time_steps: 4, model.segments: 2}}
grid:
  engine.zero_stage: [0, 1]
  processes: [1, 2]
  seed: [{seeds}]
budget_gpu_hours: {budget}
at_once: 4
tries: 99
where: {where}
"""
BUDGET = 2.0
QUICK = "from cluster.study import places, running\nplaces.Arrays.pause, running.BACKOFF = 1.0, 1.0\n"
"""What the study's process does first, to be quick: it looks more often, and waits less after a crash."""


def slurm_of_tests() -> Any:
    """tests/slurm/conftest.py as a module."""
    sys.path.insert(0, str(TESTS))
    spec = importlib.util.spec_from_file_location("slurm_of_tests", TESTS / "slurm" / "conftest.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Killed:
    """A study that is started, and killed at random moments."""

    def __init__(self, slurm: Any, folder: Path, study: StudyFolder, rng: random.Random) -> None:
        self.slurm, self.folder, self.study, self.rng = slurm, folder, study, rng
        from forked_study import Kept

        self.kept = Kept(study)
        self.told: list[list[str]] = []
        self.most = 0.0

    def begin(self) -> Any:
        from forked import TDFORMER, Command

        words = ("scale", "run", "killed.yaml")
        return Command(*words, cwd=self.folder, env=self.slurm.env, program=QUICK + TDFORMER, merged=True)

    def run(self, kills: int) -> None:
        """Raises AssertionError where it does not end well."""
        began, running = time.monotonic(), self.begin()
        for kill, share in enumerate(sorted(self.rng.uniform(0, 0.95) for _ in range(kills))):
            while self.done() < share and running.poll() is None:
                time.sleep(0.1)
                self.most = max(self.most, self.spent())
            time.sleep(self.rng.uniform(0, 3))
            ranks = self.slurm.ranks_of("cluster.study.element")
            who = "the study" if kill % 2 == 0 or not ranks else "a cell"
            if who == "a cell":
                os.kill(self.rng.choice(ranks), signal.SIGKILL)
            else:
                running.kill()
                running.communicate()
            self.kept.note()
            steps = sum(cell.done() for cell in self.study.cells)
            seconds = time.monotonic() - began
            self.told.append([f"{kill + 1}", f"{seconds:.0f}", who, f"{len(self.kept.finished)}", f"{steps}"])
            if running.poll() is not None:
                running = self.begin()
        out, _ = running.communicate(900)
        self.most = max(self.most, self.spent())
        assert running.returncode == 0, out

    def done(self) -> float:
        """Of all steps of the study, the share that is."""
        cells = self.study.cells
        return sum(cell.done() for cell in cells) / max(1, sum((cell.facts or {})["steps"] for cell in cells))

    def spent(self) -> float:
        return sum(device_seconds(cell.path) for cell in self.study.cells)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, default=24, help="a multiple of 12")
    asked = parser.parse_args(arguments)
    tests = slurm_of_tests()
    from forked import Command
    from forked_study import FORKED, without_clock

    os.environ["PATH"] += ":/usr/sbin"
    with tempfile.TemporaryDirectory(prefix="tdformer-study-") as name, tests._number() as number:
        folder = Path(name)
        folder.chmod(0o755)
        write_shards("digits", folder / "data")
        seeds = ", ".join(map(str, range(asked.cells // 12)))
        for study, where in (("calm", "local"), ("killed", "slurm")):
            given = {"name": study, "where": where, "data": folder / "data", "seeds": seeds, "budget": BUDGET}
            (folder / f"{study}.yaml").write_text(STUDY.format(**given))
        slurm = tests.Slurm(folder / "slurm", 2, number)
        try:
            slurm.up()
            began = time.monotonic()
            words = ("scale", "run", "calm.yaml")
            calm = Command(*words, cwd=folder, env=slurm.env, program=FORKED, merged=True).completed(900)
            assert calm.returncode == 0, calm.stdout
            undisturbed = time.monotonic() - began
            killed = Killed(slurm, folder, StudyFolder(folder / "runs" / "killed"), random.Random(asked.seed))
            killed.run(asked.kills)
            disturbed = time.monotonic() - began - undisturbed
            starts, again = killed.kept.check()
            one, other = (without_clock(folder / "runs" / study) for study in ("calm", "killed"))
            assert one == other, "the tables differ"
            assert killed.most <= 3600 * BUDGET
            found = rows(killed.study.path)
        finally:
            slurm.down()
    print(f"{machine()}; {len(found)} cells, {asked.kills} kills of seed {asked.seed}\n")
    print(
        f"Undisturbed on this machine {undisturbed:.0f} s; killed, as job arrays of Slurm, {disturbed:.0f} s, {starts} "
        f"starts, {killed.most / 3600:.3f} of {BUDGET:g} GPU-hours. The tables are the same, byte for byte, but for\n"
        f"the columns that a clock decides. {again} steps were done again, none of which a checkpoint had.\n"
    )
    print(table(["kill", "after s", "killed", "cells finished", "steps done"], killed.told) + "\n")
    columns = ("axis.case", "axis.engine.zero_stage", "axis.processes", "axis.seed", "steps", "loss", "accuracy")
    cells = [[f"{row[c]:.4f}" if isinstance(row[c], float) else str(row[c]) for c in columns] for row in found]
    print(table([column.removeprefix("axis.") for column in columns], cells))


if __name__ == "__main__":
    main(sys.argv[1:])
