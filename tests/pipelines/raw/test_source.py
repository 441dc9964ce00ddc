"""A data set where its raw files are: splits, the order and the marks of samples, and what cannot be read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.raw.source import Dataset, Source, mark_of, mixed, readable


@dataclass(frozen=True)
class Lines(Dataset):
    """A data set that opens a file of lines."""

    def _open(self, split: str, source: Path | None) -> Source:
        assert source is not None
        (source / f"{split}.txt").read_text()
        raise NotImplementedError


LINES = Lines("lines", (1, 2, 2), (0.5,), (0.5,), splits=("train", "val"))


def test_only_a_split_that_there_is_is_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="^lines has no split 'test'; choose one of train, val$"):
        LINES.open("test", tmp_path)
    with pytest.raises(DataError, match="train.txt cannot be read .No such file or directory.; fix the source$"):
        LINES.open("train", tmp_path)
    with pytest.raises(DataError, match="--val-share is of a folder that is not split, and lines has a test set"):
        LINES.held_back(0.1)


def test_an_error_without_a_name_is_of_the_place() -> None:
    message = "^/data cannot be read .Input/output error.; fix the source$"
    with pytest.raises(DataError, match=message), readable(Path("/data")):
        raise OSError(5, os.strerror(5))
    with pytest.raises(ZeroDivisionError), readable(None):  # no error of a file
        raise ZeroDivisionError


def test_samples_are_mixed_and_always_alike() -> None:
    order = mixed(100)
    assert sorted(order.tolist()) == list(range(100)) and order.tolist() != list(range(100))
    assert np.array_equal(order, mixed(100))
    assert mixed(8).tolist() == [1, 0, 4, 5, 3, 6, 2, 7]  # shards that are there were written in it
    assert mixed(0).tolist() == []


def test_a_mark_changes_with_the_file_and_its_label(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    marks = {mark_of(path, 1)}  # it is not there: whoever reads it says so
    path.write_bytes(b"abc")
    marks.add(mark_of(path, 1))
    assert mark_of(path, 1) in marks
    marks.add(mark_of(path, 2))
    path.write_bytes(b"abcd")
    os.utime(path, ns=(0, 10**9))
    marks.add(mark_of(path, 1))
    path.write_bytes(b"abce")
    os.utime(path, ns=(0, 10**9 + 1))
    marks.add(mark_of(path, 1))
    assert len(marks) == 5
