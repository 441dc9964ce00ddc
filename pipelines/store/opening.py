"""One split of shards, wherever it lies and in whichever form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import DataError
from ..remote import Remote, is_remote
from .beton import BetonDataset
from .cache import Cache, default_folder
from .tars import RemoteTarDataset, TarDataset

Split = TarDataset | RemoteTarDataset | BetonDataset


def open_split(
    folder: str | Path | Remote,
    *,
    copy: bool = False,
    trusted: bool = False,
    cache: Cache | None = None,
    window: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Split:
    """The samples of a split's folder, by number.

    copy: from its FFCV copy, which is checked once and tells `progress` of the bytes. trusted: see `Index`. cache and
    window: of a folder that is fetched, see `RemoteTarDataset`; None: 50 GB in the folder for temporary files. Raises
    DataError where it is not whole.
    """
    if isinstance(folder, str) and is_remote(folder):
        folder = Remote(folder)
    if isinstance(folder, Remote):
        if copy:
            raise DataError(f"{folder} is not on this machine, and FFCV copies are read from a disk; read its shards")
        return RemoteTarDataset(folder, cache or Cache(default_folder(), 50 * 10**9), window)
    if copy:
        return BetonDataset(folder, progress, trusted)
    return TarDataset(folder, trusted)
