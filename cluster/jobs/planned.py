"""What a launch says of a run before it is queued."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TextIO

from tdformer.kernels import stands_for

from ..build import memory
from ..build.setup import Setup
from ..config import Config
from ..config.shape import Shape
from ..config.values import AUTO
from ..errors import RunError
from ..plan.chips import chip
from ..plan.choice import fitting
from ..plan.figures import Plan
from ..plan.machine import Machine
from ..plan.predict import RESTART, predict
from ..run.folder import RunFolder


def tell(setup: Setup, shape: Shape, queued: bool, to: TextIO) -> Iterator[str]:
    """Print the plan in a line; gives warnings of little memory, and of a time limit that makes no sense. Raises
    RunError for what does not fit, where its memory is known."""
    machine, folder = _machine(setup.config, shape, queued), RunFolder(setup.config.run_path)
    auto, warning = setup.config.train.micro_batch == AUTO, None
    if auto and shape.gpus and machine.speed is None:
        line = "plan: train.micro_batch=auto is chosen as the run starts; set site.gpu to plan it here"
        print(line, file=to, flush=True)
        return
    with stands_for("cuda" if shape.gpus else "cpu"):
        if auto:
            found = fitting(setup, machine, folder.micro_batch(shape.world))
            print(found.line(), file=to, flush=True)
            setup = found.setup
        if math.isfinite(machine.memory.size):
            warning = setup.check_memory(machine.memory)
    if warning is not None:
        yield warning
    try:
        plan = predict(setup, shape, None, machine, search=False)
    except RunError:  # it cannot be counted, as the check has told
        return
    print(plan.line(), file=to, flush=True)
    if queued:
        yield from _of_limits(setup.config, plan)


def _machine(config: Config, shape: Shape, queued: bool) -> Machine:
    """What is known of where the run will be. Raises RunError for a GPU that there is not."""
    if shape.gpus and config.site.gpu:
        return Machine.of_chip(chip(config.site.gpu), config, shape)
    if not queued:
        return Machine.unknown(config, shape, memory.here(config, shape.processes))
    unknown = memory.Memory(math.inf, "not known")
    return Machine.unknown(config, shape, memory.asked(config, shape.processes, shape.gpus) or unknown)


def _of_limits(config: Config, plan: Plan) -> Iterator[str]:
    site, every = config.site, plan.checkpoint["interval"].value
    if every is not None and 60 * site.minutes < RESTART + 60 * every:
        yield (
            f"site.minutes={site.minutes} is shorter than a start ({RESTART:.0f} s, assumed) and the {every:.3g} "
            "minutes to a checkpoint: each start keeps only the one that it makes as it is ended"
        )
    needed = (plan.step["total"].value or 0.0) + (plan.checkpoint["write"].value or 0.0)
    if needed > site.signal_seconds:
        yield (
            f"site.signal_seconds={site.signal_seconds} is less than the {needed:.0f} s that a step and a checkpoint "
            "are planned to take: what was done since the last checkpoint may be lost"
        )
