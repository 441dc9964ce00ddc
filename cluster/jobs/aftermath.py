"""What is left to do when a job's ranks have ended, by the last line of its script:
`python -m cluster.jobs.aftermath RUN EXIT_CODE`.

What its time limit or a preemption told to save (USR2) is queued again, unless two starts in a row had no time for it.
A crash is queued again as long as `site.restarts` allows and there is a newer checkpoint than at the crash before; what
Slurm or a time limit queued again counts for neither. So is a run that TERM ended and that Slurm still calls running:
nobody has decided to end the job, and nobody else would start it again. A Slurm that does not answer is asked again,
for `slurm.PATIENCE`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

from .. import config as configs
from .. import slurm
from ..config import SiteConfig
from ..errors import RunError
from ..run.folder import RunFolder
from ..run.kept import Crash, Said
from ..run.lock import superseded
from ..run.states import RunState

SAID = (RunState.FINISHED, RunState.SAVED, RunState.FAILED)
"""States in which a start has told how it ended."""


def verdict(crashes: Sequence[Crash], limit: int) -> str | None:
    """Why a job may not start again after the last of its crashes; None: it may.

    crashes: rows of crashes.jsonl, those that are `saved` by TERM; limit: `site.restarts`, of the others.
    """
    crashes = [row for row in crashes if not row.get("limit")]
    code, step = crashes[-1]["exit_code"], crashes[-1]["checkpoint"]
    saved = crashes[-1].get("saved", False)
    number = sum(not row.get("saved", False) for row in crashes)
    if number > limit and not saved:
        return f"crashed (exit code {code}) {number} times, site.restarts={limit}"
    if len(crashes) > 1 and step <= crashes[-2]["checkpoint"]:
        return f"{'ended by SIGTERM' if saved else f'crashed (exit code {code})'} twice from step {step} on"
    return None


def limited(now: slurm.State, status: Said, signal_seconds: int) -> bool:
    """Whether a start that was told to save was ended by its time limit (not preempted), after at most one step."""
    left, step = now.seconds_left, status.get("step") or 0
    # Slurm may send the signal up to a minute early, and looks at time limits every half a minute.
    return left is not None and left <= signal_seconds + 90 and step - (status.get("started_at") or 0) <= 1


def fruitless(rows: Sequence[Crash], status: Said, site: SiteConfig) -> str | None:
    """Why a job whose last two starts were `limited` may not start again; None: it may.

    rows: of crashes.jsonl, the last one of this start.
    """
    if len(rows) < 2 or not rows[-2].get("limit") or rows[-2]["checkpoint"] != (status.get("started_at") or 0):
        return None
    return (
        f"two starts in a row had time for at most one step each: site.minutes={site.minutes} is too short for "
        f"site.signal_seconds={site.signal_seconds} and a start; resume with a longer one, or fewer seconds"
    )


def main(run: str, exit_code: str) -> int:
    folder, code = RunFolder(run), int(exit_code)
    try:
        return _main(folder, code)
    except RunError as error:  # the folder was moved away, the disk is full: another start would end so too
        print(f"error: {error}: stops here", file=sys.stderr, flush=True)
        return code


def _main(folder: RunFolder, code: int) -> int:
    status = folder.status()
    job, start = slurm.this_job(), os.environ.get("SLURM_RESTART_COUNT")
    assert job is not None
    ours = (status.get("job"), status.get("restarts")) == (job, start)
    state = status.get("state") if ours else None  # an earlier start's words: this one ended without any
    heard = str(status.get("reason")) if state == RunState.SAVED else ""
    asked, stray = (heard == f"stopped by {kind.name}" for kind in (signal.SIGUSR2, signal.SIGTERM))
    if code == 0 or (state in SAID and not asked and not stray):
        return code
    if superseded(folder.path):
        return code
    now = slurm.settled(job)
    if now.word not in slurm.GOING and not now.unknown:
        return code  # whoever ended the job has decided what comes next
    facts = folder.known()
    site = configs.stored(folder.launch_file).site
    why = heard if asked else "ended by SIGTERM, and not by Slurm" if stray else f"crashed (exit code {code})"
    row: Crash = {"time": time.time(), "job": job, "exit_code": code, "checkpoint": folder.saved_step() or 0}
    rows = [r for r in folder.crashes.whole("exit_code", "checkpoint")[0] if r.get("job") == job]
    reason = None
    if not asked:
        folder.crashes.append(row := {**row, "saved": True} if stray else row)
        reason = verdict([*rows, row], site.restarts)
    elif limited(now, status, site.signal_seconds):
        folder.crashes.append(row := {**row, "limit": True})
        reason = fruitless([*rows, row], status, site)
    if reason is None:
        print(f"{why}: to be queued again", flush=True)
        folder.tell(RunState.SAVED, **facts, reason=why)
        refused = slurm.requeue(job)
        if refused is None:
            time.sleep(60)  # Slurm ends this script; an exit code of its own could be taken for the next start's
            return code
        line = f"{why}; {refused}: goes on with tdformer resume {folder.path}"
        print(line, flush=True)
        folder.tell(RunState.SAVED, **facts, reason=line)
        return code
    print(f"{reason}: stops here", flush=True)
    folder.tell(RunState.FAILED, **facts, reason=reason)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
