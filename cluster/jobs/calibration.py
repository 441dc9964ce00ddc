"""What a plan without a GPU goes by: the operators of a step, timed on this machine in as many processes as are asked
for, and what is around them in a narrow network of the same structure; and steps themselves, with which that is
compared."""

from __future__ import annotations

import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from pipelines.loader import Batch
from pipelines.order import Cursor
from pipelines.workers import Workers
from tdformer.measure import live_bytes

from ..build import devices, heap
from ..build.memory import here
from ..build.setup import Setup
from ..config import Config
from ..config.plugins import take
from ..config.shape import Shape
from ..errors import RunError
from ..plan.absent import Absent, setup_of
from ..plan.machine import Machine
from ..plan.network import COUNTED, AlphaBeta, Rule, waits
from ..plan.timed import Timed
from ..run.folder import RunFolder
from ..signals import Notice
from .alone import Alone, alone
from .narrow import narrow
from .processes import START, die_with_parent, threads

WARM, SECONDS, MOST = 2, 1.5, 50
"""Steps before those that count; seconds after which no more are taken, and how many at most."""
SMALLEST, LEAST = 2**12, 2**16
"""Bytes of one all_reduce that is timed; the other has those of the largest of gradients, and so many at least."""
TIMES = 20
"""How often each."""


@dataclass(frozen=True)
class Taken:
    """What steps took: median seconds, and of them those that a process was on a core; bytes of all tensors at the
    peak, 0 where not asked for."""

    seconds: float
    cores: float
    peak: int


class Measured(NamedTuple):
    """Of each case what steps took, where they were taken, what is planned from its operators: by the clock, and on a
    core; how the processes exchange, and the images that each reads in a second."""

    taken: list[Taken]
    by_clock: list[Timed]
    by_cores: list[Timed]
    networks: list[AlphaBeta]
    images: list[float | None]


def machine(setup: Setup, images: int | None = None) -> Machine:
    """This one, by the operators of a step of `setup`, timed one by one. images: see `absent.setup_of`. Raises RunError
    where they cannot be."""
    found = measure([setup.config], setup.world, images)
    here = Machine.unknown(setup.config, Shape(1, setup.world, 0))
    return here.timed(found.by_clock[0], found.networks[0], found.images[0])


def measure(
    cases: Sequence[Config], world: int, images: int | None = None, steps: bool = False, memory: bool = False
) -> Measured:
    """Each of `cases` in `world` processes of this machine. images: see `absent.setup_of`; steps: also take steps, to
    be compared; memory: with their peaks. Raises RunError."""
    asked = Asked(list(cases), images, steps, memory)
    with tempfile.TemporaryDirectory() as folder:
        try:
            mp.start_processes(_rank, (world, folder, asked), nprocs=world, start_method=START)
        except (mp.ProcessExitedException, mp.ProcessRaisedException) as failed:
            raise RunError(f"a step cannot be timed here: {str(failed).strip().splitlines()[-1]}") from failed
        found = json.loads(Path(folder, "found.json").read_text())
    clock, cores = ([Timed(**one) for one in found[name]] for name in ("clock", "cores"))
    taken = [Taken(**one) for one in found["taken"]]
    return Measured(taken, clock, cores, [AlphaBeta(**one) for one in found["networks"]], found["images"])


class Asked(NamedTuple):
    """See `measure`."""

    cases: list[Config]
    images: int | None
    steps: bool
    memory: bool


def _rank(rank: int, world: int, folder: str, asked: Asked) -> None:
    die_with_parent()
    devices.hide("cpu")  # or the ranks would agree on a GPU that is there
    os.environ["LOCAL_WORLD_SIZE"] = str(world)
    from ..train import engine

    torch.set_num_threads(threads(asked.cases[0], world))
    heap.keep_freed()
    device = engine.init_distributed(rank, world, dist.FileStore(f"{folder}/meet", world), wanted="cpu")
    found: dict[str, list[object]] = {key: [] for key in ("taken", "clock", "cores", "networks", "images")}
    for number, config in enumerate(asked.cases):
        take(config.plugins, "the configuration")
        setup = setup_of(config, world, asked.images)
        if asked.steps:
            found["taken"].append(asdict(_taken(setup, rank, Path(folder, str(number)), device, asked.memory)))
        network = _exchange(setup)
        clock, cores = _planned(setup, rank, Path(folder, f"{number}-narrow"), device, network)
        found["clock"].append(asdict(clock))
        found["cores"].append(asdict(cores))
        found["networks"].append(asdict(network))
        found["images"].append(_read(setup, device))
    if not rank:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # nothing is left to do but to free memory


def _planned(setup: Setup, rank: int, folder: Path, device: torch.device, network: AlphaBeta) -> tuple[Timed, Timed]:
    """By the clock, and on a core: the operators, and what a narrow network's step takes beside its own."""
    config, world = setup.config, setup.world
    found = alone(setup, here(config, world))
    small = Setup(narrow(setup, found.chosen), world, setup.samples, setup.test)
    taken, its = _taken(small, rank, folder, device, False), alone(small, here(small.config, world))
    times, rule = small.plan.accumulation, Rule.of(small.outline, small.outline.segments)
    known = its.end + times * sum(its.training.values())
    counted = COUNTED[min(config.engine.zero_stage, len(COUNTED) - 1)]
    waited = sum(waits(rule, network, small.plan, 0.0, counted))
    steps = torch.tensor([taken.seconds - waited, taken.cores], dtype=torch.float64)
    around = ((steps - known) / times).clamp(min=0)
    return _of(found, around, 0), _of(found, around, 1)


