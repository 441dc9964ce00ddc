"""The run folder: the files of a run, whose they are, and taking it up."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import config as configs
from ..config import Config
from ..errors import RunError, disk_errors
from ..slurm.job import this_job
from .clock import Clock
from .kept import Beat, Crash, Heard, Mark, Metrics, Said, Speed, Start, Submitted, Summary
from .lock import check, exclusive, heard
from .provenance import changes, this_start
from .records import Rows, check_file, record, to_json, write_atomic
from .states import RunState

STEP = re.compile(r"step-([0-9]{8,})")
"""The name of a checkpoint, with its optimizer step."""


class RunFolder:
    """Paths and files of one run. The run is where its folder is: moved, it is the same run; copied, it is another.

    config.yaml     the whole configuration, as first started
    metrics.jsonl   what was measured; no clock in it, so a killed and an undisturbed run write the same bytes
    speed.jsonl     what the clock says: images/s, data wait, TFLOP/s
    weights.json    what became of the weights that it began with (model.weights)
    curves.png      metrics.jsonl and speed.jsonl drawn; other figures that log.figures names beside it
    checkpoints/    see checkpoint.py
    health.jsonl    what it warned of; steps left out, with the ids of their batch
    starts.jsonl    each start: code revision, versions, machine, operations of a step
    clock.jsonl     what the time of each start went into: see clock.py
    corrupted.jsonl what `tdformer robustness` measured of its weights
    profile/        traces of the steps that log.profile_steps names
    crashes.jsonl   each crash of a job: its exit code, and the newest checkpoint there was
    status.json     what the run last said of itself; see `RunFolder.tell`
    before-N/       what an attempt left that never saved, and was begun anew with other settings
    launch.yaml, job.json, code/, logs/    of a launched run: the configuration, the job, its code and output
    cell.json, limits.json, stopped.json    of a cell of a study: what it is, when it is ended early, and where it was
    summary.json    the final line; it exists when the run is finished
    lock.N          who writes here: see lock.py
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.checkpoints = self.path / "checkpoints"
        self.summary_file = self.path / "summary.json"
        self.status_file = self.path / "status.json"
        self.launch_file, self.job_file = self.path / "launch.yaml", self.path / "job.json"
        self.cell_file = self.path / "cell.json"
        self.limits_file = self.path / "limits.json"
        self.stopped_file = self.path / "stopped.json"
        self.weights_file = self.path / "weights.json"
        self.metrics: Rows[Metrics] = Rows(self.path / "metrics.jsonl")
        self.speed: Rows[Speed] = Rows(self.path / "speed.jsonl")
        self.health: Rows[Mapping[str, object]] = Rows(self.path / "health.jsonl")
        self.starts: Rows[Start] = Rows(self.path / "starts.jsonl")
        self.crashes: Rows[Crash] = Rows(self.path / "crashes.jsonl")
        self.clock: Rows[Beat] = Rows(self.path / "clock.jsonl")
        self._heard: Heard | None = None  # the holder before, when we took the lock

    def figure(self, name: str) -> Path:
        """Where a figure of that name is."""
        return self.path / f"{name}.png"

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Keep every other process out until the block ends or this process dies, however it dies.

        wait: seconds to keep trying. Raises InUse, naming the holder, when the folder stays in use; RunError, when it
        is no run's.
        """
        self._check_ours()
        self._heard = heard(self.path)
        with exclusive(self.path, wait):
            yield

    def check_lock(self) -> None:
        """End this process if it has the lock and another has taken over; see `lock.check`."""
        check(self.path)

    def mark(self) -> Mark:
        """What tells this folder from its copies; see `made`."""
        return {"folder": str(self.path.resolve()), "inode": self.path.stat().st_ino}

    def made(self, record: Mark) -> bool:
        """Whether a record with a `mark` was written in this folder, by whatever name it went: False in a copy. True
        for a record that has no mark."""
        if (folder := record.get("folder")) is None:
            return True
        here = self.path.stat()
        try:
            there = Path(folder).stat()
        except (OSError, ValueError):  # nothing is there: renamed, or seen from a machine that mounts it elsewhere
            return record.get("inode") in (None, here.st_ino)
        return os.path.samestat(here, there) or record.get("inode") == here.st_ino != there.st_ino

    def stored(self, file: Path, overrides: Sequence[str] = (), site: Path | None = None) -> Config:
        """The configuration in one of its files, as of where the folder is now; see `config.stored`."""
        place = self.path.resolve()
        if moved := {"name", "runs_dir"} & {*configs.named(overrides)}:
            raise RunError(
                f"{min(moved)}=...: a run is where its folder is, {self.path}; copy that to make another one"
            )
        check_file(file)
        config = configs.stored(file, overrides, site=site)
        config.runs_dir, config.name = str(place.parent), place.name
        return config

    def settle(self, config: Config) -> None:
        """Fill in what decides numbers and is derived: as the run was begun with, or as `config` gives it."""
        before = None if self.unsaved() else self.config()
        if config.train.norm_batch is None:
            config.train.norm_batch = configs.norm_batch(before or config)

    def micro_batch(self, world: int) -> int | None:
        """That of the last start on so many processes, of a run that has saved; None: there was none."""
        starts = () if self.unsaved() else reversed(self.starts.whole()[0])
        return next((row.get("micro_batch") for row in starts if row.get("world") == world), None)

    def unsaved(self) -> bool:
        """Whether it has neither a checkpoint nor an end, so that nothing is lost when it begins anew."""
        return self.saved_step() is None and self.summary() is None

    def check(self, config: Config, running: bool = False) -> None:
        """Raises RunError where the folder holds a run with other settings, unless that is not `running` and `unsaved`.
        Writes nothing."""
        before = self.config()
        if before is not None and (changed := configs.differences(before, config)) and (running or not self.unsaved()):
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
        if not self.path.is_dir() or of_a_run or self.starts.path.exists() or self.launch_file.exists():
            return
        # Of a start that was killed before it wrote those; an empty folder is nobody's loss.
        begun = re.compile(r"lock(\.[0-9]+)?|\.lock\..*tmp|checkpoints|config\.yaml|\.config\.yaml\..*tmp")
        other = sorted(p.name for p in self.path.iterdir() if not begun.fullmatch(p.name) and not _is_empty(p))
        if other:
            raise RunError(f"{self.path} holds {other[0]} and is no run of tdformer; start the run with name=...")

    def set_aside(self, config: Config) -> str | None:
        """Let `config` begin anew where an attempt with other settings never saved: what that left goes into a folder
        of its own. Returns a line that says so; None: there was nothing of the kind. Under the lock only."""
        self.check(config)
        before = self.config()
        if before is None or not (changed := configs.differences(before, config)):
            return None
        aside = next(p for n in itertools.count(1) if not (p := self.path / f"before-{n}").exists())
        # The configuration goes last: as long as it is here, a kill in between is taken up by the next start.
        results = [
            self.status_file,
            self.weights_file,
            *map(self.figure, ["curves", *before.log.figures]),
            self.metrics.path,
            self.speed.path,
            self.clock.path,
            self.health.path,
        ]
        logs = [self.path / name for name in ("tensorboard", "wandb", "wandb_id", "wandb_step")]
        with disk_errors(aside):
            aside.mkdir()
            for file in (*results, *logs, self.config_file):
                with suppress(FileNotFoundError):
                    file.rename(aside / file.name)
        return (
            f"{self.path} begins anew: it was begun with other settings ({', '.join(changed)}) and never saved a "
            f"checkpoint; what that attempt left is in {aside}"
        )

    def open(
        self,
        config: Config,
        surroundings: Mapping[str, object] | None = None,
        facts: Start | None = None,
        began: float | None = None,
    ) -> Clock:
        """Make the folder for `config`, or take up the one that is there, if it is its own. Returns the start's clock.

        surroundings: what else decides the last bits of its numbers, noted with the start; what of it is not as it was
        is said. facts: what else is noted, `world` among it; began: `time.monotonic()` when this start did, None: now.
        """
        if (line := self.set_aside(config)) is not None:
            print(line, flush=True)
        with disk_errors(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        before = self.config()
        if before is not None and before.train.norm_batch is None:
            print(
                f"{self.path} was begun by an earlier version, in which BatchNorm saw each process's share of a batch; "
                f"it goes on with statistics over {config.train.norm_batch} images (train.norm_batch)",
                flush=True,
            )
        if before is None:
            write_atomic(self.config_file, configs.to_yaml(config).encode())
        starts, damaged = self.starts.whole()
        if surroundings and self.saved_step() is not None:
            for line in changes(self.path, starts[-1] if starts else {}, surroundings, config):
                print(line, flush=True)
        number, facts = len(starts) + len(damaged) + 1, facts or {}
        self.starts.append({"start": number} | this_start() | dict(surroundings or {}) | dict(facts))
        began, world = time.monotonic() if began is None else began, facts.get("world", 1)
        whose = {"submitted": self._submitted(), "heard": self._heard, **self.mark()}
        return Clock.begin(self.clock, number, began, world, whose)

    def _submitted(self) -> float | None:
        """When the Slurm job that this process is of was; None: it is of none."""
        with suppress(RunError):
            job = record(self.job_file, "", Submitted)
            return job["time"] if job and job["id"] == this_job() else None
        return None

    def config(self) -> Config | None:
        """The configuration that the run was first started with; None where there is none yet."""
        check_file(self.config_file)
        return configs.stored(self.config_file) if self.config_file.exists() else None

    def summary(self) -> Summary | None:
        """The final line of a finished run; None while it is not finished."""
        return record(self.summary_file, "delete it to let the run finish again", Summary)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write the final line: from now on the run is finished."""
        self.metrics.sync()
        write_atomic(self.summary_file, (to_json(summary) + "\n").encode())

    def tell(self, state: RunState, **facts: object) -> None:
        """Replace status.json: the state, one of those that a run says of itself; the time; any facts; and the folder's
        mark."""
        with disk_errors(self.status_file):
            said = {"state": state, "time": time.time(), **facts, **self.mark()}
        write_atomic(self.status_file, (to_json(said) + "\n").encode())

    def status(self) -> Said:
        """What `tell` last wrote; {} before the first start, or where that is damaged."""
        try:
            return self.said()
        except RunError:
            return {}

    def known(self) -> dict[str, object]:
        """What it says besides the state, why and when: facts that the next `tell` may keep."""
        return {key: value for key, value in self.status().items() if key not in ("state", "time", "reason")}

    def said(self) -> Said:
        """As `status`. Raises RunError where it is damaged."""
        return record(self.status_file, "the run's next start writes it again", Said) or {}

    def saved_step(self) -> int | None:
        """The step of the newest checkpoint, by its name; None before the first."""
        try:
            names = os.listdir(self.checkpoints)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise RunError(f"{self.checkpoints} cannot be read ({e.strerror})") from e
        return max((int(found[1]) for name in names if (found := STEP.fullmatch(name))), default=None)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
