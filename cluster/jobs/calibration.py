"""Steps of training that are timed on this machine, in as many processes as are asked for: what a plan without a GPU
goes by."""

from __future__ import annotations

import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipelines.loader import Batch
from tdformer.measure import live_bytes
from tdformer.policies import choices

from ..build.memory import here
from ..build.setup import Setup
from ..config import BatchPlan, Config
from ..config.plugins import take
from ..config.shape import Shape
from ..errors import RunError
from ..plan.absent import Absent, setup_of
from ..plan.machine import Machine
from ..plan.network import COUNTED, AlphaBeta, Rule, exposed
from ..plan.predict import micro_batches, settled, state_moved
from ..plan.rates import Alone, Timed, fitted, total
from ..run.folder import RunFolder
from ..signals import Notice
from .alone import alone
from .processes import START, die_with_parent, threads

if TYPE_CHECKING:
    from ..train.loop import Trainer

WARM, SECONDS, MOST = 2, 1.5, 9
"""Steps before those that count; seconds after which no more are taken, and how many at most."""
SIZES = (2**12, 2**22)
"""Bytes of the all_reduces that are timed."""


@dataclass(frozen=True)
class Taken:
    """What steps took: median seconds, and of them those that a process was on a core; bytes of all tensors at the
    peak, 0 where not asked for; images that the loader of a process reads in a second, None where there are none to be
    read."""

    seconds: float
    cores: float
    peak: int
    images: float | None


class Measured(NamedTuple):
    """Steps in some processes of this machine, how these exchange, and what was timed alone: by the clock, and on a
    core."""

    taken: list[Taken]
    network: AlphaBeta
    by_clock: Alone
    by_cores: Alone


def machine(setup: Setup, images: int | None = None) -> Machine:
    """This one, by steps that it takes of `setup`: with its micro-batch, with smaller ones, and with each policy.
    images: see `absent.setup_of`. Raises RunError where they cannot be taken."""
    plan = setup.plan
    fit = [way.micro_batch for way in micro_batches(setup.config, plan) if way.micro_batch <= plan.micro_batch]
    cases = [_of_one(setup.config, plan, size) for size in sorted({fit[0], fit[len(fit) // 2], fit[-1]})]
    own, middle = len(cases) - 1, cases[len(cases) // 2]
    for policy, _ in choices(1):  # or operations, bytes and calls are in one proportion
        cases.append(replace(middle, recompute=replace(middle.recompute, policy=policy, borders=1)))
    taken, network, by_clock, _ = steps(cases, plan.world, images)
    setups = [setup_of(case, plan.world, images) for case in cases]
    timed = [without_exchange(one, took.seconds, network) for one, took in zip(setups, taken, strict=True)]
    here = Machine.unknown(setup.config, Shape(1, plan.world, 0))
    return here.timed(fitted(timed, by_clock, "measured here"), network, taken[own].images)


def _of_one(config: Config, plan: BatchPlan, micro: int) -> Config:
    """With steps of one micro-batch of that size in each process, normalised in as many ranks as before."""
    norm = micro * plan.norm_ranks if plan.norm_ranks > 1 else min(plan.norm_batch, micro)
    train = replace(config.train, micro_batch=micro, global_batch=micro * plan.world, norm_batch=norm)
    return replace(config, train=train)


def without_exchange(setup: Setup, seconds: float, network: AlphaBeta) -> Timed:
    """A step of `setup` that took so long, without what passes between the ranks."""
    config, plan, model = setup.config, setup.plan, setup.outline
    with torch.device("meta"):
        cost = settled(model, config, plan, here(config, plan.world)).cost
    assert cost is not None
    rule, counted = Rule.of(model, model.segments), COUNTED[min(config.engine.zero_stage, len(COUNTED) - 1)]
    waited = exposed(rule, network, plan.world, plan.norm_ranks, seconds, counted)
    own = max(seconds - waited, seconds / 2)
    return Timed(total([cost.work] * plan.accumulation), state_moved(model, config, plan), own)


def steps(cases: Sequence[Config], world: int, images: int | None = None, memory: bool = False) -> Measured:
    """The steps of each of `cases` in `world` processes of this machine. memory: with their peaks. Raises RunError."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            mp.start_processes(_rank, (world, folder, list(cases), images, memory), nprocs=world, start_method=START)
        except (mp.ProcessExitedException, mp.ProcessRaisedException) as failed:
            raise RunError(f"steps cannot be timed here: {str(failed).strip().splitlines()[-1]}") from failed
        found = json.loads(Path(folder, "found.json").read_text())
    taken, network = [Taken(**row) for row in found["taken"]], AlphaBeta(*found["network"])
    return Measured(taken, network, *(Alone(*one) for one in found["alone"]))


def _rank(rank: int, world: int, folder: str, cases: list[Config], images: int | None, memory: bool) -> None:
    die_with_parent()
    os.environ["LOCAL_WORLD_SIZE"] = str(world)
    from ..train import engine

    torch.set_num_threads(threads(cases[0], world))
    device = engine.init_distributed(rank, world, dist.FileStore(f"{folder}/meet", world), wanted="cpu")
    taken = []
    for number, config in enumerate(cases):
        take(config.plugins, "the configuration")
        taken.append(_taken(config, rank, world, Path(folder, str(number)), device, images, memory))
    found = {"taken": [asdict(one) for one in taken], "network": _exchange(world), "alone": alone()}
    if not rank:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)  # nothing is left to do but to free memory


def _taken(
    config: Config, rank: int, world: int, folder: Path, device: torch.device, images: int | None, memory: bool
) -> Taken:
    from ..train.loop import Trainer
    from ..train.watchdog import Watchdog

    setup, run, before = setup_of(config, world, images), RunFolder(folder), _bytes(_tensors())
    if not rank:
        folder.mkdir()
    dist.barrier()
    trainer = Trainer(setup, run, device, Notice(), Watchdog(config.engine.timeout_minutes), not rank)
    batches, rate = _batches(trainer, setup)
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
    return Taken(seconds, cores, peak, rate)


def _batches(trainer: Trainer, setup: Setup) -> tuple[list[list[Batch]], float | None]:
    """Of two steps; and the images of a second, where they are read."""
    plan = setup.plan
    if not isinstance(setup.samples, Absent):
        begun = time.perf_counter()
        steps = [batches for batches, _ in islice(trainer.feed.batches(trainer.state.cursor), 2)]
        return steps, len(steps) * plan.micro_batch * plan.accumulation / (time.perf_counter() - begun)
    view, (channels, *size) = setup.view, setup.samples.shape
    grid = size if view is None else list(view.grid)
    frames, classes = [setup.outline.time_steps] * setup.samples.kind.frames, setup.samples.classes
    shape, kind = [plan.micro_batch, *frames, channels, *grid], torch.int16 if frames else torch.uint8

    def made() -> Batch:
        labels = torch.randint(classes, (plan.micro_batch,))
        return Batch(torch.randint(4 if frames else 256, shape, dtype=kind), labels, torch.zeros_like(labels), 0)

    return [[made() for _ in range(plan.accumulation)] for _ in range(2)], None


def _exchange(world: int) -> tuple[float, float]:
    """Seconds of a message and of a byte, from all_reduces."""
    if world == 1:
        return 0.0, 0.0
    found = []
    for size in SIZES:
        tensor, taken = torch.zeros(size // 4), []
        for _ in range(12):
            dist.barrier()
            begun = time.perf_counter()
            dist.all_reduce(tensor)
            taken.append(time.perf_counter() - begun)
        found.append(statistics.median(taken) / (2 * (world - 1)))
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
