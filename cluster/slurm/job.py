"""The states of a job, in squeue's words, and what they mean to a run."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

OVER = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
"""squeue's states of a job that has ended for good. In any other, also of a later Slurm, it may still run."""
GOING = ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")
"""Of a job that has its nodes and that nobody has ended."""
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
"""Of a job that is to begin."""
HELD = ("REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")


def this_job() -> str | None:
    """The job that this process is of: 12, or 12_3 for an element of a job array, one of which has the array's own
    number too; None: it is of none."""
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array and element else os.environ.get("SLURM_JOB_ID")


ENDED, UNKNOWN = "ENDED", "UNKNOWN"
"""Not of Slurm: it knows no such job any more; it does not answer."""

_HELD = re.compile("held|JobHold|ReservationDeleted", re.IGNORECASE)


@dataclass(frozen=True)
class State:
    """Of a job: squeue's word for it, the reason that goes with it, and the time to its limit."""

    word: str = ENDED
    reason: str = ""
    left: str = ""

    @property
    def unknown(self) -> bool:
        return self.word == UNKNOWN

    @property
    def alive(self) -> bool:
        """Whether it may still run; not of a state that is unknown."""
        return self.word not in (*OVER, ENDED, UNKNOWN)

    @property
    def waits(self) -> bool:
        return self.word in WAITING

    @property
    def held(self) -> bool:
        """Whether it waits until somebody releases it."""
        return self.word in HELD or (self.waits and bool(_HELD.search(self.reason)))

    @property
    def seconds_left(self) -> int | None:
        """Until the time limit; None: there is none."""
        match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", self.left)
        if match is None:
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    def why(self, job: str) -> str:
        """Why it waits or is unknown, and what to do; empty where there is nothing to say."""
        reason = "" if self.reason in ("None", "(null)") else self.reason
        if self.unknown:
            return reason
        if self.word == "REVOKED":
            return "another cluster of the federation has the job: squeue --federation"
        if self.held:
            by = " by an administrator" if "Admin" in reason else ""
            return f"held{by} ({reason or self.word}): scontrol release {job}"
        return f"waits ({reason})" if self.waits and reason else ""
