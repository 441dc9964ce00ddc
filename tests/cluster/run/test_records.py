"""Files that are there whole or not at all: rows, and what replaces a file."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.errors import RunError
from cluster.run.folder import RunFolder
from cluster.run.records import Rows, appears, write_atomic


def test_rows_keep_order_and_every_digit(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    rows.append({"b": 0.1 + 0.2, "a": np.float32(0.1), "t": torch.tensor(3), "n": float("nan"), "l": [1, None]})
    text = '{"b": 0.30000000000000004, "a": 0.10000000149011612, "t": 3, "n": null, "l": [1, null]}\n'
    assert rows.path.read_text() == text
    assert rows.size() == len(text)
    rows.sync()


def test_rows_go_back_to_a_size(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    rows.truncate(0)
    rows.append({"step": 1})
    rows.sync()
    size = rows.size()
    rows.append({"step": 2})
    with rows.path.open("a") as f:
        f.write('{"step": 3, "lo')  # killed while writing
    assert rows.read() == [{"step": 1}, {"step": 2}]
    rows.truncate(size)
    assert rows.read() == [{"step": 1}]
    with pytest.raises(RunError, match=f"has {size} bytes"):
        rows.truncate(size + 1)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"), RunFolder(tmp_path / "file" / "run").lock():
        pass


def test_an_atomic_write_replaces_and_leaves_nothing_else(tmp_path):
    for content in (b"old", b"new"):
        write_atomic(tmp_path / "f", content)
        assert (tmp_path / "f").read_bytes() == content
    (tmp_path / "d").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        write_atomic(tmp_path / "d", b"a folder is in the way")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "f"]


def test_a_file_of_another_host_comes_into_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        time.sleep(0.5)
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "launch.yaml").touch()

    writer = threading.Thread(target=write)
    writer.start()
    assert appears(tmp_path / "run" / "launch.yaml")
    writer.join()
    monkeypatch.setattr("cluster.run.records.PATIENCE", 0.5)
    assert not appears(tmp_path / "run" / "other")
