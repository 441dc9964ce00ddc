"""Files that are not on a local disk, by URL or by a command: each read is timed, and tried again when it fails."""

from __future__ import annotations

import base64
import importlib
import netrc
import os
import re
import select
import shlex
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPException
from types import ModuleType
from typing import IO, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

from .errors import DataError

T = TypeVar("T")

CHUNK = 1 << 20
SLOWEST = 1000
"""Bytes a second below which a connection counts as stalled."""
LONGEST_PAUSE = 30.0
"""Seconds; pauses double up to it."""
_OURS = ("http", "https", "file")
_CHECK = "check data.root, and that the shards are there"


LATER = "the same command goes on when it can be"


class Failure(Exception):
    """One try failed. final: another cannot succeed; pause: seconds before it, as whoever refused it wants."""

    def __init__(self, cause: str, final: bool = False, remedy: str = LATER, pause: float = 0.0) -> None:
        super().__init__(cause)
        self.final, self.remedy, self.pause = final, remedy, pause


@dataclass(frozen=True)
class Patience:
    """tries: of one file. pause: seconds before the second, doubling from then on. timeout: seconds without data, or
    with less than SLOWEST bytes a second, that end a try."""

    tries: int = 6
    pause: float = 1.0
    timeout: float = 60.0


def is_remote(root: str) -> bool:
    """Whether `root` is a URL or a `pipe:` command; Path may have taken one of the URL's slashes."""
    return is_command(root) or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", root) is not None


def is_command(root: str) -> bool:
    """Whether `root` is a `pipe:` command, which a shell runs."""
    return root.lower().startswith("pipe:")


_URL = re.compile(
    r"(?P<head>[A-Za-z][A-Za-z0-9+.-]*:/{1,2})(?P<user>[^/\s'\"@?]*@)?(?P<path>[^\s'\"?]*)(?P<query>\?[^\s'\"]*)?"
)


def masked(text: str) -> str:
    """`text` for a message: without what a URL in it says before @ and after ?, which can be secrets."""

    def shown(url: re.Match[str]) -> str:
        return f"{url['head']}{'***@' if url['user'] else ''}{url['path']}{'?***' if url['query'] else ''}"

    return _URL.sub(shown, text)


def check_public(root: str) -> None:
    """Raises DataError for a root with a secret in it, because roots are stored with runs and shown."""
    for url in _URL.finditer(root):
        user, query = url["user"] or "", url["query"] or ""
        if is_command(root):  # the shell puts $NAME in
            secret = bool(re.search(r":[^$@]", user) or re.search(r"=[^&${]", query))
        else:
            secret = bool(query or ":" in user or (user and url["head"].lower().startswith("http")))
        if secret:
            raise DataError(
                f"{masked(root)} has a password or a query, and would be stored with the run; put user and password of "
                "the host into ~/.netrc, or let a command read them: 'pipe:curl -sSf \"https://HOST/{}?$QUERY\"'"
            )


