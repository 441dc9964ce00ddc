"""A line now and then about work that takes long: standard output is for results, so to standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from .words import duration

EVERY = 10.0
"""Seconds between two lines."""


def progress(what: str, of: str) -> Callable[[int, int], None]:
    """A function of (done, all): at most a line every 10 seconds with the time that is left."""
    begun = said = time.monotonic()
    first = 0

    def tell(done: int, whole: int) -> None:
        nonlocal said, first
        now = time.monotonic()
        first = first or done  # the first part may have been there
        if now - said >= EVERY and done > first:
            left = (whole - done) * (now - begun) / (done - first)
            said = now
            say(f"{what}: {done:,} of {whole:,} {of}, {duration(left)} left")

    return tell


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
