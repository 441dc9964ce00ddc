"""What a job's tasks run: one rank of a launched run each.

Each start of a job takes up the newest good checkpoint, so queueing it again is all that going on needs.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import submitit

from pipelines.store.index import INDEX

from .. import slurm
from ..config import Config
from ..config.plugins import take
from ..errors import NotNow, RunError, user_errors
from ..run.clock import process_began
from ..run.folder import RunFolder
from ..run.records import appears
from ..run.states import RunState


class Job:
    """What submitit calls in every task: one rank of the run in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        """Train, and end the process with the exit code of `run`."""
        code = self.run()
        from .processes import end

        end(code)

    def run(self) -> int:
        """Train; returns the exit code of `processes.start`, or that of `attempted`."""
        env = submitit.JobEnvironment()
        # Below the range that systems give to outgoing connections, and another one after each restart.
        port = 20000 + (int(env.raw_job_id) * 7 + int(os.environ.get("SLURM_RESTART_COUNT", 0)) * 13) % 10000
        here = env.num_tasks // env.num_nodes
        for name, value in (
            ("RANK", env.global_rank),
            ("WORLD_SIZE", env.num_tasks),
            ("LOCAL_RANK", env.local_rank),
            ("LOCAL_WORLD_SIZE", here),
            ("MASTER_ADDR", env.hostnames[0] if env.num_nodes > 1 else "127.0.0.1"),
            ("MASTER_PORT", port),
        ):
            os.environ[name] = str(value)
        folder = RunFolder(self.folder)

        def train() -> int:
            if env.global_rank == 0:
                folder.tell(RunState.STARTING, **folder.known() | _this_start())
            if env.name() == "slurm":
                self._leave_to_aftermath(env.global_rank)
            from .processes import start

            return start(launched(folder), env.num_tasks, process_began())

        return attempted(folder, train)

    def _leave_to_aftermath(self, rank: int) -> None:
        """USR2 ends this rank; the job's last line then queues it again, and asks again where Slurm does not answer, as
        submitit does not. Before it trains, the first rank alone acts on it: its end is that of the others."""
        folder = RunFolder(self.folder)

        def leave(*_: object) -> None:
            known = folder.known()
            if folder.status().get("state") == RunState.STARTING:
                known["started_at"] = known.get("step")  # it has not begun
            with suppress(RunError):
                folder.tell(RunState.SAVED, **known, reason=f"stopped by {signal.SIGUSR2.name}")
            sys.stdout.flush()
            os._exit(128 + signal.SIGTERM)

        signal.signal(signal.SIGUSR2, (lambda *_: None) if rank else leave)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What to queue again; the state is in the run folder."""
        return submitit.helpers.DelayedSubmission(self)


def attempted(folder: RunFolder, train: Callable[[], int]) -> int:
    """The exit code of `train`, or after an error, which is told: 2 of the user's, 1 of one that another start may not
    meet, and of a bug."""
    try:
        return train()
    except user_errors() as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr, flush=True)
        if isinstance(error, NotNow):
            return 1  # the next start may find a free port, the others, its folder
        with suppress(RunError):  # the line is in the log where the disk is full
            folder.tell(RunState.FAILED, **folder.known(), reason=line)
        return 2
    except Exception:
        traceback.print_exc()
        return 1


def _this_start() -> dict[str, object]:
    """What tells this start's words in the status from an earlier one's."""
    return {"job": slurm.this_job(), "restarts": os.environ.get("SLURM_RESTART_COUNT")}


def launched(folder: RunFolder) -> Config:
    """What a job was launched with, once this host sees it, and the data that it names."""
    appears(folder.launch_file)
    config = folder.stored(folder.launch_file)
    take(config.plugins, str(folder.launch_file))  # from the snapshot, which this process runs
    if isinstance(config.data.folder, Path):
        for split in ("train", "test"):
            appears(config.data.folder / split / INDEX)
    return config
