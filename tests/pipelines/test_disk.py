"""Writing to a disk: what stays after a failure, and how a full one is known. Power cuts are in test_power_cut.py."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipelines import disk


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(RuntimeError, match="no more"), disk.whole(tmp_path / "f") as hidden:
        hidden.write_text("half")
        assert (tmp_path / "f").read_text() == "old"
        raise RuntimeError("no more")
    assert [path.name for path in tmp_path.iterdir()] == ["f"] and (tmp_path / "f").read_text() == "old"


def test_temporary_names_are_hidden_and_nobodys() -> None:
    path = Path("/a/b.txt")
    names = {disk.temporary(path).name for _ in range(100)}
    assert len(names) == 100 and all(name.startswith(".b.txt.") and name.endswith(".tmp") for name in names)
    assert disk.temporary(Path("/a/.note"), ".pt").name.startswith(".note.")
    assert disk.temporary(path, ".pt").suffix == ".pt"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), True),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), True),
        (ValueError("I/O error: No space left on device (os error 28)"), True),  # as safetensors says it
        (ValueError("I/O error: Disk quota exceeded (os error 122)"), True),
        (RuntimeError("write failed: No space left on device"), True),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), False),
        (ValueError("I/O error: Permission denied (os error 13)"), False),
        (ValueError("28"), False),
    ],
)
def test_a_full_disk_is_known_by_number_or_words(error: Exception, full: bool) -> None:
    assert disk.is_full(error) is full


def test_a_large_file_is_synced_in_blocks_that_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "BLOCK", 1 << 16)
    (tmp_path / "f").write_bytes(bytes(5 * (1 << 16) // 2))
    told: list[int] = []
    disk.sync_blocks(tmp_path / "f", told.append)
    assert told == [1 << 16, 1 << 16, 1 << 16, 1]
    (tmp_path / "empty").touch()
    disk.sync_blocks(tmp_path / "empty", told.append)
    assert told[4:] == [1]
