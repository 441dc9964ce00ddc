from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.draws import Stream
from pipelines.errors import DataError
from pipelines.events import Events
from pipelines.views.frames import OPERATIONS, EventAugment, integrate


def events_of(rows: list[tuple[int, int, int, int]], height: int = 6, width: int = 8) -> Events:
    """Rows of t, x, y, p."""
    t, x, y, p = np.array(rows, np.int64).reshape(-1, 4).T
    return Events(t, x.astype(np.int16), y.astype(np.int16), p.astype(np.uint8), height, width)


@st.composite
def recordings(draw: st.DrawFn) -> Events:
    n, height, width = draw(st.integers(1, 300)), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    t = draw(st.integers(-(2**40), 2**40)) + np.cumsum(rng.integers(0, draw(st.integers(1, 2**20)), n))
    x, y, p = (rng.integers(0, top, n) for top in (width, height, 2))
    return Events(t, x.astype(np.int16), y.astype(np.int16), p.astype(np.uint8), height, width)


def counted_one_by_one(events: Events, steps: np.ndarray, time_steps: int, size: tuple[int, int]) -> np.ndarray:
    """The definition, event by event: a cell of the grid counts the pixels whose position falls into it."""
    height, width = size
    counts = np.zeros((time_steps, 2, height, width), int)
    for step, x, y, p in zip(steps.tolist(), events.x.tolist(), events.y.tolist(), events.p.tolist(), strict=True):
        counts[step, p, y * height // events.height, x * width // events.width] += 1
    return counts


@settings(max_examples=150)
@given(recordings(), st.integers(1, 20), st.data())
def test_by_count_every_step_has_its_share_and_no_event_is_lost(events, time_steps, data):
    size = (data.draw(st.integers(1, events.height)), data.draw(st.integers(1, events.width)))
    counts = integrate(events, time_steps, "count", size)
    assert counts.shape == (time_steps, 2, *size) and counts.dtype == np.int16
    shares = counts.sum((1, 2, 3))
    assert shares.sum() == len(events) and np.ptp(shares) <= 1
    order = np.repeat(np.arange(time_steps), shares)  # the shares are consecutive in time
    assert np.array_equal(counts, counted_one_by_one(events, order, time_steps, size))


@settings(max_examples=150)
@given(recordings(), st.integers(1, 20), st.data())
def test_by_time_every_step_has_its_duration_and_no_event_is_lost(events, time_steps, data):
    size = (data.draw(st.integers(1, events.height)), data.draw(st.integers(1, events.width)))
    counts = integrate(events, time_steps, "time", size)
    assert counts.sum() == len(events)
    first, duration = int(events.t[0]), int(events.t[-1]) - int(events.t[0]) + 1
    steps = np.array([(int(t) - first) * time_steps // duration for t in events.t])
    assert np.array_equal(counts, counted_one_by_one(events, steps, time_steps, size))


def test_by_count_and_by_time_on_a_recording_that_pauses():
    events = events_of([(0, 0, 0, 0), (1, 1, 0, 1), (2, 2, 0, 0), (99, 3, 0, 1)])
    by_count, by_time = integrate(events, 2), integrate(events, 2, "time")
    assert by_count.sum((1, 2, 3)).tolist() == [2, 2] and by_time.sum((1, 2, 3)).tolist() == [3, 1]
    # channel 0 is OFF, channel 1 is ON; rows are y, columns x
    assert np.argwhere(by_time).tolist() == [[0, 0, 0, 0], [0, 0, 0, 2], [0, 1, 0, 1], [1, 1, 0, 3]]


def test_a_smaller_grid_sums_its_pixels():
    events = events_of([(i, i % 8, i // 8, i % 2) for i in range(48)])
    whole, half = integrate(events, 3), integrate(events, 3, size=(3, 4))
    assert np.array_equal(half, whole.reshape(3, 2, 3, 2, 4, 2).sum((3, 5)))


def test_fewer_events_than_steps_and_all_at_one_time():
    events = events_of([(7, 1, 1, 1)] * 3)
    assert integrate(events, 5).sum((1, 2, 3)).tolist() == [1, 1, 0, 1, 0]
    assert integrate(events, 5, "time").sum((1, 2, 3)).tolist() == [3, 0, 0, 0, 0]


def test_a_count_that_does_not_fit_is_an_error_and_the_largest_is_not():
    largest = np.iinfo(np.int16).max
    assert integrate(events_of([(0, 1, 1, 1)] * largest), 1)[0, 1, 1, 1] == largest
    with pytest.raises(DataError, match="32768 events at one pixel.*more time steps"):
        integrate(events_of([(0, 1, 1, 1)] * (largest + 1)), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"events": events_of([])}, "no events"),
        ({"time_steps": 0}, "cannot integrate into 0 steps"),
        ({"by": "number"}, "by 'number'; choose"),
        ({"size": (7, 8)}, "7 x 8 is no size for events of 6 x 8"),
        ({"size": (6, 0)}, "6 x 0 is no size"),
    ],
)
def test_integrate_faults(change, message):
    asked = {"events": events_of([(0, 0, 0, 0)]), "time_steps": 4, "by": "count", "size": None} | change
    with pytest.raises(DataError, match=message) as error:
        integrate(**asked)
    assert "; " in str(error.value) and "\n" not in str(error.value)


# Augmentation

FRAMES = np.arange(1, 1 + 3 * 2 * 11 * 11, dtype=np.int16).reshape(3, 2, 11, 11)
OFF = EventAugment(flip=0.0, shear=0.0, translate=0, rotate=0.0, cutout=0.0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch):
    """Chooses the operation and its magnitude; no flip."""

    def choose(operation: str, magnitude: float, top: float = 0.0, left: float = 0.0) -> None:
        draws = np.array([0.99, (OPERATIONS.index(operation) + 0.5) / len(OPERATIONS), magnitude, top, left])

        class Drawn:
            def random(self, n: int) -> np.ndarray:
                assert n == len(draws)
                return draws

        monkeypatch.setattr(Stream, "rng", lambda *key: Drawn())

    return choose


def test_draws_depend_on_seed_epoch_and_sample_alone():
    a, b = EventAugment(seed=1), EventAugment(seed=1)
    keys = [(epoch, i) for epoch in range(3) for i in range(30)]
    forward = {key: a(FRAMES, *key).tobytes() for key in keys}
    assert {key: b(FRAMES, *key).tobytes() for key in reversed(keys)} == forward
    assert len(set(forward.values())) > 45
    assert {key: EventAugment(seed=2)(FRAMES, *key).tobytes() for key in keys} != forward


def test_shape_and_type_stay_and_the_source_is_never_written():
    before = FRAMES.copy()
    for i in range(100):
        augmented = EventAugment()(FRAMES, 0, i)
        assert augmented.shape == FRAMES.shape and augmented.dtype == np.int16 and augmented.flags.c_contiguous
    assert np.array_equal(FRAMES, before)
    assert all(np.array_equal(OFF(FRAMES, 0, i), FRAMES) for i in range(50))


def test_all_time_steps_and_polarities_are_moved_alike():
    """A picture of the positions, repeated: it must stay the same in all steps and channels."""
    positions = np.broadcast_to(np.arange(1, 122, dtype=np.int16).reshape(11, 11), (3, 2, 11, 11))
    for i in range(100):
        augmented = EventAugment()(positions, 0, i)
        assert (augmented == augmented[0, 0]).all()


@pytest.mark.parametrize(
    ("magnitude", "share"),
    [({"shear": 1.0}, 1 / 6), ({"translate": 50}, 2 / 6), ({"rotate": 180.0}, 1 / 6), ({"cutout": 0.5}, 1 / 6)],
)
def test_every_operation_is_as_likely(magnitude, share):
    augment = replace(OFF, **magnitude)
    changed = sum(not np.array_equal(augment(FRAMES, 0, i), FRAMES) for i in range(2000))
    assert abs(changed / 2000 - share) < 0.04


@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_flip_happens_as_often_as_asked(flip):
    augment = EventAugment(flip=flip, shear=0.0, translate=0, rotate=0.0, cutout=0.0)
    results = [augment(FRAMES, 0, i) for i in range(1000)]
    flipped = sum(np.array_equal(x, FRAMES[..., ::-1]) for x in results)
    assert flipped + sum(np.array_equal(x, FRAMES) for x in results) == 1000
    assert abs(flipped / 1000 - flip) < 0.05


@pytest.mark.parametrize("turns", [-1, 1])
def test_rotation_by_a_right_angle_is_exact(drawn, turns):
    drawn("rotate", (1 + turns) / 2)
    turned = EventAugment(rotate=90.0)(FRAMES, 0, 0)
    assert np.array_equal(turned, np.rot90(FRAMES, turns, (-2, -1)))


def test_rotation_takes_each_pixel_from_the_nearest_one(drawn):
    """A picture of positions, compared with the turn as a complex number."""
    drawn("rotate", 0.9)
    rows, columns = np.indices((31, 31))
    picture = np.broadcast_to((rows * 31 + columns + 1).astype(np.int16), (1, 2, 31, 31))
    turned = EventAugment(rotate=30.0)(picture, 0, 0)[0, 0]
    angle = np.radians(24.0)  # (2 x 0.9 - 1) x 30 degrees
    for row, column in zip(*np.nonzero(turned), strict=True):
        source_row, source_column = divmod(int(turned[row, column]) - 1, 31)
        source = (source_column - 15) - 1j * (source_row - 15)  # rows count downwards
        assert abs(source * np.exp(1j * angle) - ((column - 15) - 1j * (row - 15))) < 0.71  # half a pixel's diagonal
    assert (turned == 0).any() and (turned > 0).mean() > 0.75


def test_shear_moves_rows_by_the_tangent_and_leaves_the_middle_row(drawn):
    drawn("shear", 1.0)
    sheared = EventAugment(shear=np.pi / 4)(FRAMES, 0, 0)
    for row in range(11):
        by = row - 5
        expected = np.zeros_like(FRAMES[..., row, :])
        expected[..., max(0, by) : 11 + min(0, by)] = FRAMES[..., row, max(0, -by) : 11 - max(0, by)]
        assert np.array_equal(sheared[..., row, :], expected)


@pytest.mark.parametrize(("operation", "axis"), [("translate_x", -1), ("translate_y", -2)])
def test_translation_moves_by_every_shift_and_fills_with_nothing(drawn, operation, axis):
    expected = {}
    for shift in range(-2, 3):
        moved = np.roll(FRAMES, shift, axis)
        gone = slice(0, shift) if shift > 0 else slice(11 + shift, 11)
        moved[(Ellipsis, gone) if axis == -1 else (Ellipsis, gone, slice(None))] = 0
        expected[moved.tobytes()] = shift
    seen = []
    for magnitude in (0.0, 0.19, 0.2, 0.5, 0.79, 0.99):
        drawn(operation, magnitude)
        seen.append(expected[EventAugment(translate=2)(FRAMES, 0, 0).tobytes()])
    assert seen == [-2, -2, -1, 0, 1, 2]


def test_cutout_blanks_one_square_of_the_share_asked_for(drawn):
    picture = np.ones((2, 2, 40, 40), np.int16)
    for magnitude, top, left, side in [(0.0, 0.0, 0.0, 1), (0.999, 0.999, 0.5, 13), (0.5, 0.0, 0.999, 9)]:
        drawn("cutout", magnitude, top, left)
        blank = EventAugment()(picture, 0, 0) == 0
        rows, columns = blank[0, 0].any(1), blank[0, 0].any(0)
        assert np.array_equal(blank, np.broadcast_to(np.outer(rows, columns), blank.shape))
        assert rows.sum() == columns.sum() == side
        assert np.flatnonzero(rows)[0] == int(top * (41 - side))
        assert np.flatnonzero(columns)[0] == int(left * (41 - side))


def test_magnitudes_stay_within_what_is_asked():
    """Through the real draws: nothing moves further than translate, no blank is larger than cutout."""
    picture = np.zeros((1, 2, 41, 41), np.int16)
    picture[..., 20, 20] = 1  # the centre, which neither rotation nor shear moves
    distances = set()
    for i in range(1500):
        where = np.argwhere(EventAugment(flip=0.0, cutout=0.0)(picture, 0, i)[0, 0]) - 20
        assert len(where) == 1 and not where.all()
        distances.add(int(where.sum()))
    assert distances == set(range(-5, 6))
