"""Damaged training samples: others stand in for them, the same ones on any ranks, workers and after a resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from global_batches import global_batches, same
from hypothesis import given
from hypothesis import strategies as st

from pipelines import order
from pipelines.errors import DataError
from pipelines.loader import Batch, eval_loader, train_loader
from pipelines.stand_in import StandIns
from pipelines.store.tars import TarDataset


def damage(data: TarDataset, ids: list[int]) -> None:
    for i in ids:
        path = data.paths[int(data.table["shard"][i])]
        content = bytearray(path.read_bytes())
        content[int(data.table["offset"][i]) + int(data.table["size"][i]) // 2] ^= 0xFF
        path.write_bytes(content)


def epoch(data: TarDataset, at: order.Cursor, world: int = 1, workers: int = 0) -> list[Batch]:
    return global_batches(data, at, world, workers=workers, skip=True)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 49), st.frozensets(st.integers(0, 49), max_size=30))
def test_stand_ins_are_a_pure_function_and_never_known_to_be_damaged(seed: int, at: int, i: int, bad: frozenset[int]):
    shard_of = np.arange(50) // 20
    found = list(StandIns(seed, shard_of, bad).of(at, i))
    assert found == list(StandIns(seed, shard_of, bad).of(at, i))
    assert not bad.intersection(found) and (i in bad or found[0] == i) and i not in found[1:]
    assert all(shard_of[other] == shard_of[i] for other in found)


def test_other_samples_stand_in_on_any_ranks_and_workers(copy: Path):
    data, bad = TarDataset(copy), [3, 77, 200, 301]
    damage(data, bad)
    at = order.Cursor(0, 0, 0, 60, data.digest)
    whole = epoch(data, at)
    assert sorted(i for batch in whole for i in batch.damaged) == bad
    assert all("is damaged (checksum)" in line for batch in whole for line in batch.damaged.values())
    asked = order.permutation(0, 0, len(data)).reshape(-1, 60)
    for batch, wanted in zip(whole, asked, strict=True):
        kept = ~np.isin(wanted, bad)
        assert (batch.ids.numpy()[kept] == wanted[kept]).all() and not np.isin(batch.ids.numpy(), bad).any()
        assert (batch.labels.numpy() == data.labels[batch.ids.numpy()]).all()
    for world, workers in ((3, 0), (2, 2)):
        assert same(epoch(data, at, world, workers), whole)


def test_what_was_found_is_passed_over_after_a_resume_even_when_it_was_mended(copy: Path, written: Path):
    data, bad = TarDataset(copy), [3, 77, 200, 301]
    damage(data, bad)
    at = order.Cursor(0, 0, 0, 60, data.digest)
    whole = epoch(data, at)
    found = tuple(sorted(i for batch in whole for i in batch.damaged))
    later = replace(at, step=2, damaged=found)
    assert order.Cursor.from_dict(later.to_dict()) == later
    mended = TarDataset(written)
    resumed = epoch(mended, later, 2)
    assert same(resumed, whole[2:])
    assert not any(batch.damaged for batch in resumed)


def test_without_skip_and_in_evaluation_it_is_an_error(copy: Path):
    data = TarDataset(copy)
    damage(data, [5])
    at = order.Cursor(0, 0, 0, 60, data.digest)
    with pytest.raises(DataError, match="sample 5 is damaged"):
        list(train_loader(data, at, order.Share(60)))
    with pytest.raises(DataError, match="sample 5 is damaged"):
        list(eval_loader(data, rank=0, world=1, batch_size=60, workers=0))


def test_nothing_that_can_be_read_is_an_error(copy: Path):
    data = TarDataset(copy)
    for path in data.paths:
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="neither sample .* nor any of those drawn from its shard can be read"):
        epoch(data, order.Cursor(0, 0, 0, 60, data.digest))
