"""What a start waits for, a line before each thing that may take long: nobody looks at an empty terminal."""

from __future__ import annotations


def waits(what: str) -> None:
    """For people, so to standard output, as all that a run says; imports nothing, since an import may be what takes
    long."""
    print(f"... {what}", flush=True)
