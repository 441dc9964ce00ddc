"""One process at a time in a folder, on any file system, whatever becomes of the holder's host.

`lock.N` is the N-th holder's record. It appears whole by link(2), which only one process can do, and N only grows: who
finds that the holder of the newest one is gone makes the next. `flock` is not what excludes, but what tells at once
that a holder has died, where a file system has it; `judge` says what tells it otherwise. What Slurm or silence calls
gone may only be cut off: a holder looks every `BEAT` seconds, and before what it cannot take back, whether there is a
newer record, and ends then; who takes over waits so long before it writes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path

from .. import slurm
from ..errors import NO_SPACE, InUse, RunError, disk_errors, thread_errors
from .kept import Heard

BEAT = 5.0
"""Seconds between two signs of life, each with a look at whether somebody has taken over."""
PAUSE = 3 * BEAT
"""Seconds from taking over to the first write: a holder that is only cut off has seen it by then."""
SILENT = 120.0
"""Seconds without a sign of life after which a holder that nobody can ask for is gone. Longer than the leases of NFSv4
(90 s) and Lustre (100 s): a host that gets its files back within those is not taken for dead."""
WAIT = 300.0
"""Seconds that the start of a job waits: until a lease is over and the silence after it, and Slurm's own time-outs."""
ASK = 15.0
"""Seconds between two questions to Slurm."""

_NAME = re.compile(r"lock(?:\.([1-9][0-9]{0,17}))?")  # without a number: of an earlier version, which had flock alone
_OWN = re.compile(r"\.lock\.[0-9a-f]{32}\.tmp")


class Fate(Enum):
    HELD, FREE = "held", "free"
    OVER = "over"
    """Gone as far as anyone can tell; see PAUSE."""


@dataclass(frozen=True)
class Holder:
    """Who holds a folder. released is one digit in the file, so that it can be changed in place."""

    released: int
    pid: int
    host: str
    kernel: str | None = None
    """Of the host since its start, and the namespace that pid is of: where both are ours, pid can be looked up."""
    started: str | None = None
    """When the process was: a pid is used again."""
    job: str | None = None
    cluster: str | None = None
    restart: int = 0
    flock: bool = False
    """Whether its file is locked as long as it lives."""
    token: str = ""

    @classmethod
    def me(cls) -> Holder:
        env = os.environ
        job, restart = slurm.this_job(), env.get("SLURM_RESTART_COUNT", "0")
        return cls(
            released=0,
            pid=os.getpid(),
            host=socket.gethostname(),
            kernel=_kernel(),
            started=started(os.getpid()),
            job=job,
            cluster=_cluster() if job else None,
            restart=int(restart) if restart.isdecimal() else 0,
            token=uuid.uuid4().hex,
        )

    @classmethod
    def read(cls, content: bytes, path: Path) -> Holder:
        """Raises RunError for what is no record of ours."""
        try:
            found = json.loads(content)
            known = {f.name: found[f.name] for f in fields(cls) if f.name in found}
            holder = cls(**({"released": 0, "flock": "token" not in found} | known))
            if isinstance(holder.pid, int) and isinstance(holder.host, str) and isinstance(holder.restart, int):
                return holder
        except (ValueError, KeyError, TypeError):
            pass
        raise RunError(f"{path} is a file that tdformer did not write; move it, or use another folder")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (job {self.job})" if self.job else "")


def judge(
    holder: Holder, me: Holder, locked: bool | None, silence: float, over: Callable[[Holder], bool | None]
) -> Fate:
    """What has become of a holder.

    locked: what flock says of its file, None where that says nothing; silence: seconds since its last sign of life;
    over: what Slurm says of its job, None where it does not answer or is another cluster's.
    """
    if holder.released:
        return Fate.FREE
    if holder.kernel is not None and holder.kernel == me.kernel:
        return Fate.HELD if locked or started(holder.pid) == holder.started else Fate.FREE
    ours = holder.job is not None and (holder.job, holder.cluster) == (me.job, me.cluster)
    if ours and holder.restart > me.restart:
        return Fate.HELD  # we are the start that was taken for dead
    if locked is False:
        return Fate.FREE
    if ours and holder.restart < me.restart:
        return Fate.OVER  # Slurm starts a job again when it has ended
    if holder.job is not None and not ours and (ended := over(holder)) is not None:
        return Fate.OVER if ended else Fate.HELD
    if locked:
        return Fate.HELD
    return Fate.OVER if silence > SILENT else Fate.HELD


