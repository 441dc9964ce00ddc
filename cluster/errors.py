"""The errors that are the user's to mend: each is one line, printed without a traceback, exit code 2."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines import disk
from pipelines.disk import NO_SPACE as NO_SPACE

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class RunError(Exception):
    """A configuration, run folder or checkpoint that cannot work: what is wrong, where, and what to do."""


class NotNow(RunError):
    """What another start of the same job may not meet."""


class NoMeeting(NotNow):
    """The ranks did not come together."""


class InUse(NotNow):
    """Another process has the folder."""


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn what a disk can say while `path` is written into a RunError: full, read-only, not allowed, not there."""
    try:
        yield
    except Exception as e:
        number = disk.number(e)
        if disk.is_full(e):
            raise RunError(disk.no_space(f"to write {path}")) from e
        if number == errno.ENOENT:
            raise RunError(f"cannot write {path}: its folder is gone; go on where that is now") from e
        if number in (*NOT_ALLOWED, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise RunError(f"cannot write {path} ({os.strerror(number)}); choose a place that you may write to") from e
        raise


_NO_MEMORY = re.compile(
    "out of memory|n't allocate memory|not enough memory|annot allocate memory|bad_alloc|ALLOC_FAILED"
    "|could not create a (primitive|memory object)"
)
"""As CUDA, PyTorch's allocator on CPU, the system, C++, cuBLAS and oneDNN say it."""


def no_memory(error: BaseException) -> str | None:
    """In a few words, that an error says that memory has run out; None for any other."""
    said = str(error)
    if not isinstance(error, MemoryError) and not (
        isinstance(error, RuntimeError | OSError) and _NO_MEMORY.search(said)
    ):
        return None
    asked = re.search(r"tried to allocate [\d.]+ \w+", said, re.IGNORECASE)
    where = "the GPU's memory" if re.search("CUDA|CUBLAS", said) else "memory"
    what = asked[0][0].lower() + asked[0][1:] if asked else (said.splitlines() or ["no room"])[0][:120]
    return f"{where} has run out ({what})"


@contextmanager
def memory_errors(remedy: str) -> Iterator[None]:
    """Turn what says that memory has run out into a RunError that ends with `remedy`."""
    try:
        yield
    except Exception as error:
        said = no_memory(error)
        if said is None:
            raise
        raise RunError(f"{said}; {remedy}") from error


@contextmanager
def thread_errors(what: str) -> Iterator[None]:
    """Turn Python's refusal to start a thread into a RunError."""
    try:
        yield
    except RuntimeError as e:
        raise RunError(
            f"no thread can be started for {what} ({e}); allow more processes (ulimit -u) or more memory (ulimit -v)"
        ) from e


def user_errors() -> tuple[type[Exception], ...]:
    """All of them. Imports torch with the model package, which most commands never need."""
    from pipelines.errors import DataError
    from tdformer.errors import ModelError

    return (RunError, DataError, ModelError)
