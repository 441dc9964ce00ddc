"""What this program uses of submitit beyond its documentation, read in 1.5.4, which is pinned for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.local.local import LocalExecutor
from submitit.slurm.slurm import SlurmExecutor

Refused = (FailedJobError, FailedSubmissionError)
"""What `submit` raises where sbatch does not take a job."""
ENDLESS = 10**6
"""Time limits that submitit survives: the run ends by its epochs, not by their number."""


class Slurm(SlurmExecutor):
    """Jobs of `python`, a command; their logs go into a folder."""

    def __init__(self, logs: Path, python: str | None = None) -> None:
        super().__init__(logs, max_num_timeout=ENDLESS, python=python)

    @classmethod
    def affinity(cls) -> int:
        return 1  # a script can be made without Slurm

    def ask_for(self, options: Mapping[str, object]) -> None:
        """sbatch's own names, and those that submitit adds; None: left out."""
        self._internal_update_parameters(**{k: v for k, v in options.items() if v is not None})

    @property
    def command(self) -> str:
        """What each task runs."""
        return self._submitit_command_str

    def script(self) -> str:
        """What sbatch would be given."""
        return self._make_submission_file_text(self._submitit_command_str, "")


class Array(Slurm):
    """An array of `count` jobs, at most `at_once` of which run together. command: of each task, which learns from its
    environment which element it is of."""

    def __init__(self, logs: Path, command: str, count: int, at_once: int) -> None:
        super().__init__(logs)
        self._words = command
        self.ask_for({"array_parallelism": at_once})
        self.parameters["map_count"] = count

    @property
    def _submitit_command_str(self) -> str:
        return self._words


def local(logs: Path, processes: int, gpus: int) -> LocalExecutor:
    """Jobs on this machine, without a time limit: submitit would start the run again six times, and then no more."""
    executor = LocalExecutor(logs, max_num_timeout=ENDLESS)
    executor.update_parameters(timeout_min=ENDLESS, tasks_per_node=processes, gpus_per_node=gpus, stderr_to_stdout=True)
    return executor
