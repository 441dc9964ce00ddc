"""What a start is about to do, in one block: the model, the data, the steps, the device, the memory, the folder."""

from __future__ import annotations

import torch

from pipelines.order import steps_per_epoch
from pipelines.samples import Samples
from tdformer import TDFormer
from tdformer.backbones import MODELS
from tdformer.backbones.size import of

from ..build import planner
from ..build.memory import GIB, Memory
from ..build.setup import Setup
from ..config import BatchPlan, Config, show


def block(setup: Setup, memory: Memory, threads: int, why: str | None = None) -> str:
    """A line each, for people. memory: of one process; threads: of one; why: its micro-batch was chosen."""
    config, plan, model = setup.config, setup.plan, setup.outline
    assert setup.test is not None
    lines = {
        "model": _model(model),
        "data": _data(config, setup.samples, setup.test, model),
        "steps": _steps(config, plan, len(setup.samples)),
        **({} if why is None else {"batch": why}),
        "device": _device(config, plan.world, threads),
        "memory": _memory(model, config, plan, memory),
        "folder": str(config.run_path),
    }
    return "\n".join(f"{name:<6}  {text}" for name, text in lines.items())


def _model(model: TDFormer) -> str:
    asked, count = model.config, sum(p.numel() for p in model.parameters())
    fed = f"feedback to {len(asked['feedback'])}" if asked["feedback"] else "no feedback"
    cut = f"T = {model.time_steps} in {model.segments} segment{'s' * (model.segments > 1)}"
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    only = f" ({trained / 1e6:.2f} M trained)" if trained < count else ""
    usual = of(MODELS.get(asked["name"]).sizes).options()
    sized = "".join(f" {key}={show(asked[key])}" for key, value in usual.items() if asked[key] != value)
    return f"{asked['name']}{sized}, {count / 1e6:.2f} M parameters{only}, {cut}, {fed}"


def _data(config: Config, train: Samples, test: Samples, model: TDFormer) -> str:
    kind = train.kind.name
    channels, *given = train.shape
    seen = " x ".join(map(str, [*model.config["image_size"], channels]))
    size = f"of {seen}" if given == model.config["image_size"] else f"seen as {seen}"
    where = f"{config.data.dataset} in {config.data.folder}"
    return f"{len(train):,} {kind} {size} in {train.classes:,} classes, {len(test):,} to test on; {where}"


def _steps(config: Config, plan: BatchPlan, samples: int) -> str:
    epochs, each = config.train.epochs, steps_per_epoch(samples, plan.global_batch)
    by = [f"{plan.world} processes"] * (plan.world > 1) + [f"{plan.accumulation} micro-batches"] * (
        plan.accumulation > 1
    )
    share = f" = {' x '.join([*by, str(plan.micro_batch)])}" if by else ""
    return f"{epochs * each:,} in {epochs:,} epoch{'s' * (epochs > 1)}, each of {plan.global_batch:,}{share}"


def _device(config: Config, world: int, threads: int) -> str:
    """On what and how a run computes."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    words = [f"{world} x {where}", f"{threads} thread{'s' * (threads > 1)}", config.train.precision]
    words += ["TF32"] * config.train.tf32 + ["not deterministic"] * (not config.engine.deterministic)
    return ", ".join(words)


def _memory(model: TDFormer, config: Config, plan: BatchPlan, memory: Memory) -> str:
    try:
        expected = planner.expected(model, config, plan, memory)
    except RuntimeError:
        return f"recompute {config.recompute.policy}, not known beforehand"
    return f"{expected}, of {memory.size / GIB:.2f} GiB a process ({memory.whose})"
