"""What a command waits for, a line before each thing that may take long: nobody looks at an empty terminal."""

from __future__ import annotations

import sys


def waits(what: str) -> None:
    """Of a start, with all that a run says, so to standard output. Imports nothing: that may be what takes long."""
    print(f"... {what}", flush=True)


def waits_here(what: str) -> None:
    """Of a command whose standard output is its result: for who sits at a terminal, and in no log."""
    if sys.stderr.isatty():
        print(f"... {what}", file=sys.stderr, flush=True)