@dataclass(frozen=True)
class Remote:
    """A file or folder below `root`: a URL, or `pipe:` and a shell command with {} for `path`. `remote / name` is a
    file in it; str() names it in messages, `masked`.

    Raises DataError for a root that nothing can open.
    """

    root: str
    patience: Patience = Patience()
    path: str = ""

    def __post_init__(self) -> None:
        scheme = self.root.partition(":")[0].lower()
        if scheme == "pipe":
            if "{}" not in self.root:
                raise DataError(f"{masked(self.root)} has no {{}} for the path of a file; write it into the command")
        elif scheme not in _OURS and scheme not in _library().gopen_schemes:
            raise DataError(
                f"nothing here opens {scheme}:// ({masked(self.root)}); give the command that does: pipe:COMMAND {{}}, "
                "such as pipe:aws s3 cp s3://bucket/folder/{} -"
            )

    def __truediv__(self, name: str) -> Remote:
        return replace(self, path=f"{self.path}/{name}" if self.path else name)

    def __str__(self) -> str:
        return masked(self.url())

    def url(self) -> str:
        if is_command(self.root):
            return self.root.replace("{}", shlex.quote(self.path))
        if not self.path:
            return self.root
        parts = urlsplit(self.root)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(self.path)}").geturl()

    def read_bytes(self) -> bytes:
        """The whole content. Raises DataError."""
        return self.fetched(b"".join)

    def fetched(self, take: Callable[[Iterator[bytes]], T]) -> T:
        """What `take` makes of the content, which comes in pieces. When that fails (`take` may raise Failure, too) it
        is called again with the content from its beginning; then raises DataError."""
        tries, pause = self.patience.tries, self.patience.pause
        for tried in range(1, tries + 1):
            try:
                pieces = self._pieces()
                try:
                    return take(pieces)
                finally:
                    pieces.close()
            except Failure as failure:
                if failure.final or tried == tries:
                    count = "1 try" if tried == 1 else f"{tried} tries"
                    line = f"{self} cannot be fetched ({masked(str(failure))}; {count}); {failure.remedy}"
                    raise DataError(line) from failure
                wait = max(pause * 2 ** (tried - 1), failure.pause)
            time.sleep(min(wait, LONGEST_PAUSE))
        raise AssertionError("unreachable")

    def _pieces(self) -> Generator[bytes, None, None]:
        """The content, in one try. Raises Failure."""
        since, got, timeout = time.monotonic(), 0, self.patience.timeout
        ours = self.root.partition(":")[0].lower() in _OURS
        for piece in _downloaded(self.url(), timeout) if ours else _piped(self._process(), timeout):
            got += len(piece)
            if time.monotonic() - since >= timeout:
                if got < SLOWEST * timeout:
                    raise Failure(f"{got} bytes in {timeout:g} s")
                since, got = time.monotonic(), 0
            yield piece

    def _process(self) -> _Process:
        if is_command(self.root):
            errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`
            command = ["/bin/sh", "-c", self.url()[len("pipe:") :]]
            # A session of its own: all processes of the command can be ended together.
            started = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
            return _Process(started, errors)
        try:
            opened = _library().gopen(self.url())
            return _Process(opened.proc, None, opened)
        except Exception as error:  # whatever the library's opener of this scheme lacks
            raise Failure(f"{type(error).__name__}: {error}".splitlines()[0], final=True) from error


@dataclass(frozen=True)
class _Process:
    """A command that writes a file to its standard output, and where its complaints go."""

    running: subprocess.Popen[bytes]
    errors: IO[bytes] | None
    owner: object = None  # closes the pipe when it goes

    def complaint(self) -> str:
        if self.errors is None:
            return ""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def end(self) -> None:
        if self.running.poll() is None:
            with suppress(ProcessLookupError):
                if self.errors is not None:
                    os.killpg(self.running.pid, signal.SIGKILL)
                self.running.kill()
            self.running.wait()
        assert self.running.stdout is not None
        self.running.stdout.close()
        if self.errors is not None:
            self.errors.close()


def _library() -> ModuleType:
    """webdataset's openers of object stores; late, because it imports torch."""
    return importlib.import_module("webdataset.gopen")  # its package hides it behind a function of that name


def _downloaded(url: str, timeout: float) -> Iterator[bytes]:
    """http(s) and file. webdataset leaves these to curl, which has no limit for a stalled connection and does not tell
    a refusal from a failure."""
    try:
        request = urllib.request.Request(url)
        if login := _login(urlsplit(url).hostname):  # not for where it may be sent on to
            request.add_unredirected_header("Authorization", login)
        with urllib.request.urlopen(request, timeout=timeout) as response:
            while piece := response.read1(CHUNK):
                yield piece
            if missing := getattr(response, "length", None):
                raise Failure(f"cut {missing} bytes before its end")
    except HTTPError as error:
        passes = error.code >= 500 or error.code in (408, 425, 429)
        asked = error.headers.get("Retry-After", "")
        pause = float(asked) if asked.isascii() and asked.isdigit() else 0.0  # a date is passed over
        remedy = LATER if passes else _CHECK
        raise Failure(f"HTTP status {error.code}", final=not passes, remedy=remedy, pause=pause) from error
    except (HTTPException, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            raise Failure(f"no data for {timeout:g} s") from error
        gone = isinstance(reason, (FileNotFoundError, IsADirectoryError, PermissionError, ValueError))
        cause = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise Failure(cause, final=gone, remedy=_CHECK if gone else LATER) from error


def _login(host: str | None) -> str | None:
    """HTTP's basic authorisation for a host, from ~/.netrc, as curl has it."""
    try:
        found = netrc.netrc().authenticators(host) if host else None
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:
        raise Failure(f"~/.netrc: {error.msg}", final=True, remedy="mend that file") from error
    if found is None:
        return None
    user, _, password = found
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _piped(process: _Process, timeout: float) -> Iterator[bytes]:
    try:
        assert process.running.stdout is not None
        output = process.running.stdout.fileno()
        ready = select.poll()
        ready.register(output, select.POLLIN | select.POLLHUP)
        while True:
            if not ready.poll(timeout * 1000):
                raise Failure(f"no data for {timeout:g} s{process.complaint()}")
            piece = os.read(output, CHUNK)
            if not piece:
                break
            yield piece
        try:
            status = process.running.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"its command does not end{process.complaint()}") from error
        if status:
            raise Failure(f"exit status {status}{process.complaint()}")
    finally:
        process.end()
