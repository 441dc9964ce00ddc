"""What is left to do when a job's ranks have ended: `python -m cluster.aftermath RUN EXIT_CODE`, the last line of its
script. A crash is queued again as long as restarts are left and the last one gained a checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys

from . import config as configs
from . import jobs
from .run import RunFolder


def verdict(folder: RunFolder, code: int, restarts: int) -> str | None:
    """Why a crashed run may not start again; None: it may."""
    limit = configs.load(folder.path / "launch.yaml").site.restarts
    if restarts >= limit:
        return f"crashed (exit code {code}) after {restarts} restarts, site.restarts={limit}"
    names = sorted(p.name for p in folder.checkpoints.glob("step-*"))
    newest = int(names[-1].removeprefix("step-")) if names else 0
    if restarts and newest <= folder.status().get("started_at", 0):
        return f"crashed (exit code {code}) twice from step {newest} on"
    return None


def main(run: str, exit_code: str) -> int:
    folder, code = RunFolder(run), int(exit_code)
    status = folder.status()
    restarts, job = int(os.environ.get("SLURM_RESTART_COUNT", 0)), os.environ["SLURM_JOB_ID"]
    if code == 0 or status.get("state") in ("finished", "saved", "failed") or jobs.state(job) != "RUNNING":
        return code  # not a crash, or whoever ended the job has decided what comes next
    facts = {k: v for k, v in status.items() if k not in ("state", "time", "reason")}
    reason = verdict(folder, code, restarts)
    if reason is None:
        print(f"crashed (exit code {code}): queued again, restart {restarts + 1}", flush=True)
        folder.tell("saved", **facts, reason=f"crashed (exit code {code})")
        return subprocess.run(["scontrol", "requeue", job]).returncode and code
    print(f"{reason}: stops here", flush=True)
    folder.tell("failed", **facts, reason=reason)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
