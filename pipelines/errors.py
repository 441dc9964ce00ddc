"""What the data package raises for data that cannot work."""

from __future__ import annotations

import errno
import resource

TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


class DataError(Exception):
    """One line: what is wrong, where, and what to do."""


class NotHere(DataError):
    """The same of raw files that are not where they usually are, and nobody has named another place."""


class DamagedSample(DataError):
    """The same of one sample, which training may pass over."""


def too_many_files(what: str) -> DataError:
    """Of an OSError whose number is one of TOO_MANY_FILES."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return DataError(f"{what}: too many open files; raise the limit, which is {limit}: ulimit -n, up to {most}")
