"""Every random draw of the data, by stream: a generator that is a function of the run's seed and of what it is for.

A stream's key is its word, if it has one, and its parts. numpy's SeedSequence writes a key as words of 32 bits, a part
of more as several, and fills a key of less than four words with zeros; so keys of other lengths can be the same key.
In one run, which has one seed, no two of these keys are (a test compares them), but for one pair that is kept because
bytes follow from it: the order of an epoch and the augmentation of sample 0 in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stream:
    """word: keeps its draws apart from those of others; parts: what else its key is of, in words."""

    word: int | None
    parts: tuple[str, ...]

    def key(self, *values: int) -> tuple[int, ...]:
        """Raises ValueError for another number of parts than the stream has."""
        if len(values) != len(self.parts):
            raise ValueError(f"a key of {', '.join(self.parts)} has {len(self.parts)} parts, not {len(values)}")
        return values if self.word is None else (self.word, *values)

    def rng(self, *values: int) -> np.random.Generator:
        """A generator whose draws depend on the key alone. Raises ValueError for a negative part."""
        made = _of_batch.taken(self.key(*values)) if self.parts[-1] == "sample" else None
        return np.random.Generator(self._bits(*values)) if made is None else made

    def raw(self, n: int, *values: int) -> NDArray[np.uint64]:
        """n random numbers of 64 bits, `[n]`, which are the same in every version of numpy."""
        return self._bits(*values).random_raw(n)

    def order(self, n: int, *values: int) -> NDArray[np.int64]:
        """A random order: every id of 0..n-1 once. They are sorted by `raw`, because numpy's own permutation need not
        stay the same between versions."""
        return np.argsort(self.raw(n, *values), kind="stable")

    def _bits(self, *values: int) -> np.random.Philox:
        return _bits(self.key(*values))


def _bits(key: tuple[int, ...]) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence(key))


def where(rng: np.random.Generator) -> tuple[int, int, int]:
    """Where a generator is: the two words of its key, and how many numbers of 64 bits it has drawn."""
    state = rng.bit_generator.state
    blocks = int(state["state"]["counter"][0])  # of four numbers, the last of which is drawn from
    key, other = state["state"]["key"].view(np.int64).tolist()
    return key, other, 4 * (blocks - 1) + int(state["buffer_pos"])


def resumed(key: int, other: int, drawn: int) -> np.random.Generator:
    """The generator that `where` tells of."""
    bits = np.random.Philox(key=np.array([key, other]).view(np.uint64))
    bits.advance(drawn // 4)
    bits.random_raw(drawn % 4)
    return np.random.Generator(bits)


def normal_of(number: int) -> float:
    """The normal number that numpy's generator makes of this number of 64 bits, and where that is not enough, of
    zeros."""
    bits = np.random.Philox(0)
    bits.state = bits.state | {"buffer": np.array([number, 0, 0, 0], np.uint64), "buffer_pos": 0}
    return float(np.random.Generator(bits).standard_normal())


class _OfBatch:
    """Generators of the samples of a batch, made together when the first is asked for."""

    def __init__(self, samples: Iterable[int] = ()) -> None:
        self.samples = frozenset(samples)
        self._made: dict[tuple[int, ...], np.random.Generator] = {}
        self._begun: set[tuple[int, ...]] = set()

    def taken(self, key: tuple[int, ...]) -> np.random.Generator | None:
        """That of a key, once; None: it is not there, or was taken."""
        *rest, sample = key
        begin = tuple(rest)
        if begin not in self._begun and sample in self.samples:
            self._begun.add(begin)
            self._made |= {(*begin, i): np.random.Generator(_bits((*begin, i))) for i in self.samples}
        return self._made.pop(key, None)


_of_batch = _OfBatch()


@contextmanager
def batch(samples: Iterable[int]) -> Iterator[None]:
    """Meanwhile these samples are read. Draws stay what they are; but the generators that a stream has for samples are
    made one after the other, each in 9 us. Between two pictures that code has left the processor's caches, and takes 40
    to 90 us."""
    global _of_batch
    before, _of_batch = _of_batch, _OfBatch(samples)
    try:
        yield
    finally:
        _of_batch = before


ORDER = Stream(None, ("seed", "epoch"))
"""What the samples of an epoch are sorted by."""
AUGMENT = Stream(None, ("seed", "epoch", "sample"))
"""How a picture, or the frames of a recording, are augmented."""
SHARDS = Stream(0x5EA2D, ("seed", "epoch"))
"""What the shards of an epoch are sorted by."""
CROP = Stream(0x63726F70, ("seed", "epoch", "sample"))
"""Which box of a picture is seen."""
STAND_IN = Stream(0x73706172, ("seed", "epoch", "sample"))
"""Which samples are read for one that is damaged."""
MIX = Stream(0x6D6978, ("seed", "epoch", "step", "pair"))
"""How a pair of samples is mixed."""
CORRUPT = Stream(0x636F7272, ("seed", "kind", "severity", "sample"))
"""How a picture is corrupted."""
PICTURES = Stream(0x73686172, ("zero",))
"""The order in which pictures are written into shards."""
RECORDINGS = Stream(0x6D697865, ("zero",))
"""The order in which recordings of CIFAR10-DVS are written into shards."""
SHARE = Stream(0x70617274, ("zero",))
"""Which samples a share of a data set has: the first ones in this order, so that a smaller share lies in a larger."""
NULL = Stream(0x6E756C6C, ("seed",))
"""The orders of images in which a measurement looks for what is there by chance."""
