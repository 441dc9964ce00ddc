"""The states of a run, by the words that status.json holds and tables show."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """The first five are what a run says of itself, see `folder.RunFolder.tell`; the others are what is seen of it."""

    STARTING = "starting"
    RUNNING = "running"
    SAVED = "saved"
    """It ended, and goes on when it is started again."""
    FAILED = "failed"
    FINISHED = "finished"

    QUEUED = "queued"
    """It has not begun, and its job waits."""
    HELD = "held"
    CANCELLED = "cancelled"
    LOST = "lost"
    """It ended without a word; started again it goes on."""
    COPIED = "copied"
    """What is said was said of the run that the folder is a copy of."""
    DAMAGED = "damaged"
    """What it said of itself cannot be read."""
    WAITING = "waiting"
    """Of a cell of a study: to be started."""
    STOPPED = "stopped"
    """The same: ended by a rule of the study."""


UNDER_WAY = (RunState.STARTING, RunState.RUNNING)
"""What a run says as long as one of its processes lives."""
