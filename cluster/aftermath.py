"""What is left to do when a job's ranks have ended: `python -m cluster.aftermath RUN EXIT_CODE`, the last line of its
script. A crash is queued again as long as `site.restarts` allows and there is a newer checkpoint than at the crash
before; what Slurm or a time limit queued again counts for neither. So is a run that TERM ended and that Slurm still
calls running: nobody has decided to end the job, and nobody else would start it again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from . import config as configs
from . import jobs
from .errors import RunError
from .lock import superseded
from .run import RunFolder


def verdict(crashes: list[dict[str, Any]], limit: int) -> str | None:
    """Why a job may not start again after the last of its crashes; None: it may.

    crashes: rows of crashes.jsonl, those that are `saved` by TERM; limit: `site.restarts`, of the others.
    """
    code, step = crashes[-1]["exit_code"], crashes[-1]["checkpoint"]
    saved = crashes[-1].get("saved", False)
    number = sum(not row.get("saved", False) for row in crashes)
    if number > limit and not saved:
        return f"crashed (exit code {code}) {number} times, site.restarts={limit}"
    if len(crashes) > 1 and step <= crashes[-2]["checkpoint"]:
        return f"{'ended by SIGTERM' if saved else f'crashed (exit code {code})'} twice from step {step} on"
    return None


def main(run: str, exit_code: str) -> int:
    folder, code = RunFolder(run), int(exit_code)
    try:
        return _main(folder, code)
    except RunError as error:  # the folder was moved away, the disk is full: another start would end so too
        print(f"error: {error}: stops here", file=sys.stderr, flush=True)
        return code


def _main(folder: RunFolder, code: int) -> int:
    status = folder.status()
    job = os.environ["SLURM_JOB_ID"]
    saved = (status.get("state"), status.get("reason")) == ("saved", f"stopped by {signal.SIGTERM.name}")
    if code == 0 or (status.get("state") in ("finished", "saved", "failed") and not saved):
        return code
    if superseded(folder.path) or jobs.state(job) != "RUNNING":
        return code  # whoever ended this start has decided what comes next
    facts = {k: v for k, v in status.items() if k not in ("state", "time", "reason")}
    crash = {"time": time.time(), "job": job, "exit_code": code, "checkpoint": folder.saved_step() or 0}
    crash |= {"saved": True} if saved else {}
    folder.crashes.append(crash)
    crashes = [row for row in folder.crashes.whole("exit_code", "checkpoint")[0] if row.get("job") == job]
    reason = verdict(crashes, configs.stored(folder.path / "launch.yaml").site.restarts)
    if reason is None:
        why = "ended by SIGTERM, and not by Slurm" if saved else f"crashed (exit code {code})"
        print(f"{why}: queued again", flush=True)
        folder.tell("saved", **facts, reason=why)
        if subprocess.run(["scontrol", "requeue", job]).returncode == 0:
            time.sleep(60)  # Slurm ends this script; an exit code of its own could be taken for the next start's
        return code
    print(f"{reason}: stops here", flush=True)
    folder.tell("failed", **facts, reason=reason)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
