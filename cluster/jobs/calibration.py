"""What a plan without a GPU goes by: the operators of a step, timed on this machine in as many processes as are asked
for; and steps themselves, with which that is compared."""

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

from pipelines.loader import Batch
from pipelines.order import Cursor
from pipelines.workers import Workers
from tdformer.measure import live_bytes

from ..build import heap
from ..build.memory import here
from ..build.setup import Setup
from ..config import Config, load
from ..config.plugins import take
from ..config.shape import Shape
from ..errors import RunError
from ..plan.absent import Absent, setup_of
from ..plan.machine import Machine
from ..plan.network import COUNTED, AlphaBeta, Rule, exposed
from ..plan.timed import Timed
from ..run.folder import RunFolder
from ..signals import Notice
from .alone import Alone, alone
from .processes import START, die_with_parent, threads

WARM, SECONDS, MOST = 2, 1.5, 9
"""Steps before those that count; seconds after which no more are taken, and how many at most."""
SIZES = (2**12, 2**22)
"""Bytes of the all_reduces that are timed."""
TIMES = 40
"""How often each."""
SMALL = ("data.dataset=digits", "model.name=quickstart", "model.segments=2", "model.feedback=all")
IMAGES = 32
"""A network whose operators have little to do, and its images of a process; its data need not be there."""


@dataclass(frozen=True)
class Taken:
    """What steps took: median seconds, and of them those that a process was on a core; bytes of all tensors at the
    peak, 0 where not asked for."""

    seconds: float
    cores: float
    peak: int


class Measured(NamedTuple):
    """Of each case what steps took, where they were taken, and what is planned from its operators: by the clock, and on
    a core; and how the processes exchange."""

    taken: list[Taken]
    by_clock: list[Timed]
    by_cores: list[Timed]
    network: AlphaBeta
    images: list[float | None]


def machine(setup: Setup, images: int | None = None) -> Machine:
    """This one, by the operators of a step of `setup`, timed one by one. images: see `absent.setup_of`. Raises RunError
    where they cannot be."""
    found = measure([setup.config], setup.world, images)
    here = Machine.unknown(setup.config, Shape(1, setup.world, 0))
    return here.timed(found.by_clock[0], found.network, found.images[0])


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
    return Measured(taken, clock, cores, AlphaBeta(**found["network"]), found["images"])


class Asked(NamedTuple):
    """See `measure`."""

    cases: list[Config]
    images: int | None
    steps: bool
    memory: bool


def _rank(rank: int, world: int, folder: str, asked: Asked) -> None:
    die_with_parent()
    os.environ["LOCAL_WORLD_SIZE"] = str(world)
    from ..train import engine

    torch.set_num_threads(threads(asked.cases[0], world))
    heap.keep_freed()
    device = engine.init_distributed(rank, world, dist.FileStore(f"{folder}/meet", world), wanted="cpu")
    network = AlphaBeta(*_exchange(world))
    beside = _beside(rank, world, Path(folder, "beside"), device, network)
    taken, timed, images = [], [], []
    for number, config in enumerate(asked.cases):
        take(config.plugins, "the configuration")
        setup = setup_of(config, world, asked.images)
        if asked.steps:
            taken.append(asdict(_taken(setup, rank, Path(folder, str(number)), device, asked.memory)))
        timed.append(alone(setup, here(config, world)))
        images.append(_read(setup, device))
    found = {"taken": taken, "network": asdict(network), "images": images}
    cores = [_of(one, beside[1], 1) for one in timed]
    # Short calls are seldom interrupted, and steps are: where ranks share cores, the clock does not tell.
    shared = world * torch.get_num_threads() / len(os.sched_getaffinity(0))
    clock = [one.times(shared) for one in cores] if shared > 1 else [_of(one, beside[0], 0) for one in timed]
    found |= {"clock": [asdict(one) for one in clock], "cores": [asdict(one) for one in cores]}
    if not rank:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # nothing is left to do but to free memory


def _of(found: Alone, beside: float, clock: int) -> Timed:
    """beside: seconds of Python and PyTorch around an operator; clock: 0, or 1 for what a process was on a core."""
    parts = {part: float(seconds[clock]) for part, seconds in found.training.items()}
    training, evaluation = (beside * count for count in found.operators)
    return Timed(parts | {"host": training}, float(found.evaluation[clock]) + evaluation, float(found.end[clock]))


def _beside(rank: int, world: int, folder: Path, device: torch.device, network: AlphaBeta) -> list[float]:
    """Seconds around an operator, by both clocks: what a step of a small network takes beside its operators."""
    own = (f"train.{key}_batch={IMAGES}" for key in ("micro", "norm"))
    setup = setup_of(load(None, [*SMALL, *own, f"train.global_batch={IMAGES * world}", f"data.root={folder}"]), world)
    taken, found = _taken(setup, rank, folder, device, False), alone(setup, here(setup.config, world))
    waited = exposed(Rule.of(setup.outline, 1), network, world, 1, taken.seconds, COUNTED[0])
    steps = torch.tensor([taken.seconds - waited, taken.cores], dtype=torch.float64)
    known = found.end + sum(found.training.values())
    around: list[float] = ((steps - known).clamp(min=0) / found.operators[0]).tolist()
    return around


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


def _exchange(world: int) -> tuple[float, float]:
    """Seconds of a message and of a byte, from all_reduces: their mean, for on cores that gloo's threads share with the
    ranks a few of them take most of the time."""
    if world == 1:
        return 0.0, 0.0
    found = []
    for size in SIZES:
        tensor, taken = torch.zeros(size // 4), []
        for _ in range(TIMES):
            dist.barrier()
            begun = time.perf_counter()
            dist.all_reduce(tensor)
            taken.append(time.perf_counter() - begun)
        found.append(statistics.fmean(taken) / (2 * (world - 1)))
    beta = max(0.0, (found[1] - found[0]) / (SIZES[1] - SIZES[0])) * world
    return max(0.0, found[0] - SIZES[0] * beta / world), beta


def _tensors() -> list[torch.Tensor]:
    """All that there are."""
    gc.collect()
    return [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]


def _bytes(tensors: Sequence[torch.Tensor]) -> dict[int, int]:
    """By the place of their storage."""
    storages = [one.untyped_storage() for one in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
