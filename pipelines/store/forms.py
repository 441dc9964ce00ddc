"""The forms in which a split can be read from a disk: its shards, or a copy that is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Form:
    """name: what `data.format` calls it. copy: where a split's folder has that copy; None: the shards themselves, which
    may lie anywhere. A copy lies beside its shards on this machine, and is compared as a whole when it is opened."""

    name: str
    copy: Callable[[Path], Path] | None = None

    def missing(self, folder: Path) -> Path | None:
        """The copy that a split's folder has not; None: nothing is missing."""
        return None if self.copy is None or (path := self.copy(folder)).exists() else path


def ffcv_file(folder: Path) -> Path:
    """Where the FFCV file of a split's folder is."""
    return folder / f"{folder.name}.beton"


SHARDS, FFCV = Form("webdataset"), Form("ffcv", ffcv_file)
FORMS = {form.name: form for form in (SHARDS, FFCV)}
COPIES = [form.name for form in FORMS.values() if form.copy]
