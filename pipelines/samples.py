"""What every reader offers, the samples of one split by number, and what a kind of sample is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .remote import Remote
from .settings import Settings

if TYPE_CHECKING:  # an index is also read where nothing is computed
    import torch
    from torch import Tensor

T = TypeVar("T")
Array = NDArray[np.generic]
Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""top, left, height, width in pixels of the picture: int where the box is cut out before it is resized, float where it
has parts of a pixel and what lies around it is seen by the filter."""
Augmentation = Callable[..., Array]
"""Of a sample as it is seen, the epoch and the sample's id -> one of its kind. Like a view it is pickled on its way to
data workers: a function of a module, or an instance of a class of one."""


@runtime_checkable
class InTwo(Protocol):
    """An augmentation whose end can be left to the device that a batch is sent to."""

    def begin(self, sample: Array, epoch: int, sample_id: int, /) -> tuple[Array, NDArray[np.int64]]:
        """All but its end, and what was drawn for that, `[k]` of the same k for each sample."""
        ...

    def finish(self, samples: Tensor, drawn: Tensor, /) -> None:
        """In place, for `samples` `[B, ...]` with `drawn` `[B, k]`, where they lie: the bits of the whole done at
        once."""
        ...

    def finishes_on(self, device: torch.device, /) -> bool:
        """Whether `finish` has something to do, and can there."""
        ...


class Samples(Protocol):
    """shape (C, H, W), H and W 0 where every sample has its own; mean and std of each channel, scaled to 0..1;
    digest of the index, so two sets that differ differ in it, and columns of its table alone. Reading raises DataError,
    naming the sample.

    Pictures are read by `image` and `crop`; samples of other kinds from their bytes, where the reader is `Encoded`."""

    kind: Kind
    digest: str
    columns: str
    class_names: list[str]
    class_titles: dict[str, str]
    """Of each class by its name, in words, where the data set has them; else empty."""
    shape: tuple[int, int, int]
    mean: list[float]
    std: list[float]

    def __len__(self) -> int: ...

    @property
    def folder(self) -> Path | Remote:
        """Where they lie, for messages."""
        ...

    @property
    def classes(self) -> int: ...

    @property
    def labels(self) -> NDArray[np.int32]:
        """All labels, `[n]`."""
        ...

    @property
    def shard_of(self) -> NDArray[np.int32]:
        """The shard that each sample lies in, `[n]`."""
        ...

    def following(
        self, batches: Sequence[NDArray[np.int64]], windows: NDArray[np.int64] | None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Entered before `batches` of ids are read, by this process or its forks. Gives a function to call with the
        number of the batch that is read next: a reader that must fetch its shards does so ahead of it.

        windows: the window of each shard, `[shards]`, where all ranks go through them together; None: each rank goes
        through its shards one by one."""
        ...

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of sample i in pixels."""
        ...

    def image(self, i: int) -> Pixels:
        """Sample i, uint8 `[C, H, W]`."""
        ...

    def crop(self, i: int, box: Box, size: int) -> Pixels:
        """A box of sample i at size x size, uint8 `[C, size, size]`."""
        ...


@runtime_checkable
class Encoded(Protocol):
    """A reader that has the bytes of each sample as they were written."""

    def decoded(self, i: int, how: Callable[[bytes], T]) -> T:
        """What `how` makes of the bytes of sample i, compared with its checksum before. Raises DamagedSample, naming
        the sample, for another checksum and where `how` raises DataError."""
        ...


class Seen(Protocol):
    """How samples are brought to the one shape that a batch has."""

    @property
    def grid(self) -> tuple[int, int]:
        """H and W of what is seen."""
        ...

    def bytes(self, channels: int) -> int:
        """Of one sample of so many channels, as it is seen."""
        ...

    def see(self, data: Samples, i: int, epoch: int | None) -> Array:
        """Sample i in an epoch of training, or, None, in evaluation: a picture `[C, H, W]`, or frames in time
        `[T, C, H, W]`; uint8 to be normalised by mean and std, anything else is taken as it is."""
        ...


class Kind(ABC):
    """What samples are and how they come to a model. Known by its name, which an index keeps; see `kinds.KINDS`.

    pictures: whether they are read by `image` and `crop`: what FFCV copies, and what corruptions are of. frames:
    whether its view gives frames in time, `[T, C, H, W]`. settings: those of `settings.OF_A_KIND` that are for this
    one; a configuration that sets others is refused.
    """

    name: str
    pictures: bool = False
    frames: bool = False
    settings: frozenset[str] = frozenset()

    @property
    def suffixes(self) -> Collection[str]:
        """Of files that hold one, where people have them; empty: of any."""
        return ()

    def content(self, path: Path) -> bytes:
        """Of such a file what a shard would hold. Raises OSError or DataError where it cannot be read."""
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise DataError("cannot be read (it is no regular file)")
        return path.read_bytes()

    @abstractmethod
    def measure(self, content: bytes, channels: int, max_pixels: int) -> tuple[int, int, int]:
        """(C, H, W) of a sample from its bytes in a shard, before it is written there. channels: of its data set.
        Raises DataError for what does not decode as one, or has more than max_pixels pixels."""

    @abstractmethod
    def view(self, data: Samples, settings: Settings) -> Seen | None:
        """How samples are brought to one shape; None: as `image` reads them. Raises DataError where that cannot work,
        such as many sizes and none named."""

    @abstractmethod
    def augmentation(self, data: Samples, settings: Settings) -> Augmentation | None:
        """Of training, after the view. Raises DataError where it cannot work on these samples."""
