"""What is used of ffcv: a file is written by it and read back, sample by sample, by the tables alone."""

from __future__ import annotations

import multiprocessing
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("ffcv", reason="ffcv is not installed (.ci/install.sh)")

from pipelines.errors import DataError
from pipelines.store import ffcv_adapter as adapter

COUNT = adapter.CHUNK + 30


class Pictures:
    """Each of its own numbers and label."""

    def __init__(self, shape: tuple[int, ...] | None) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> tuple[NDArray[np.uint8], int]:
        shape = self.shape or (5 + i,)
        return np.random.default_rng(i).integers(0, 256, shape).astype(np.uint8), i % 7


def written(path: Path, pictures: Pictures, field: Any) -> Path:
    """By one process, which is this one."""
    writer = adapter.FileWriter(path, pictures, field=field, largest=4000, processes=1)
    with writer.prepared():
        todo: queue.Queue[Any] = queue.Queue()
        told: queue.Queue[Any] = queue.Queue()
        done = multiprocessing.Value("Q", 0)
        chunks = list(writer.chunks())
        assert [len(chunk) for chunk in chunks] == [adapter.CHUNK, 30]
        for chunk in [*chunks, None]:
            todo.put(chunk)
        writer.work(todo, done, told)
        assert done.value == COUNT
        writer.finish([told.get()])
    return path


def content(path: Path, table: adapter.Table, i: int) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        file.seek(int(table.first[i]))
        return np.frombuffer(file.read(int(table.size[i])), np.uint8)


def test_files_lie_where_their_table_says(tmp_path: Path) -> None:
    pictures = Pictures(None)
    table = adapter.table_of_files(path := written(tmp_path / "a.beton", pictures, adapter.field_of_files()))
    assert table.sides is None and table.size.tolist() == [5 + i for i in range(COUNT)]
    assert table.labels.tolist() == [i % 7 for i in range(COUNT)]
    assert all(np.array_equal(content(path, table, i), pictures[i][0]) for i in range(COUNT))


def test_pixels_of_one_size(tmp_path: Path) -> None:
    shape, pictures = (1, 6, 5), Pictures((1, 6, 5))
    path = written(tmp_path / "a.beton", pictures, adapter.field_of_pixels(shape, None))
    table = adapter.table_of_pixels(path, shape)
    assert table.sides is None and set(table.size.tolist()) == {30}
    assert all(np.array_equal(content(path, table, i), pictures[i][0].reshape(-1)) for i in range(COUNT))


def test_pixels_of_every_pictures_own_size(tmp_path: Path) -> None:
    pictures = Pictures((20, 30, 3))
    path = written(tmp_path / "a.beton", pictures, adapter.field_of_pixels((3, 0, 0), 15))
    table = adapter.table_of_pixels(path, (3, 0, 0))
    assert table.sides is not None and set(map(tuple, table.sides.tolist())) == {(10, 15)}  # brought down
    assert set(table.size.tolist()) == {3 * 10 * 15} and len(set(table.first.tolist())) == COUNT


def test_a_page_holds_the_largest_sample(tmp_path: Path) -> None:
    for largest, page in ((10, adapter.PAGE), (adapter.PAGE, adapter.PAGE), (adapter.PAGE + 1, 2 * adapter.PAGE)):
        field = adapter.field_of_files()
        writer = adapter.FileWriter(tmp_path / "a.beton", Pictures(None), field=field, largest=largest, processes=1)
        assert writer.page == page


def test_where_it_is_missing_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert adapter.installed().__name__ == "ffcv"
    monkeypatch.setitem(sys.modules, "ffcv.reader", None)
    monkeypatch.delattr(sys.modules["ffcv"], "reader", raising=False)
    with pytest.raises(DataError, match="^ffcv does not import .*; run make ffcv in the project's folder$") as error:
        adapter.installed()
    assert "\n" not in str(error.value)
