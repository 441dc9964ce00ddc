"""The table of random streams: no two draw the same numbers in one run, and nothing draws beside the table."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import pipelines
from pipelines import draws
from pipelines.draws import Stream

STREAMS = {name: stream for name, stream in vars(draws).items() if isinstance(stream, Stream)}
WORDS = [stream.word for stream in STREAMS.values() if stream.word is not None]
HALF = 1 << 32
SEEDS = [*range(4), 42, HALF - 1, HALF, HALF + 1, 2**63 - 1, *(w << 32 for w in WORDS), *(w | w << 32 for w in WORDS)]
SMALL = range(4)
"""Epochs, steps, samples, pairs, kinds and severities that are compared; their words are far below any stream's."""


def meetings(seed: int) -> set[frozenset[tuple[str, tuple[int, ...]]]]:
    """The keys of a run that lead to the same draws, by what numpy makes of them."""
    found = defaultdict(set)
    for name, stream in STREAMS.items():
        values = [[seed] if part == "seed" else [0] if part == "zero" else SMALL for part in stream.parts]
        for key in product(*values):
            state = np.random.SeedSequence(stream.key(*key)).generate_state(4, np.uint64)
            found[state.tobytes()].add((name, key))
    return {frozenset(keys) for keys in found.values() if len(keys) > 1}


@pytest.mark.parametrize("seed", [*SEEDS, *WORDS])
def test_no_two_streams_meet_in_a_run(seed: int) -> None:
    """But those two, whose keys are older than the table: what they draw may not change. A seed that is a word of what
    orders shards when they are written gives the first epoch that order too."""
    written = {(name, (0,)) for name, stream in STREAMS.items() if stream.parts == ("zero",) and stream.word == seed}
    assert meetings(seed) == {
        frozenset({("ORDER", (seed, epoch)), ("AUGMENT", (seed, epoch, 0)), *(written if epoch == 0 else ())})
        for epoch in SMALL
    }


def test_words_are_of_one_stream_each() -> None:
    assert len(WORDS) == len(set(WORDS)) == len(STREAMS) - 2
    assert min(WORDS) > 300_000  # more than any epoch, so that no epoch is taken for one


def test_draws_never_change() -> None:
    """Or runs could not go on, and shards not be written again. The first 24 bits of each stream."""
    first = {name: int(stream.raw(1, *range(len(stream.parts)))[0] >> 40) for name, stream in STREAMS.items()}
    assert first == {
        "ORDER": 10189910,
        "AUGMENT": 13256930,
        "SHARDS": 9829687,
        "CROP": 8719935,
        "STAND_IN": 8325204,
        "MIX": 15114985,
        "CORRUPT": 196843,
        "PICTURES": 4057511,
        "RECORDINGS": 4685087,
        "SHARE": 12858816,
        "NULL": 6082901,
    }


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_a_key_has_all_its_parts(stream: Stream) -> None:
    right = (3,) * len(stream.parts)
    assert stream.rng(*right).random() == stream.rng(*right).random()
    for wrong in (right[1:], (*right, 0)):
        with pytest.raises(ValueError, match="a key of "):
            stream.rng(*wrong)


def test_nothing_draws_beside_the_table() -> None:
    """But the statistics of studies, which no run reads."""
    maker = re.compile(r"(SeedSequence|Philox|PCG64|default_rng|RandomState)\(")
    packages = [Path(pipelines.__file__).parent.parent / name for name in ("pipelines", "tdformer", "cluster")]
    files = [path for package in packages for path in package.rglob("*.py") if "study" not in path.parts]
    assert [path.name for path in files if maker.search(path.read_text())] == ["draws.py"]


def test_the_draws_of_a_batch_are_those_of_its_samples() -> None:
    """In any order and any number of times, and of samples that are not in it, such as one that stands in."""
    asked = [(draws.CROP, 7), (draws.AUGMENT, 7), (draws.AUGMENT, 3), (draws.CROP, 5), (draws.AUGMENT, 7)]
    asked += [(draws.CROP, 11), (draws.AUGMENT, 11)]
    alone = [stream.rng(HALF, 2, sample).random(3).tolist() for stream, sample in asked]
    with draws.batch([3, 5, 7]):
        found = [stream.rng(HALF, 2, sample).random(3).tolist() for stream, sample in asked]
        other = draws.AUGMENT.rng(HALF, 1, 7).random(3).tolist()
        order = draws.ORDER.rng(3, 7).random()
    assert found == alone and len({str(drawn) for drawn in found}) == len(asked) - 1
    assert other == draws.AUGMENT.rng(HALF, 1, 7).random(3).tolist() and order == draws.ORDER.rng(3, 7).random()