@contextmanager
def exclusive(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Make `folder` and keep every other process out of it until the block ends, or this process, however it does.

    wait: seconds to keep trying. Raises InUse, naming the holder, when the folder stays in use.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = _Lock(folder)
    try:
        held.acquire(time.monotonic() + wait)
        yield
    finally:
        held.close()


def check(folder: Path) -> None:
    """Before a write that cannot be taken back: end this process if it holds `folder` and another has taken over."""
    for lock in list(_held):
        if lock.fd >= 0 and lock.path is not None and lock.folder == folder.resolve():
            lock.check()


def superseded(folder: Path) -> bool:
    """Whether a later start of the job that this process is of has the folder."""
    with suppress(RunError, OSError):
        me, (_, holder, _, _) = Holder.me(), _newest(folder)
        if holder is not None and me.job is not None:
            return (holder.job, holder.cluster) == (me.job, me.cluster) and holder.restart > me.restart
    return False


def heard(folder: Path) -> Heard | None:
    """The newest holder's process and host, and the time of its last sign of life; None: there is no record."""
    with suppress(RunError, OSError):
        _, holder, _, beat = _newest(folder)
        if holder is not None:
            return {"pid": holder.pid, "host": holder.host, "time": beat}
    return None


_held: weakref.WeakSet[_Lock] = weakref.WeakSet()


class _Lock:
    """A forked child (a loader worker) must not keep it beyond its holder's end, so the descriptor that it inherits is
    closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.me, self.fd = Holder.me(), -1
        self.path: Path | None = None
        self.temporary = self.folder / f".lock.{self.me.token}.tmp"
        self._ended, self._asked, self._answer = threading.Event(), -ASK, (None, None)
        self.fd = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        _held.add(self)
        try:
            self.me = Holder(**asdict(self.me) | {"flock": self._flock()})
            os.write(self.fd, json.dumps(asdict(self.me)).encode())
            os.fsync(self.fd)  # or another host may find it empty
        except BaseException:
            self.close()
            raise

    _answer: tuple[Holder | None, bool | None]

    def acquire(self, deadline: float) -> None:
        pause, said = 0.05, False
        while True:
            number, holder, fate, silence = self._look()
            if fate is not Fate.HELD:
                if self._make(number + 1):
                    break
                if time.monotonic() < deadline + BEAT:  # another one was faster: see who
                    time.sleep(0.05)
                    continue
            who = "another process" if holder is None else str(holder)
            left = deadline - time.monotonic()
            if left <= 0:
                heard = "" if silence is None else f", which was heard of {max(0, silence):.0f} s ago"
                raise InUse(
                    f"{self.folder} is in use by {who}{heard}; wait for it, stop it, or use another folder (name=...)"
                )
            if left > 2 * BEAT and pause >= 1 and not said:
                _say(f"{self.folder} is in use by {who}: waits for up to {left:.0f} s")
                said = True
            time.sleep(min(pause, left))
            pause = min(1.0, 1.5 * pause)
        with thread_errors("the lock"):
            threading.Thread(target=self._beat, name="lock", daemon=True).start()
        self._tidy(number + 1)
        if fate is Fate.OVER:
            _say(f"{self.folder} is taken over from {holder}, which is gone: waits for {PAUSE:.0f} s")
            time.sleep(PAUSE)
            self.check()

    def check(self) -> None:
        """End this process where another has taken over."""
        with suppress(OSError, RunError):  # a folder that is away or was moved: whoever writes there will hear of it
            _, holder, _, _ = _newest(self.folder)
            if holder is not None and holder.token != self.me.token and not self._ended.is_set():
                _say(f"error: {self.folder} was taken over by {holder}: this process ends")
                os._exit(1)

    def close(self) -> None:
        """Give it back, if it was had."""
        if self.fd < 0:
            return
        self._ended.set()
        with suppress(OSError):
            if self.path is None:
                self.temporary.unlink()
            else:
                os.pwrite(self.fd, b"1", len('{"released": '))
                os.fsync(self.fd)
        self.forget()

    def forget(self) -> None:
        """Let go of the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _flock(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # ENOSYS, EOPNOTSUPP, ENOLCK, EINVAL, ...: nobody else knows the file yet
            return False
        return True

    def _look(self) -> tuple[int, Holder | None, Fate, float | None]:
        """The newest record's number, its holder, what has become of that, and if silence was asked: how long it is."""
        number, holder, locked, beat = _newest(self.folder)
        if not number and holder is None and beat is None:
            return 0, None, Fate.FREE, None
        with disk_errors(self.folder):
            os.utime(self.temporary)  # by the clock of the file system, as the holder's beats
            silence = self.temporary.stat().st_mtime - (beat or 0)
        if holder is None:  # its name is there, and its record not yet
            free = locked is False or silence > SILENT
            return number, None, Fate.FREE if free else Fate.HELD, silence
        if holder.kernel != self.me.kernel and _flock_is_local(self.folder):
            locked = None
        fate = judge(holder, self.me, locked, silence, self._over)
        return number, holder, fate, None if locked or holder.kernel == self.me.kernel else silence

    def _over(self, holder: Holder) -> bool | None:
        """Whether Slurm says that the holder's job is; None: it does not answer, or it may be another cluster's."""
        if self._answer[0] != holder or time.monotonic() - self._asked > ASK:
            same = holder.cluster is not None and holder.cluster == (self.me.cluster or _cluster())
            self._answer = (holder, _job_over(holder.job or "") if same else None)
            self._asked = time.monotonic()
        return self._answer[1]

    def _make(self, number: int) -> bool:
        """Become the holder. False: another process did."""
        path = self.folder / f"lock.{number}"
        with disk_errors(path):
            try:
                os.link(self.temporary, path)
            except FileExistsError:
                if self.temporary.stat().st_nlink == 1:  # else it was us: NFS has asked twice
                    return False
            except OSError as error:
                if error.errno in NO_SPACE:
                    raise
                try:  # no hard links here: the name first
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
                except FileExistsError:
                    return False
                os.rename(self.temporary, path)
            self.temporary.unlink(missing_ok=True)
            if _newest(self.folder)[0] == number:
                self.path = path
                return True
            os.rename(path, self.temporary)  # it was free long ago, and had by others since
        return False

    def _tidy(self, number: int) -> None:
        """Remove older records, and what was left by processes that were killed when they asked for one."""
        now = time.time()
        with suppress(OSError):
            now = self.path.stat().st_mtime if self.path else now
        for path in self.folder.iterdir():
            with suppress(OSError, RunError):
                found = _NAME.fullmatch(path.name)
                if found and int(found[1] or 0) < number:
                    Holder.read(path.read_bytes(), path)
                    path.unlink()
                elif _OWN.fullmatch(path.name) and now - path.stat().st_mtime > SILENT:
                    path.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            self.check()
            with suppress(OSError):
                os.utime(self.path or self.temporary)


def _newest(folder: Path) -> tuple[int, Holder | None, bool | None, float | None]:
    """Of the newest record: its number, who wrote it (None: nothing is in it yet), whether that has an flock (None: it
    cannot be known), and the time of its last sign of life (None: there is no record). Raises RunError for a file that
    is not ours."""
    for _ in range(100):
        numbers = [int(found[1] or 0) for name in os.listdir(folder) if (found := _NAME.fullmatch(name))]
        if not numbers:
            return 0, None, None, None
        path = folder / (f"lock.{max(numbers)}" if max(numbers) else "lock")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # there is a newer one
                time.sleep(0.05)
                continue
            raise
        try:
            content = _content(fd)
            holder = None if content == b"" else Holder.read(content, path)
            flock = holder.flock if holder is not None else not max(numbers)
            return max(numbers), holder, _locked(fd) if flock else None, os.fstat(fd).st_mtime
        finally:
            os.close(fd)
    raise RunError(f"{path} cannot be read; move it, or use another folder")


def _content(fd: int) -> bytes:
    try:
        return os.pread(fd, 4096, 0)
    except OSError:  # a folder, or a pipe
        return b"none of ours"


def _locked(fd: int) -> bool | None:
    """Whether another descriptor has an exclusive flock; None where a file system does not say."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may look at the same time
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _flock_is_local(folder: Path) -> bool:
    """Whether flock is known only on the host where it is held, as far as the mount says."""
    with suppress(OSError):
        device = folder.stat().st_dev
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            mount, _, of = line.partition(" - ")
            if mount.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                options = re.split("[ ,]", mount) + re.split("[ ,]", of)
                local = {"localflock", "local_lock=flock", "local_lock=all", "nolock", "nobrl"}
                return of.startswith(("fuse", "beegfs")) or not local.isdisjoint(options)
    return False


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _kernel() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def started(pid: int) -> str | None:
    """When a process was, in the kernel's ticks; None where there is none, or only what its parent has not yet asked
    for."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else rest[18]


def _job_over(job: str) -> bool | None:
    """What Slurm says; None: it does not answer."""
    found = slurm.state(job)
    return None if found.unknown else not found.alive


def _cluster() -> str | None:
    """Slurm's name of the cluster that this process would ask."""
    return os.environ.get("SLURM_CLUSTER_NAME") or slurm.cluster()


def _after_fork() -> None:
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_after_fork)
