"""A real Slurm on this machine, with several nodes, from the Debian packages, in a folder of its own; another one for
each of pytest's workers."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from forked import Command

ROOT = Path(__file__).parents[2]
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
PORT = 26800
"""Of the first cluster's controller."""
PATIENCE = 600
"""Seconds: longer than anything takes on a busy machine, and waited in full only where a test fails. The limits of
Slurm below are as wide, so that it ends nothing by itself that is only slow."""
CONF = """\
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/sock,cred_expire=30
CredType=cred/munge
SlurmctldPort={port}
FirstJobId={first}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=1
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=60
OverTimeLimit=5
BatchStartTimeout=300
KillOnBadExit=0
UnkillableStepTimeout=300
InactiveLimit=0
SlurmdTimeout=300
SlurmctldTimeout=10
MinJobAge=3600
MessageTimeout=30
TCPTimeout=30
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
{nodes}
PartitionName=low   Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=60 DefMemPerCPU=1000 State=UP
PartitionName=grace Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=300 MaxTime=60 DefMemPerCPU=1000 State=UP
PartitionName=high  Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=60 DefMemPerCPU=1000 State=UP
"""


class Slurm:
    """Daemons in `folder` for nodes that are loopback addresses, which makes each of them a usable MASTER_ADDR."""

    def __init__(self, folder: Path, nodes: int, number: int) -> None:
        """number: of this cluster among those that are up at once; their jobs have other numbers, hence other ports."""
        self.folder, self.number = folder, number
        self.port = PORT + 20 * number
        self.nodes = {f"127.0.{number}.{11 + i}": self.port + 1 + i for i in range(nodes)}
        self.last = [*self.nodes][-1]
        self.env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(ROOT), "COLUMNS": "250"}
        self.env |= {"TDFORMER_KERNELS": "reference"}  # numba's take long to load, and are tested elsewhere

    def up(self) -> None:
        for name in ("state", "log", "run", "spool", "munge"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge").chmod(0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        host = socket.gethostname().split(".")[0]
        line = "NodeName={0} NodeHostname={1} NodeAddr={0} Port={2} CPUs=4 RealMemory=8000 State=UNKNOWN"
        nodes = "\n".join(line.format(name, host, port) for name, port in self.nodes.items())
        user, first = os.environ.get("USER", "root"), 1 + 1000 * self.number
        conf = CONF.format(host=host, folder=self.folder, nodes=nodes, user=user, port=self.port, first=first)
        (self.folder / "slurm.conf").write_text(conf)
        self.run(
            "munged",
            f"--key-file={key}",
            f"--socket={self.folder}/munge/sock",
            f"--pid-file={self.folder}/run/munged.pid",
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={self.folder}/munge/seed",
            "--num-threads=2",
        )
        self.run("slurmctld", "-f", f"{self.folder}/slurm.conf")
        for name in self.nodes:
            self.start_node(name)
        self.wait(lambda: self.idle() == len(self.nodes), "the nodes are idle")

    def start_node(self, name: str) -> None:
        self.run("slurmd", "-f", f"{self.folder}/slurm.conf", "-N", name)

    def node_pid(self, name: str) -> int:
        return int((self.folder / "run" / f"slurmd-{name}.pid").read_text())

    def idle(self) -> int:
        """Nodes that are."""
        return len(self.run("sinfo", "-h", "-N", "-p", "low", "-t", "idle", "-o", "%N").split())

    def clear(self) -> None:
        """End every job, and have all nodes back."""
        up = self.processes("slurmd")
        for name in self.nodes:
            if self.node_pid(name) not in up:
                self.start_node(name)
            again = ["scontrol", "update", f"nodename={name}", "state=resume"]
            subprocess.run(again, env=self.env, capture_output=True)  # refused where nobody has set it down
        subprocess.run(["scancel", "--state=PENDING"], env=self.env, capture_output=True)
        if self.run("squeue", "-h", "-o", "%i"):
            for pid in self.ranks():  # also one that was stopped, which hears nothing else
                _kill(pid)
            subprocess.run(["scancel", "--state=RUNNING"], env=self.env, capture_output=True)
        self.wait(lambda: self.idle() == len(self.nodes), "the nodes are idle again")

    def down(self) -> None:
        subprocess.run(["scancel", "--state=RUNNING"], env=self.env, capture_output=True)
        for pid in self.ranks():
            _kill(pid)
        for pid in self.processes("slurm|munged|srun|data_worker"):
            _kill(pid)

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def cli(self, *words: object) -> subprocess.CompletedProcess[str]:
        """The `tdformer` command as a user of this cluster; forked, see `forked`."""
        return Command(*words, cwd=self.folder, env=self.env).completed(PATIENCE)

    def launch(self, *words: object) -> subprocess.CompletedProcess[str]:
        return self.cli("launch", *words)

    def job(self, job: str, what: str = "%T") -> str:
        return self.run("squeue", "-h", "--states=all", "-j", job, "-o", what).strip()

    def empty(self) -> bool:
        """Whether nothing is left of any job."""
        return not self.ranks() and not self.processes("srun|slurmstepd|data_worker")

    def ranks(self, number: int | None = None) -> list[int]:
        """Processes of submitit's tasks; of all or of this one."""
        found = [*self.ranks_of("submitit.core._submit"), *self.ranks_of("cluster.study.element")]
        task = f"\0SLURM_PROCID={number}\0".encode()
        return [pid for pid in found if number is None or task in _read(pid, "environ")]

    def ranks_of(self, module: str) -> list[int]:
        """Those that run this module."""
        return [pid for pid in self.processes("python") if module.encode() in _read(pid, "cmdline")]

    def workers(self) -> list[int]:
        """Processes that read data for the ranks."""
        return self.processes("data_worker")

    def processes(self, name: str) -> list[int]:
        """Of this cluster, whose program is called so."""
        ours = f"SLURM_CONF={self.folder}/".encode()
        found = subprocess.run(["pgrep", name], capture_output=True, text=True).stdout.split()
        return [pid for pid in map(int, found) if ours in _read(pid, "environ")]

    def wait(self, holds: Callable[[], object], what: str, log: Callable[[], str] = str) -> None:
        """Until it `holds`. Raises AssertionError after PATIENCE, with `log` and the last lines of the daemons'."""
        deadline = time.monotonic() + PATIENCE
        while True:
            said = ""
            try:
                if holds():
                    return
            except AssertionError as error:  # a command of Slurm: daemons that are busy or just begin do not answer
                said = str(error)
            assert time.monotonic() < deadline, f"waited in vain: {what}\n{said}\n{log()}\n{self.tails()}"
            time.sleep(0.4)

    def tails(self) -> str:
        """The last 30 lines of each daemon's log, and what runs."""
        logs = sorted((self.folder / "log").glob("slurm*.log"))
        lines = [f"{log.name}: {line}" for log in logs for line in log.read_text().splitlines()[-30:]]
        return "\n".join([*lines, self.run("squeue", "--states=all"), self.run("sinfo", "-N", "-l")])


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""  # it has ended


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _number() -> Iterator[int]:
    """Of a cluster: one that no other on this machine has, of these tests or of another checkout's; it decides the
    ports of the daemons and of the jobs."""
    for number in itertools.count():
        with open(Path(tempfile.gettempdir()) / f"tdformer-slurm-{number}.lock", "w") as lock:
            if _free(lock, PORT + 20 * number):
                yield number
                return


def _free(lock: IO[str], port: int) -> bool:
    """Whether the lock is ours now, and nothing uses the port: a daemon can be left of tests that were killed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ours.bind(("", port))
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [name for name in DAEMONS if shutil.which(name, path=path) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs a Slurm of its own: root, and {' '.join(missing)} (.ci/packages.sh)")
    os.environ["PATH"] = path
    folder = Path(tempfile.mkdtemp(prefix="tdformer-slurm-"))
    folder.chmod(0o755)  # or munge does not trust its path
    with _number() as number:
        cluster = Slurm(folder, nodes=2, number=number)
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.down()
            shutil.rmtree(folder, ignore_errors=True)
