"""A Slurm of stand-ins for its programs, which say what Slurm 22.05 was seen to say, and a run that it has a job of.
tests/slurm has a real one, which cannot be brought into most of this."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Command

from cluster import config as configs
from cluster.build.shards import write_shards
from cluster.config import load
from cluster.jobs import status as jobs
from cluster.run.folder import RunFolder

# code, squeue's word, may it still run, what status shows of a run that has said nothing, is a crash in it queued again
STATES = [
    ("BF", "BOOT_FAIL", False, "lost", False),
    ("CA", "CANCELLED", False, "cancelled", False),
    ("CD", "COMPLETED", False, "lost", False),
    ("CF", "CONFIGURING", True, "queued", False),
    ("CG", "COMPLETING", True, "queued", False),
    ("DL", "DEADLINE", False, "lost", False),
    ("F", "FAILED", False, "lost", False),
    ("NF", "NODE_FAIL", False, "lost", False),
    ("OOM", "OUT_OF_MEMORY", False, "lost", False),
    ("PD", "PENDING", True, "queued", False),
    ("PR", "PREEMPTED", False, "lost", False),
    ("R", "RUNNING", True, "queued", True),
    ("RD", "RESV_DEL_HOLD", True, "held", False),
    ("RF", "REQUEUE_FED", True, "queued", False),
    ("RH", "REQUEUE_HOLD", True, "held", False),
    ("RQ", "REQUEUED", True, "queued", False),
    ("RS", "RESIZING", True, "queued", True),
    ("RV", "REVOKED", True, "queued", False),
    ("SI", "SIGNALING", True, "queued", True),
    ("SE", "SPECIAL_EXIT", True, "held", False),
    ("SO", "STAGE_OUT", True, "queued", False),
    ("ST", "STOPPED", True, "queued", True),
    ("S", "SUSPENDED", True, "queued", True),
    ("TO", "TIMEOUT", False, "lost", False),
    ("", "POWER_UP_NODE", True, "queued", False),  # of a later Slurm
]
AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
PROGRAM = """\
#!/bin/sh
echo "$(basename $0) $*" >> {here}/calls
left=$(cat {here}/$(basename $0).away 2>/dev/null || echo 0)
if [ "$left" -gt 0 ]; then
    echo $((left - 1)) > {here}/$(basename $0).away
    cat {here}/away >&2
    exit 1
fi
. {here}/$(basename $0).answer
"""


class Site:
    """A Slurm of programs that answer as they are told to, the only one on the PATH."""

    def __init__(self, here: Path) -> None:
        self.here = here
        (here / "away").write_text(AWAY + "\n")
        for name in ("sbatch", "squeue", "scontrol", "sinfo", "scancel"):
            (here / name).write_text(PROGRAM.format(here=here))
            (here / name).chmod(0o755)
            self.answers(name, "")
        self.answers("sbatch", '[ "$1" = --test-only ] || echo "Submitted batch job 77"')
        self.partition()

    def answers(self, name: str, shell: str) -> None:
        (self.here / f"{name}.answer").write_text(shell + "\n")

    def says(self, state: str, reason: str = "None", left: str = "1:00:00", job: int = 12) -> None:
        self.answers("squeue", f"echo '{job}|{state}|{left}|{reason}'")

    def away(self, name: str, times: int = 10**6) -> None:
        """Its next answers are that the controller is not there."""
        (self.here / f"{name}.away").write_text(f"{times}\n")

    def partition(self, gres: str = "(null)", states: str = "idle idle", limit: str = "UNLIMITED") -> None:
        nodes = "\n".join(f"echo 'n{i}|8|16000|{state}|{gres}'" for i, state in enumerate(states.split()))
        self.answers("sinfo", nodes)
        line = f"PartitionName=gpu Default=YES MaxTime={limit} TotalNodes={len(states.split())}"
        # Slurm ends the job, whose last line asks.
        self.answers("scontrol", f'case "$1" in requeue) kill $PPID;; *) echo "{line} Requeue=1";; esac')

    def calls(self, name: str) -> list[str]:
        file = self.here / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(name + " ")]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # a launch sets both
    return Site(tmp_path / "bin")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "shards"
    write_shards("digits", folder, samples_per_shard=2000)
    return folder


@pytest.fixture
def asked(tmp_path: Path, shards: Path) -> Callable[..., configs.Config]:
    """A configuration, with overrides, whose run is `runs/run`."""
    given = [f"runs_dir={tmp_path / 'runs'}", f"data.root={shards}", "data.dataset=digits", "train.global_batch=160"]
    given.append("train.norm_batch=80")  # else a launch fills it in
    return lambda *words: load(None, [*given, *words])


@pytest.fixture
def run(asked: Callable[..., configs.Config]) -> RunFolder:
    """Of job 12, which has said nothing yet."""
    config = asked()
    folder = RunFolder(config.run_path)
    folder.checkpoints.mkdir(parents=True)
    (folder.path / "launch.yaml").write_text(configs.to_yaml(config))
    record = {"id": "12", "slurm": True, "nodes": 1, "processes": 1, "gpus": 0, "host": None, **folder.mark()}
    (folder.path / "job.json").write_text(json.dumps(record))
    return folder


def row(folder: RunFolder) -> dict[str, Any]:
    (found,) = (row for row in jobs.table(folder.path.parent) if row["run"] == folder.path.name)
    return found


def aftermath(folder: RunFolder, code: int = 1, program: str = "") -> str:
    """The job's last line, in the environment of a job; what it says."""
    program += f"import sys; from cluster.jobs.aftermath import main; sys.exit(main({str(folder.path)!r}, '{code}'))"
    env = os.environ | {"SLURM_JOB_ID": "12", "SLURM_CLUSTER_NAME": "here"}
    out, err = Command(cwd=folder.path, env=env, program=program).communicate()
    assert not err, err
    return out
