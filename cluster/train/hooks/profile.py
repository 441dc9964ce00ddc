"""Traces of chosen steps by torch.profiler (`log.profile_steps`)."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from pipelines import disk

from ...config import Config
from ...errors import RunError, disk_errors
from ...run.kept import Metrics
from ..step import Step
from .hook import HOOKS, Hook, Training

NAME = b"tdformer-trace\0"
"""In the header of each file, after ten bytes: by it we know our own."""


@HOOKS.register("profile")
class Profile(Hook):
    """Of the first rank: what it does between a step's first forward and its last backward and update, on the CPU and
    on its GPU, as profile/step-N-rank-0.json.gz in the run folder, for chrome://tracing or Perfetto. Only these steps
    take longer for it, and no number is another. A step that is done again is traced again."""

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return bool(config.log.profile_steps)

    def begin(self, run: Training, rows: Iterable[Metrics]) -> None:
        """Raises RunError for a step that the run does not have."""
        super().begin(run, rows)
        if (last := max(self.config.log.profile_steps)) > run.total_steps:
            raise RunError(f"log.profile_steps has {last}, and the run has {run.total_steps} steps; leave it out")

    def during(self, step: Step) -> AbstractContextManager[object]:
        chosen = self.run.rank == 0 and step.number in self.config.log.profile_steps
        return self._traced(step.number) if chosen else nullcontext()

    @contextmanager
    def _traced(self, number: int) -> Iterator[None]:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or it tells on stderr that it begins and ends
        kinds = torch.profiler.ProfilerActivity
        device = [kinds.CUDA] if self.run.device.type == "cuda" else []
        with torch.profiler.profile(activities=[kinds.CPU, *device], record_shapes=True) as traced:
            yield
        path = self.run.folder.path / "profile" / f"step-{number}-rank-{self.run.rank}.json.gz"
        if path.exists() and not _ours(path):
            self.run.monitor.say(f"warning: {path} is a file that tdformer did not write: step {number} is not traced")
            return
        with disk_errors(path):
            path.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory() as aside, disk.whole(path) as hidden, hidden.open("wb") as file:
                plain = Path(aside) / "trace.json"
                traced.export_chrome_trace(str(plain))
                with gzip.GzipFile(NAME[:-1].decode(), "wb", 5, file, mtime=0) as packed:
                    packed.write(plain.read_bytes())
        self.run.monitor.say(f"step {number} is traced in {path}")


def _ours(path: Path) -> bool:
    """Whether a file is a trace that we wrote."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(10 + len(NAME))[10:] == NAME
