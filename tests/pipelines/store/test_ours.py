"""What is ours in a folder of shards, name by name; all else stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.store import ours
from pipelines.store.index import INDEX, TABLE

SHARDS = {f"test-00000{i}.tar" for i in range(4)}
OTHERS = [
    "test-000009.tar",  # of no index
    ".test.beton.0a1b2c3d.tmp.old",
    ".train.beton.0a1b2c3d.tmp",
    ".test.beton.0a1b2c3g.tmp",
    "test.beton",  # without its checksums
    "notes.txt",
]
LEFT = [".test.beton.0a1b2c3d.tmp", ".test.beton.0a1b2c3d.tmp.npz", ".test.beton.whole.0a1b2c3d.tmp"]


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("x")


def test_a_whole_folder_is_ours_but_for_what_others_put_there(copy: Path) -> None:
    assert ours.names(copy, "test") == SHARDS | {INDEX, TABLE}
    ours.check(copy, "test")
    put(copy, *LEFT)
    assert ours.names(copy, "test") == SHARDS | {INDEX, TABLE, *LEFT}
    assert sorted(path.name for path in ours.unfinished(copy, "test")) == sorted(LEFT)
    ours.check(copy, "test")
    put(copy, *OTHERS)
    (copy / "test-000003.tar").rename(copy / "there.tar")
    (copy / "test-000003.tar").symlink_to("there.tar")  # where a shard was
    with pytest.raises(
        DataError, match=r"holds .test.beton.0a1b2c3d.tmp.old and 7 more, not written by tdformer; move"
    ):
        ours.check(copy, "test")
    ours.remove(copy, "test")
    assert {path.name for path in copy.iterdir()} == {*OTHERS, "there.tar", "test-000003.tar"}


def test_a_folder_goes_with_the_last_of_ours(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy)
    ours.remove(tmp_path / "link", "test")
    ours.remove(tmp_path / "nowhere", "test")
    assert ours.names(copy, "test") == SHARDS | {INDEX, TABLE}
    ours.remove(copy, "test")
    assert not copy.exists()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no index": lambda folder: (folder / INDEX).unlink(),
    "half an index": lambda folder: (folder / INDEX).write_bytes((folder / INDEX).read_bytes()[:50]),
    "a deep index": lambda folder: (folder / INDEX).write_text("[" * 100_000),
    "a list": lambda folder: (folder / INDEX).write_text("[]"),
    "no table": lambda folder: (folder / TABLE).unlink(),
    "half a table": lambda folder: (folder / TABLE).write_bytes((folder / TABLE).read_bytes()[:50]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_either_file_of_the_index_tells(copy: Path, damage: str) -> None:
    DAMAGES[damage](copy)
    assert ours.names(copy, "test") == SHARDS | {path.name for path in copy.iterdir()}
    assert ours.facts(copy) is not None


def test_without_both_nothing_is_ours(copy: Path) -> None:
    (copy / INDEX).write_text(json.dumps({"dataset": "digits", "split": "test"}))  # as others have it, too
    (copy / TABLE).write_bytes(b"PK")
    assert ours.facts(copy) is None and ours.names(copy, "test") == set()
    with pytest.raises(DataError, match="holds index.json and 5 more"):
        ours.check(copy, "test")
    ours.remove(copy, "test")
    assert len(list(copy.iterdir())) == 6


def test_a_copy_is_ours_by_its_checksums_and_the_note_by_its_keys(copy: Path) -> None:
    beton, note = copy / "test.beton", copy / ".test.beton.whole"
    beton.write_text("x")
    np.savez(copy / "test.beton.npz", digest=np.zeros(1))
    note.write_text('{"inode": 1, "bytes": 1, "changed": 1, "more": 1}')
    assert not ours.has_copy(beton) and not ours.is_note(note)
    assert ours.names(copy, "test") == SHARDS | {INDEX, TABLE}
    np.savez(copy / "test.beton.npz", **dict.fromkeys(ours.COPY, np.zeros(1)))
    note.write_text('{"inode": 1, "bytes": 1, "changed": 1}')
    assert ours.has_copy(beton) and ours.is_note(note)
    assert ours.names(copy, "test") == SHARDS | {INDEX, TABLE, "test.beton", "test.beton.npz", ".test.beton.whole"}


def test_a_file_or_a_link_in_the_place_is_in_the_way(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(copy)
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("file", "is a file that tdformer did not write"),
        ("link", "is a link, which is not replaced"),
    ):
        with pytest.raises(DataError, match=message):
            ours.check(tmp_path / name, "test")
    ours.check(tmp_path / "empty", "test")
    ours.check(tmp_path / "nowhere", "test")
