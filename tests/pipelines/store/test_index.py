"""The index: every fact is under a digest, older ones are read, and none leads out of its folder."""

from __future__ import annotations

import copy as copies
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import index_files
import numpy as np
import pytest

from pipelines import order
from pipelines.errors import DataError
from pipelines.store import index
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset

FREE = {"digest", "table"}
"""The digest; and how index.npz is fetched, whose content has a digest of its own."""


def leaves(facts: Any) -> Iterator[tuple[Any, ...]]:
    """The path to each single value."""
    children = facts.items() if isinstance(facts, dict) else enumerate(facts) if isinstance(facts, list) else ()
    for key, value in children:
        nested = [(key, *rest) for rest in leaves(value)]
        yield from nested or [(key,)]


def another(value: Any) -> Any:
    return value[:-1] + chr(ord(value[-1]) ^ 1) if isinstance(value, str) else value + 2**-10


def test_every_single_fact_is_under_the_digest(copy: Path) -> None:
    path = copy / index.INDEX
    facts = json.loads(path.read_text())
    places = [place for place in leaves(facts) if place[0] not in FREE]
    assert {"class_names", "shape", "mean", "std", "count", "dataset", "split", "shards"} < {p[0] for p in places}
    for place in places:
        changed = copies.deepcopy(facts)
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = another(inner[place[-1]])
        path.write_text(json.dumps(changed))
        with pytest.raises(DataError, match=r"is damaged \(its digest is another\)|has format") as error:
            shards.verify(copy)
        assert "\n" not in str(error.value)
    path.write_text(json.dumps(facts))
    assert shards.verify(copy) == 360


def test_an_index_of_format_2_is_read_with_one_line(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    new = TarDataset(copy)
    index_files.make_old(copy)
    with caplog.at_level(logging.WARNING):
        old, _ = TarDataset(copy), TarDataset(copy)
    (line,) = caplog.messages
    assert "index.json has format 2" in line and "have no digest; write the shards again" in line and "\n" not in line
    assert old.digest == old.columns == new.columns != new.digest
    assert [old.read(i) for i in range(360)] == [new.read(i) for i in range(360)]


def test_a_cursor_of_format_2_counts_on_in_the_same_data_of_format_3(data: TarDataset) -> None:
    old = order.Cursor(3, 1, 4, 15, data.columns)
    assert old.check(data.digest, data.columns) == order.Cursor(3, 1, 4, 15, data.digest)
    with pytest.raises(DataError, match="training data has digest"):
        order.Cursor(3, 1, 4, 15, data.digest).check(data.columns, data.columns)


@pytest.mark.parametrize("name", ["../test-000000.tar", "/etc/passwd", "a/b", "..", ".", "", "x\0y", "x\ny"])
def test_a_shard_is_a_plain_file_of_the_folder(copy: Path, name: str) -> None:
    facts = json.loads((copy / index.INDEX).read_text())["shards"]
    index_files.edit(copy, shards=[*facts[:2], facts[2] | {"name": name}, *facts[3:]])
    with pytest.raises(DataError, match="which is no file's name") as error:
        TarDataset(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("label", 10, "has label 10, outside 0..9"),
        ("label", -1, "has label -1, outside 0..9"),
        ("shard", 4, "lies in no shard"),
        ("shard", -1, "lies in no shard"),
        ("offset", -1, "lies outside test-000000.tar"),
        ("offset", 2**62, "lies outside test-000000.tar"),
        ("size", -1, "lies outside test-000000.tar"),
        ("size", 2**62, "lies outside test-000000.tar"),
        ("height", 0, "has 0 x 8 pixels"),
        ("width", 2**30, f"has 8 x {2**30} pixels"),
    ],
)
def test_a_sample_lies_in_its_shard(copy: Path, column: str, value: int, says: str) -> None:
    """Of an index that is right in itself, as a stranger's can be."""
    with np.load(copy / index.TABLE) as table:
        columns = dict(table)
    columns[column][7] = value
    np.savez(copy / index.TABLE, allow_pickle=False, **columns)
    index_files.edit(copy, columns=index.table_digest(columns))
    with pytest.raises(DataError, match=f"sample 7 {says}"):
        TarDataset(copy)


def test_labels_are_numbered_by_the_names_of_another_split(copy: Path) -> None:
    data, before = TarDataset(copy), TarDataset(copy)
    turned = [*data.class_names[3:], *data.class_names[:3]]
    data.number_as(turned, "train")
    assert data.class_names == turned and data.digest == before.digest
    assert [turned[i] for i in data.labels] == [before.class_names[i] for i in before.labels]
    with pytest.raises(DataError, match=r"has other classes than train: 'ten' is missing"):
        before.number_as([*turned, "ten"], "train")


def test_a_share_has_the_same_samples_as_those_of_the_larger_share(copy: Path) -> None:
    whole, half, tenth = TarDataset(copy), TarDataset(copy), TarDataset(copy)
    half.keep(0.5)
    tenth.keep(0.1)
    assert (len(half), len(tenth)) == (len(whole) // 2, len(whole) // 10)
    offsets = [
        {*zip(data.shard_of.tolist(), data.table["offset"].tolist(), strict=True)} for data in (tenth, half, whole)
    ]
    assert offsets[0] < offsets[1] < offsets[2]
    assert len({data.digest for data in (whole, half, tenth)}) == 3
    place = [*zip(whole.shard_of, whole.table["offset"], strict=True)].index(
        (half.shard_of[7], half.table["offset"][7])
    )
    assert np.array_equal(half.image(7), whole.image(place)) and half.labels[7] == whole.labels[place]
    with pytest.raises(DataError, match="a share of 0.001 of the 36 samples in .* has none"):
        tenth.keep(0.001)
