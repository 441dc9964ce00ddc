from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import order
from pipelines.errors import DataError


@given(st.integers(0, 2**63), st.integers(0, 10_000), st.integers(1, 2000))
def test_permutation_holds_every_id_once_and_is_pure(seed: int, epoch: int, n: int):
    ids = order.permutation(seed, epoch, n)
    assert ids.dtype == np.int64
    assert np.array_equal(np.sort(ids), np.arange(n))
    assert np.array_equal(ids, order.permutation(seed, epoch, n))


def test_permutation_never_changes():
    """A checkpoint of today must mean the same order in a later version."""
    assert order.permutation(0, 0, 10).tolist() == [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]
    assert order.permutation(42, 7, 10).tolist() == [8, 7, 1, 9, 4, 5, 0, 2, 6, 3]


def test_seeds_and_epochs_give_other_orders():
    orders = {tuple(order.permutation(seed, epoch, 50)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_each_place_is_as_likely_for_each_id():
    counts = np.zeros((8, 8))
    for epoch in range(4000):
        counts[np.arange(8), order.permutation(1, epoch, 8)] += 1
    chi_squared = ((counts - 500) ** 2 / 500).sum()
    assert chi_squared < 100  # 49 degrees of freedom: one in 20,000 is larger


def test_an_imagenet_epoch_is_permuted_in_a_moment():
    begun = time.process_time()
    order.permutation(0, 0, 1_281_167)
    assert time.process_time() - begun < 3


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99), st.integers(0, 30))
def test_any_ranks_and_micro_batches_see_the_same_global_batches(
    world: int, accumulation: int, micro: int, seed: int, tail: int
):
    size = world * accumulation * micro
    n = 3 * size + tail % size
    permuted = order.permutation(seed, 0, n)
    assert order.steps_per_epoch(n, size) == 3
    for step in range(3):
        batch = order.global_batch(permuted, step, size)
        shares = [order.Share(micro, accumulation, rank, world).of(batch) for rank in range(world)]
        assert [len(share) for share in shares] == [accumulation] * world
        at_once = [part for parts in zip(*shares, strict=True) for part in parts]  # all ranks' first, then their second
        assert [position for position, _ in at_once] == list(range(0, size, micro))
        assert np.array_equal(np.concatenate([ids for _, ids in at_once]), permuted[step * size : (step + 1) * size])


@st.composite
def sharded(draw) -> tuple[order.Cursor, np.ndarray, int]:
    """A cursor, the shard of each sample, and a window."""
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    size = draw(st.integers(1, sum(counts)))
    seed, epoch, window = draw(st.integers(0, 2**63)), draw(st.integers(0, 100)), draw(st.integers(1, 14))
    return order.Cursor(seed, epoch, 0, size, ""), np.repeat(np.arange(len(counts)), counts), window


@given(sharded())
def test_windows_hold_every_id_once_and_a_step_looks_no_further_than_its_own(given_):
    cursor, shard_of, window = given_
    n, size = len(shard_of), cursor.global_batch
    ids = order.epoch_order(cursor, shard_of, window)
    assert ids.dtype == np.int64 and np.array_equal(np.sort(ids), np.arange(n))
    assert np.array_equal(ids, order.epoch_order(cursor, shard_of.astype(np.int32), window))
    read_in = order.windows(cursor.seed, cursor.epoch, shard_of[-1] + 1, window)
    assert set(np.bincount(read_in)[:-1]) <= {window} and 0 < np.bincount(read_in)[-1] <= window
    expected = np.sort(read_in[shard_of])  # the window that each place of the epoch belongs to
    for step in range(-(-n // size)):
        batch = order.global_batch(ids, step, size)
        assert np.array_equal(np.sort(read_in[shard_of[batch]]), expected[step * size : (step + 1) * size])
        assert np.all(np.diff(shard_of[batch]) >= 0)


@given(sharded())
def test_one_window_and_no_window_have_the_same_global_batches(given_):
    cursor, shard_of, _ = given_
    plain = order.epoch_order(cursor, shard_of, None)
    assert np.array_equal(plain, order.permutation(cursor.seed, cursor.epoch, len(shard_of)))
    ids, size = order.epoch_order(cursor, shard_of, 12), cursor.global_batch
    for step in range(len(ids) // size):
        assert set(order.global_batch(ids, step, size)) == set(order.global_batch(plain, step, size))


def test_windows_never_change():
    """As for the permutation, which an epoch without them is."""
    shard_of, cursor = np.repeat(np.arange(5), 3), order.Cursor(3, 1, 0, 4, "")
    assert np.array_equal(order.epoch_order(cursor, shard_of, None), order.permutation(3, 1, 15))
    ids = order.epoch_order(cursor, shard_of, 2)
    assert ids.tolist() == [0, 10, 9, 11, 1, 2, 8, 13, 6, 7, 14, 12, 5, 3, 4]


def test_a_rank_needs_its_share_of_a_windows_shards():
    """50 shards of 1,000 samples, 8 at a time, 8 ranks, a batch of 512: all would need 8 shards of each window."""
    shard_of = np.repeat(np.arange(50), 1000)
    cursor = order.Cursor(1, 0, 0, 512, "")
    permuted = order.epoch_order(cursor, shard_of, 8)
    read_in = order.windows(1, 0, 50, 8)
    rank = order.Share(64, rank=3, world=8)
    shares = [ids for step in range(97) for _, ids in rank.of(order.global_batch(permuted, step, 512))]
    needed = set(shard_of[np.concatenate(shares)].tolist())
    assert len(needed) / (read_in.max() + 1) < 4


def test_the_tail_left_out_is_another_one_each_epoch():
    tails = {tuple(sorted(order.permutation(0, epoch, 103)[100:])) for epoch in range(5)}
    assert len(tails) == 5


@given(st.integers(0, 500), st.integers(1, 9))
def test_evaluation_takes_each_sample_exactly_once(n: int, world: int):
    shares = [order.validation_share(n, rank, world) for rank in range(world)]
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 60))
def test_cursor_counts_steps_into_epochs(n: int, size: int, steps: int):
    if n < size:
        with pytest.raises(DataError, match=f"{n} training samples do not fill a global batch of {size}"):
            order.steps_per_epoch(n, size)
        return
    cursor = order.Cursor(0, 0, 0, size, "abc")
    for _ in range(steps):
        cursor = cursor.advance(n)
    assert (cursor.epoch, cursor.step) == divmod(steps, n // size)


def test_cursor_survives_saving_and_refuses_other_data():
    cursor = order.Cursor(3, 1, 4, 15, "9" * 64)
    assert order.Cursor.from_dict(cursor.to_dict()) == cursor
    cursor.check("9" * 64)
    with pytest.raises(DataError, match="training data has digest 222222222222, the checkpoint .* 999999999999"):
        cursor.check("2" * 64)


@pytest.mark.parametrize(("world", "micro"), [(3, 1), (1, 4), (2, 3)])
def test_what_does_not_divide_is_refused(world: int, micro: int):
    with pytest.raises(DataError, match=f"10 is not {world} ranks x 2 micro-batches of {micro}; choose"):
        order.Share(micro, 2, 0, world).of(np.arange(10))
