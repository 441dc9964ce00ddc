"""The end of a process that hangs."""

from __future__ import annotations

import faulthandler
import sys

from ..errors import thread_errors


class Watchdog:
    """Ends this process where no step, evaluation batch or part of a save is done in time, with the stacks of its
    threads on stderr. It is C code of its own thread: it barks in a collective, in a lock and in a loop alike."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes

    def alive(self) -> None:
        """Begin to count anew. Raises RunError where no thread can be started."""
        with thread_errors("the watchdog"):
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=sys.__stderr__ or 2)

    def __enter__(self) -> Watchdog:
        self.alive()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
