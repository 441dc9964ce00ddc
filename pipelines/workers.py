"""What reads batches of samples: this process, or worker processes that last over epochs and write pixels into memory
that they share with it."""

from __future__ import annotations

import ctypes
import math
import mmap
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import NamedTuple

import numpy as np
import torch

from . import draws
from .errors import DamagedSample, DataError
from .order import Ids
from .samples import Array, Augmentation, InTwo, Samples, Seen
from .stand_in import StandIns


@dataclass(frozen=True)
class Reading:
    """What is done with the samples of an epoch or, epoch None, in evaluation.

    view: None: pictures as they are. seed, damaged: of `StandIns`, None: a damaged sample is an error. windows: see
    `Samples.following`. finish: whether an augmentation in two is done to its end.
    """

    view: Seen | None
    augment: Augmentation | None = None
    epoch: int | None = None
    seed: int | None = None
    damaged: frozenset[int] = frozenset()
    windows: Ids | None = None
    finish: bool = True


class Layout(NamedTuple):
    """How a batch lies in memory. last: colours lie side by side, as decoders give them; then samples are copied in
    long pieces."""

    shape: tuple[int, ...]
    dtype: str
    last: bool

    @classmethod
    def of(cls, sample: Array, count: int) -> Layout:
        last = sample.ndim == 3 and sample.strides[0] < sample.strides[2]
        return cls((count, *sample.shape), sample.dtype.str, last)

    def on(self, memory: memoryview | Array) -> Array:
        """The batch at the beginning of `memory`, `[B, ...]`."""
        shape = (self.shape[0], *self.shape[2:], self.shape[1]) if self.last else self.shape
        batch = np.frombuffer(memory, self.dtype, math.prod(shape)).reshape(shape)
        return batch.transpose(0, 3, 1, 2) if self.last else batch


Place = Callable[[int], "memoryview | Array"]
"""Memory of so many bytes, for a batch."""


def anywhere(size: int) -> Array:
    return np.empty(size, np.uint8)


