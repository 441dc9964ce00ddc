"""How long a step and an evaluation take on a machine, by part."""

from __future__ import annotations

from collections.abc import Sequence

from tdformer import TDFormer
from tdformer.measure import Work, measure_evaluation

from ..build.model import example
from ..build.optimizers import OPTIMIZERS
from ..build.setup import Setup
from ..config import BatchPlan, Config
from .figures import Figure, Section
from .machine import Machine
from .network import COUNTED, Rule, waits
from .rates import PARTS


def state_moved(model: TDFormer, config: Config, plan: BatchPlan) -> int:
    """Bytes that the optimizer, clipping and the averaged weights read and write in a step, in one process."""
    count = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    own = trained // (plan.world if config.engine.zero_stage else 1)
    states = len(OPTIMIZERS.get(config.train.optimizer).states)
    passes = 3 + 2 * states + (2 if config.train.clip_grad else 0)  # weights and states twice, gradients once
    return 4 * (passes * own + (3 * count if config.train.ema_decay else 0))


def of_step(setup: Setup, machine: Machine, course: Sequence[Work]) -> Section:
    """Seconds of an optimizer step of one process. course: of a micro-batch's work."""
    if machine.speed is None or machine.network is None:
        return {"total": Figure(None, "s", machine.missing)}
    config, plan, model, speed = setup.config, setup.plan, setup.outline, machine.speed
    times = plan.accumulation
    parts = {name: times * seconds for name, seconds in speed.training(course).items()}
    device = sum(parts[name] for name in PARTS)
    rule, counted = Rule.of(model, model.segments), COUNTED[min(config.engine.zero_stage, len(COUNTED) - 1)]

    beside = device / times if machine.gpu else 0.0  # cores that sum gradients do not compute meanwhile
    norm, gradients = waits(rule, machine.network, plan, beside, counted)
    _, behind = waits(rule, machine.network, plan, 0.0, counted)
    found = {name: Figure(parts[name], "s", speed.source) for name in PARTS}
    found["batchnorm_collectives"] = Figure(norm, "s", machine.links)
    found["gradients"] = Figure(gradients, "s", f"{machine.links}; the part that backward does not hide")
    found["optimizer"] = Figure(speed.optimizer(state_moved(model, config, plan)), "s", speed.source)
    what = "what the device waits for" if machine.gpu else "Python and PyTorch around operators"
    found["host"] = Figure(parts["host"], "s", f"{speed.source}; {what}")
    known = sum(figure.value or 0.0 for figure in found.values())
    found["loader"] = _loader(config, plan, machine, known)
    known += found["loader"].value or 0.0
    missing = "" if found["loader"].value is not None else ", without the loader"
    found["total"] = Figure(known, "s", f"sum of these{missing}")
    found["hidden_gradients"] = Figure(behind - gradients, "s", f"{machine.links}; hidden behind backward")
    return found


def _loader(config: Config, plan: BatchPlan, machine: Machine, step: float) -> Figure:
    """What a step waits for its images, of those that are read while it computes."""
    if machine.images is None:
        return Figure(None, "s", "not known for data that are not there: --measure where the shards are")
    reading = plan.micro_batch * plan.accumulation / machine.images
    waited = max(0.0, reading - step) if config.data.workers else reading
    return Figure(waited, "s", f"measured here: {machine.images:,.0f} images/s a process")


def of_evaluation(setup: Setup, machine: Machine) -> Figure:
    """Seconds of one evaluation."""
    if machine.speed is None:
        return Figure(None, "s", machine.missing)
    plan, model, images = setup.plan, setup.outline, len(setup.test or ())
    short = setup.config.train.computes_in.short
    each = machine.speed.evaluation(lambda: measure_evaluation(model, example(model, plan.micro_batch, "meta"), short))
    return Figure(-(-images // (plan.world * plan.micro_batch)) * each, "s", machine.speed.source)