def _of(found: Alone, around: Tensor, clock: int) -> Timed:
    """around: seconds of a micro-batch beside its operators; clock: 0, or 1 for what a process was on a core. An
    evaluation has as much around each operator."""
    parts = {part: float(seconds[clock]) for part, seconds in found.training.items()}
    host, (training, evaluation) = float(around[clock]), found.operators
    tested = float(found.evaluation[clock]) + host * evaluation / training
    return Timed(parts | {"host": host}, tested, float(found.end[clock]))


def _taken(setup: Setup, rank: int, folder: Path, device: torch.device, memory: bool) -> Taken:
    """memory: with its peak."""
    from ..train.loop import Trainer
    from ..train.watchdog import Watchdog

    run, before = RunFolder(folder), _bytes(_tensors())
    if not rank:
        folder.mkdir()
    dist.barrier()
    trainer = Trainer(setup, run, device, Notice(), Watchdog(setup.config.engine.timeout_minutes), not rank)
    batches = [[_batch(setup) for _ in range(setup.plan.accumulation)] for _ in range(2)]
    trainer.engine.train()
    found: list[tuple[float, float]] = []
    while len(found) < WARM + MOST and (len(found) <= WARM or sum(s for s, _ in found[WARM:]) < SECONDS):
        dist.barrier()
        begun = time.perf_counter(), time.process_time()
        trainer.step(batches[len(found) % len(batches)], 0.0)
        taken = torch.tensor([time.perf_counter() - begun[0], time.process_time() - begun[1]], dtype=torch.float64)
        dist.all_reduce(taken, dist.ReduceOp.MAX)  # all take as many
        found.append((taken[0].item(), taken[1].item()))
    peak = 0
    if memory:
        there = _tensors()
        resident = sum(size for place, size in _bytes(there).items() if place not in before)
        with live_bytes(torch.nn.Identity(), there) as live:  # gradients are among what is made
            trainer.step(batches[0], 0.0)
        peak = resident + live.peak - sum(b.images.nbytes for step in batches for b in step)
    seconds, cores = (statistics.median(column) for column in zip(*found[WARM:], strict=True))
    return Taken(seconds, cores, peak)


def _batch(setup: Setup) -> Batch:
    """Of a micro-batch, as a loader gives it."""
    plan, view, (channels, *size) = setup.plan, setup.view, setup.samples.shape
    grid = size if view is None else list(view.grid)
    frames, classes = [setup.outline.time_steps] * setup.samples.kind.frames, setup.samples.classes
    shape, kind = [plan.micro_batch, *frames, channels, *grid], torch.int16 if frames else torch.uint8
    labels = torch.randint(classes, (plan.micro_batch,))
    return Batch(torch.randint(4 if frames else 256, shape, dtype=kind), labels, torch.zeros_like(labels), 0)


def _read(setup: Setup, device: torch.device) -> float | None:
    """Images a second, of two steps that are read; None where there are none to be read."""
    from ..train.feed import Feed

    config, plan = setup.config, setup.plan
    if isinstance(setup.samples, Absent):
        return None
    begun = time.perf_counter()
    feed = Feed(setup, Workers(config.data.workers, setup.samples), device)
    cursor = Cursor(config.seed, 0, 0, plan.global_batch, setup.samples.digest)
    steps = len(list(islice(feed.batches(cursor), 2)))
    return steps * plan.micro_batch * plan.accumulation / (time.perf_counter() - begun)


def _exchange(setup: Setup) -> AlphaBeta:
    """Seconds of a message and of a byte, from all_reduces of few and of as many as a step has at once."""
    world = setup.world
    if world == 1:
        return AlphaBeta(0.0, 0.0)
    sizes = SMALLEST, max(LEAST, *Rule.of(setup.outline, setup.outline.segments).gradients)
    few, many = (_all_reduce(size) / (2 * (world - 1)) for size in sizes)
    beta = max(0.0, (many - few) / (sizes[1] - sizes[0])) * world
    return AlphaBeta(max(0.0, few - sizes[0] * beta / world), beta)


def _all_reduce(size: int) -> float:
    """Seconds of one of so many bytes, as it is in the middle."""
    tensor, taken = torch.zeros(size // 4), []
    for _ in range(TIMES):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(tensor)
        taken.append(time.perf_counter() - begun)
    seconds = torch.tensor(statistics.median(taken), dtype=torch.float64)
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return seconds.item()


def _tensors() -> list[Tensor]:
    """All that there are."""
    gc.collect()
    return [one for one in gc.get_objects() if issubclass(type(one), Tensor)]


def _bytes(tensors: Sequence[Tensor]) -> dict[int, int]:
    """By the place of their storage."""
    storages = [one.untyped_storage() for one in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
