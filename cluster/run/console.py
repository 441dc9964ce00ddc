"""What a run shows to whoever watches: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text


class Display:
    """Lines for people, and how far the run is. Stops showing with `close`, which may be called twice."""

    def __init__(self, total: int, start: int, console: Console | None = None, line_seconds: float = 10.0) -> None:
        """total: optimizer steps of the whole run; start: those done before; line_seconds: between lines, where there
        is no terminal."""
        self.console = console or Console(highlight=False)
        self.total, self.line_seconds = total, line_seconds
        self._bar = _Bar(self.console, total, start) if self.console.is_terminal else None
        self._shown = time.monotonic()

    def say(self, line: str) -> None:
        """A line, above the bar."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, step: int, epoch: str, measured: Sequence[str], machine: Sequence[str], left: str) -> None:
        """After a step. measured, machine: what is known of the run and of its computing; left: the time, "" where
        nobody knows it yet."""
        if self._bar:
            self._bar.words = [", ".join(measured), ", ".join(machine)]
            self._bar.update(self._bar.task_ids[0], completed=step, epoch=epoch, left=left)
            return
        now = time.monotonic()
        if step == self.total or now - self._shown >= self.line_seconds:
            self._shown = now
            words = [f"step {step}/{self.total}", epoch, *measured, *machine, left]
            self.say(", ".join(word for word in words if word))

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


def peak_memory() -> tuple[float, bool]:
    """The most memory that this process has held so far, in GiB, and whether that is of a GPU: tensors there where it
    computes on one, else all that is resident, with some 0.5 GiB of libraries."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30, True
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, False  # Linux counts it in KiB


class _Bar(Progress):
    """A bar, and below it what was measured, so that 80 columns are enough."""

    words: Sequence[str] = ()

    def __init__(self, console: Console, total: int, done: int) -> None:
        super().__init__(
            TextColumn("{task.fields[epoch]}", markup=False),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}", markup=False),
            BarColumn(20),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
        )
        self.add_task("train", total=total, completed=done, left="", epoch="")
        self.start()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(line) for line in self.words if line)
