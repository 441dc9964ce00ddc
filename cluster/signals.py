"""Signals that ask a run to stop: noted at once, acted upon by all ranks together between two steps.

USR2 comes ahead of the end (time limit, preemption with grace): save, then ask to be queued again. TERM comes from
whoever ends the job (requeue, preemption, scancel) and has decided what comes next: save, then go. HUP says that the
terminal is gone (a lost ssh): as TERM, unless `nohup` has it ignored.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | None
KINDS = (signal.SIGUSR2, signal.SIGTERM)
"""In the order of their counts in the ranks' sum; the later one decides."""


def heard() -> tuple[signal.Signals, ...]:
    """The signals that are acted upon in this process."""
    return KINDS if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*KINDS, signal.SIGHUP)


class Leave(Exception):
    """The run was asked to stop and has saved; `kind` says by which signal."""

    def __init__(self, kind: signal.Signals, step: int) -> None:
        super().__init__(f"stopped by {kind.name} after step {step}, saved")
        self.kind, self.step = kind, step


class Notice:
    """What this process was asked. A Python handler never runs inside a collective, so it only takes a note."""

    def __init__(self) -> None:
        self.seen = [0, 0]
        self.before: dict[signal.Signals, Handler] = {}

    def listen(self) -> Notice:
        """Take over the signals; the handlers that were there are kept in `before`."""
        for kind in heard():
            self.before[kind] = signal.signal(kind, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        kind = signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)
        self.seen[KINDS.index(kind)] = 1

    @staticmethod
    def agreed(counts: list[float]) -> signal.Signals | None:
        """What the ranks were asked, from the sums of their `seen`."""
        return next((kind for kind, count in reversed(list(zip(KINDS, counts, strict=True))) if count), None)

    def hand_back(self, kind: signal.Signals) -> None:
        """Let whoever listened before us act: on USR2 submitit queues the job again and ends this process."""
        handler = self.before.get(kind)
        if callable(handler):
            handler(kind, None)
