"""What is left to do when a job's ranks have ended: `python -m cluster.aftermath RUN EXIT_CODE`, the last line of its
script. A crash is queued again as long as `site.restarts` allows and there is a newer checkpoint than at the crash
before; what Slurm or a time limit queued again counts for neither."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from . import config as configs
from . import jobs
from .errors import RunError
from .run import RunFolder


def verdict(crashes: list[dict[str, Any]], limit: int) -> str | None:
    """Why a job may not start again after the last of its crashes; None: it may.

    crashes: rows of crashes.jsonl; limit: `site.restarts`.
    """
    code, step = crashes[-1]["exit_code"], crashes[-1]["checkpoint"]
    if len(crashes) > limit:
        return f"crashed (exit code {code}) {len(crashes)} times, site.restarts={limit}"
    if len(crashes) > 1 and step <= crashes[-2]["checkpoint"]:
        return f"crashed (exit code {code}) twice from step {step} on"
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
    if code == 0 or status.get("state") in ("finished", "saved", "failed") or jobs.state(job) != "RUNNING":
        return code  # not a crash, or whoever ended the job has decided what comes next
    facts = {k: v for k, v in status.items() if k not in ("state", "time", "reason")}
    crash = {"time": time.time(), "job": job, "exit_code": code, "checkpoint": folder.saved_step() or 0}
    folder.crashes.append(crash)
    crashes = [row for row in folder.crashes.whole("exit_code", "checkpoint")[0] if row.get("job") == job]
    reason = verdict(crashes, configs.stored(folder.path / "launch.yaml").site.restarts)
    if reason is None:
        print(f"crashed (exit code {code}): queued again", flush=True)
        folder.tell("saved", **facts, reason=f"crashed (exit code {code})")
        if subprocess.run(["scontrol", "requeue", job]).returncode == 0:
            time.sleep(60)  # Slurm ends this script; an exit code of its own could be taken for the next start's
        return code
    print(f"{reason}: stops here", flush=True)
    folder.tell("failed", **facts, reason=reason)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