def pinned(size: int) -> Array:
    """Where a GPU can copy from while this process goes on. It is used again once nobody has it."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()


class Read(NamedTuple):
    """images `[B, ...]`; ids: of the samples that were read, those that stand in for others among them; damaged: what
    could not be read and why, by id. drawn: for the end of the augmentation, `[B, k]`, where that is left."""

    images: Array
    ids: Ids
    damaged: dict[int, str]
    drawn: Ids | None = None


class Reader:
    """Reads, decodes and augments the samples of a batch, and puts them together."""

    def __init__(self, data: Samples, how: Reading) -> None:
        self.data, self.how = data, how
        self.begin = how.augment.begin if isinstance(how.augment, InTwo) and not how.finish else None
        self.stand_ins = None if how.seed is None else StandIns(how.seed, data.shard_of, how.damaged)

    def read(self, wanted: Ids, place: Place) -> tuple[Layout, Read]:
        """The samples `wanted`, in memory from `place`. Raises DataError."""
        damaged: dict[int, str] = {}
        drawn: list[Ids] = []
        ids, samples = np.array(wanted), wanted.tolist()
        with draws.batch(samples):
            for k, i in enumerate(samples):
                ids[k], sample = self._sample(i, damaged, drawn)
                if k == 0:
                    layout = Layout.of(sample, len(ids))
                    batch = layout.on(place(len(ids) * sample.nbytes))
                batch[k] = sample
        return layout, Read(batch, ids, damaged, np.stack(drawn) if drawn else None)

    def _sample(self, i: int, damaged: dict[int, str], drawn: list[Ids]) -> tuple[int, Array]:
        """Sample i, or the one that stands in for it, as it is seen; what cannot be read is added to `damaged`, and
        what is drawn for what is left of its augmentation to `drawn`."""
        if self.stand_ins is None or self.how.epoch is None:
            return i, self._seen(i, drawn)
        for other in self.stand_ins.of(self.how.epoch, i):
            try:
                return other, self._seen(other, drawn)
            except DamagedSample as error:
                damaged[other] = str(error)
        raise DataError(f"neither sample {i} nor any of those drawn from its shard can be read; look at the disk")

    def _seen(self, i: int, drawn: list[Ids]) -> Array:
        view, augment, epoch = self.how.view, self.how.augment, self.how.epoch
        sample = self.data.image(i) if view is None else view.see(self.data, i, epoch)
        if augment is None or epoch is None:
            return sample
        if self.begin is None:
            return augment(sample, epoch, i)
        sample, row = self.begin(sample, epoch, i)
        drawn.append(row)
        return sample


Answer = tuple[Layout, Ids | None, dict[int, str], Ids | None]
"""How a worker's batch lies in memory, the ids that were read where they are not those asked for, damaged ones, and
what was drawn for what is left of the augmentation."""
_AHEAD = 2
"""Batches that a worker is asked for before one is taken, and for which it has memory."""


class Workers:
    """`count` processes that read `sets`; with none, this process does. They are forked when first needed, so what they
    read must be there by then, and last until `close`, or until this process ends, however it does.

    Batches lie in memory that has no name, so nothing is left of it, and the size of /dev/shm does not matter. Requests
    and answers are small and go through a pipe for each worker: its end is how either side learns that the other is
    gone.

    place: where a batch lies that is taken, for this process alone.
    """

    def __init__(self, count: int, *sets: Samples, place: Place = anywhere) -> None:
        self.count, self.sets, self.place = count, sets, place
        self._room = 0  # bytes for a batch
        self._taken, self._due = 0, 0  # answers: those that were taken of an epoch, and are to be
        self._memory = mmap.mmap(-1, 1)
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._end: Callable[[], object] = lambda: None

    @property
    def pids(self) -> list[int | None]:
        """Those that run."""
        return [process.pid for process in self._processes]

    def start(self, room: int) -> None:
        """Let them run, with room for batches of so many bytes. Called before `data.following` is: threads that fetch
        are not to be there when a process is forked."""
        if not self.count or (self._pipes and room <= self._room):
            return
        self.close()
        context = multiprocessing.get_context("fork")
        try:
            self._room = room
            self._memory = mmap.mmap(-1, max(1, self.count * _AHEAD * room))
            # Also when this object or this process ends; not in its forks.
            self._end = Finalize(self, _ended, (self._pipes, self._processes), exitpriority=0)
            with _left_to_us():
                for k in range(self.count):
                    ours, theirs = context.Pipe()
                    self._pipes.append(ours)
                    self._processes.append(context.Process(target=self._work, args=(k, theirs), daemon=True))
                    self._processes[k].start()
                    theirs.close()
        except OSError as error:
            self.close()
            raise DataError(
                f"{self.count} data workers cannot be started ({error.strerror}); free memory, or make data.workers "
                "smaller"
            ) from error

    def read(self, data: Samples, how: Reading, asked: Sequence[Ids]) -> Generator[Read, None, None]:
        """What is read of each of `asked`, in their order; data: one of `sets`. They end where not all of it is taken.
        Raises DataError."""
        if not self.count:
            reader = Reader(data, how)
            yield from (reader.read(ids, self.place)[1] for ids in asked)
            return
        if self._due:
            raise RuntimeError("these workers are in the middle of an epoch")
        number = [one is data for one in self.sets].index(True)
        try:
            for k in range(self.count):
                self._send(k, (number, how))
            for taken in range(len(asked)):
                for ids in asked[taken + self._due : taken + _AHEAD * self.count]:
                    self._send((taken + self._due) % self.count, ids)
                    self._due += 1
                layout, others, damaged, drawn = self._receive(taken % self.count)
                shared = layout.on(self._slot(taken % self.count, taken // self.count))
                images = layout.on(self.place(shared.nbytes))
                images[...] = shared  # on one thread; torch would keep all of them busy for it
                self._taken, self._due = taken + 1, self._due - 1
                yield Read(images, asked[taken] if others is None else others, damaged, drawn)
        finally:
            if self._due:  # nobody takes them
                self.close()

    def ready(self, number: int) -> bool:
        """Whether nobody would wait for the next `number` batches of an epoch, as far as they are asked for and can be
        told. Without processes nobody waits for others."""
        soon = (self._taken + k for k in range(min(number, self._due, self.count)))
        return all(self._pipes[k % self.count].poll() for k in soon)

    def close(self) -> None:
        """End them; they start again when they are needed."""
        self._end()
        self._pipes, self._processes, self._due = [], [], 0

    def _slot(self, k: int, turn: int) -> memoryview:
        """Memory of worker k for its batch of this turn."""
        begin = (k * _AHEAD + turn % _AHEAD) * self._room
        return memoryview(self._memory)[begin : begin + self._room]

    def _send(self, k: int, what: object) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # `_receive` tells
            self._pipes[k].send(what)

    def _receive(self, k: int) -> Answer:
        answer: Answer | DataError | str
        try:
            answer = self._pipes[k].recv()
        except (EOFError, ConnectionResetError):
            self._processes[k].join()
            code = self._processes[k].exitcode or 0
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise DataError(f"a data worker died ({how}); free memory, or make data.workers smaller") from None
        if isinstance(answer, DataError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"in a data worker:\n{answer}")
        return answer

    def _work(self, k: int, pipe: Connection) -> None:
        """A worker: told which set it reads and how, then for which ids, until the pipe ends."""
        for ours in self._pipes:  # which must end with the trainer
            ours.close()
        _called("data_worker")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(1)
        turn, reader, following = 0, None, ExitStack()
        with suppress(EOFError, ConnectionResetError, BrokenPipeError):
            while True:
                asked = pipe.recv()
                if isinstance(asked, tuple):
                    number, how = asked
                    following.close()
                    following.enter_context(self.sets[number].following([], how.windows))
                    turn, reader = 0, Reader(self.sets[number], how)
                    continue
                assert reader is not None
                pipe.send(_answer(reader, asked, self._slot(k, turn)))
                turn += 1
        os._exit(0)


def _ended(pipes: list[Connection], processes: list[BaseProcess]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        if process.pid is not None:
            process.kill()  # they write nothing that lasts, and heed no other signal
            process.join()


def _answer(reader: Reader, asked: Ids, memory: memoryview) -> Answer | DataError | str:
    """An error is a value here: a defect's the text of its traceback."""
    try:
        layout, read = reader.read(asked, lambda size: memory)
    except DataError as error:
        return error
    except Exception:
        return traceback.format_exc()
    return layout, None if np.array_equal(read.ids, asked) else read.ids, read.damaged, read.drawn


def _called(name: str) -> None:
    """Tell this process from the trainer in ps and top (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(15, name.encode())


STOPS = {signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP}
"""What asks a run to stop. Slurm, a closed terminal and `kill -- -GROUP` send them to every process."""


@contextmanager
def _left_to_us() -> Iterator[None]:
    """Processes that are forked meanwhile have STOPS blocked, for good: one that died of them would end the trainer
    with an error before it has saved."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
