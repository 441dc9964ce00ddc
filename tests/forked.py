"""Processes that need not import anything, forked from one that has (`warm`): imports are the most of a start. What
runs in them is what the `tdformer` command runs; tests of the command itself start that."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Listener, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import python_path
from cluster.config import Config
from cluster.jobs import processes
from cluster.run.folder import RunFolder

TESTS = Path(__file__).parent
TDFORMER = "from cluster.cli import main; main()"
PYTHON = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""`python FILE WORDS`."""
ASKS = """\
#!{python} -ES
import os, sys
from multiprocessing.connection import Client
with Client({address!r}) as door:
    door.send(({program!r}, sys.argv, os.getcwd(), dict(os.environ), os.getpid()))
    sys.exit(door.recv())
"""


def children(pid: int) -> set[int]:
    """Of all threads of a process."""
    found: set[int] = set()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since it was listed
            found |= {int(child) for child in tasks.read_text().split()}
    return found


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm"])
    return context


def _start(process: BaseProcess) -> None:
    with patch.dict(os.environ, PYTHONPATH=python_path(TESTS.parent, TESTS)):  # the forkserver's
        process.start()


def apart(act: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a process in which nothing was done before, but for imports."""
    _all_end([_context().Process(target=act, args=arguments)])


def together(act: Callable[..., None], world: int, *arguments: Any) -> None:
    """Call a function on so many ranks, each in such a process; the first argument is the rank."""
    _all_end([_context().Process(target=act, args=(rank, *arguments)) for rank in range(world)])


def _all_end(processes: list[BaseProcess]) -> None:
    """Start them, and see that they end well; where one does not, the others would wait for it."""
    for process in processes:
        _start(process)
    left = {process.sentinel: process for process in processes}
    while left:
        for sentinel in wait(list(left)):
            left.pop(sentinel).join()
        if any(process.exitcode for process in processes):
            for process in left.values():
                process.kill()
    assert [process.exitcode for process in processes] == [0] * len(processes)


class Command:
    """`tdformer WORDS`, or another program, that runs in a folder; with what tests use of `subprocess.Popen`."""

    def __init__(
        self,
        *words: object,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        program: str = TDFORMER,
        merged: bool = False,
    ) -> None:
        """env: instead of ours; program: Python; merged: standard error goes where standard output goes."""
        self.words = ["tdformer", *map(str, words)]
        self._files = [tempfile.NamedTemporaryFile() for _ in range(1 if merged else 2)]  # noqa: SIM115 - deleted with us
        names = self._files[0].name, self._files[-1].name
        given = (program, self.words, str(cwd), dict(os.environ if env is None else env), *names)
        self._process = _context().Process(target=_run, args=given)
        _start(self._process)
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def written(self) -> str:
        """What it has written until now."""
        return Path(self._files[0].name).read_text()

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it wrote, once it has ended. Raises subprocess.TimeoutExpired, and kills it."""
        self._process.join(timeout)
        out, err = (Path(file.name).read_text() for file in (self._files[0], self._files[-1]))
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.words, timeout, out, err)
        return out, err if len(self._files) == 2 else ""

    def completed(self, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        out, err = self.communicate(timeout)
        assert self.returncode is not None
        return subprocess.CompletedProcess(self.words, self.returncode, out, err)


def meeting(world: int) -> dict[str, str]:
    """Where so many ranks meet: variables for all of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def torchrun(
    world: int, *words: object, cwd: Path, env: Mapping[str, str] | None = None, program: str
) -> list[Command]:
    """The ranks of a run, as torchrun starts them. Ranks that a command starts on GPUs are new interpreters, in which
    nothing of its `program` is."""
    given = dict(os.environ if env is None else env) | meeting(world) | {"LOCAL_WORLD_SIZE": str(world)}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return [Command(*words, cwd=cwd, env=given | place, program=program) for place in places]


class Door:
    """Programs in a folder, for a shell: each has the process that it asks fork what it is named for, in its folder,
    with its words, environment and output, and ends as that does. Where one is killed, so is what it asked for."""

    def __init__(self, folder: Path, **programs: str) -> None:
        """programs: by the name of their file, Python."""
        self._listener = Listener(family="AF_UNIX")
        for name, program in programs.items():
            asks = ASKS.format(python=sys.executable, address=self._listener.address, program=program)
            (folder / name).write_text(asks)
            (folder / name).chmod(0o755)
        threading.Thread(target=self._open, daemon=True).start()

    def _open(self) -> None:
        while True:
            threading.Thread(target=self._answer, args=[self._listener.accept()], daemon=True).start()

    def _answer(self, asked: Connection) -> None:
        program, words, cwd, env, pid = asked.recv()
        own = [f"/proc/{pid}/fd/{number}" for number in (1, 2)]
        process = _context().Process(target=_run, args=(program, words, cwd, env, *own))
        _start(process)
        if process.sentinel not in wait([process.sentinel, asked]):  # nobody is there any more
            process.kill()
            return
        process.join()
        code = process.exitcode
        asked.send(code if code >= 0 else 128 - code)


def _run(program: str, words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    processes.die_with_parent()
    processes.START = "fork"
    os.chdir(cwd)
    _environ(env)
    for file, number in ((out, 1), (err, 2)):
        fd = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(fd, number)
        os.close(fd)
    sys.argv = words
    exec(compile(program, "-c", "exec"), {"__name__": "__main__"})


def _environ(env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)


def _rank(env: dict[str, str], *rest: Any) -> None:
    _environ(env)
    processes._child(*rest)


class Ranks:
    """The ranks of a run on this machine; a context manager that starts them in the run's folder, and ends them."""

    def __init__(self, config: Config, world: int, env: Mapping[str, str] | None = None) -> None:
        """env: instead of ours."""
        self.folder = RunFolder(config.run_path)
        self.folder.open(config)
        meeting = self.folder.path / "meeting"
        meeting.unlink(missing_ok=True)
        self.begun = time.time()
        context = _context()
        self.errors = context.SimpleQueue()
        given = dict(os.environ if env is None else env)
        rest = (world, str(meeting), config, self.errors)
        self.all = [context.Process(target=_rank, args=(given, rank, *rest)) for rank in range(world)]

    def __enter__(self) -> Ranks:
        for process in self.all:
            _start(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.all:
            process.kill()
            process.join()

    def end(self, seconds: float) -> list[int | None]:
        """Exit codes; None: it had not ended by itself."""
        deadline = time.monotonic() + seconds
        for process in self.all:
            process.join(max(0, deadline - time.monotonic()))
        return [process.exitcode for process in self.all]
