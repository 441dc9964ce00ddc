"""A configuration with everything that is derived filled in, as a run on this machine would have it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields
from pathlib import Path

import torch

import tdformer
from pipelines.errors import DataError
from pipelines.order import steps_per_epoch
from tdformer import TDFormer

from .. import config as configs
from ..build import planner
from ..build.memory import here
from ..build.model import outline
from ..build.setup import Setup
from ..config import BatchPlan, Config
from ..config.values import AUTO
from ..errors import RunError
from ..jobs.processes import threads
from ..plan.choice import chosen
from ..plan.machine import Machine
from ..run.folder import RunFolder
from ..run.weights import settle


def resolved(config: Config, processes: int | None) -> str:
    """YAML that trains the same run, then as comments what is no setting. Classes and sizes are those of the shards
    where these are there. Raises RunError where the settings do not fit each other or the shards, or the weights to
    begin with are not there."""
    folder = RunFolder(config.run_path)
    settle(folder, config)
    world = processes or config.train.processes or torch.cuda.device_count() or 1
    plan = configs.resolve(config, world)
    notes = [f"processes: {world}, micro-batches of each in a step: {plan.accumulation}"]
    sized = False
    try:
        setup = Setup.to_train(config, world, trusted=True)
    except (DataError, RunError) as error:
        notes.append(f"model.num_classes, in_channels and image_size are not known: {error}")
        model = outline(config, None)
    else:
        sized = True
        if config.train.micro_batch == AUTO:
            ranks = planner.ranks_here(world)
            found = chosen(setup, Machine.seen(config, ranks, world, here(config, ranks)), folder.micro_batch(world))
            setup, config = found.setup, found.setup.config
            notes += [line] if (line := found.line()) is not None else []
        plan, model, samples = setup.plan, setup.outline, len(setup.samples)
        each = steps_per_epoch(samples, plan.global_batch)
        notes.append(f"training samples: {samples}, steps: {config.train.epochs * each}, of an epoch: {each}")
        notes.append(_memory(config, model, plan))
    notes.append(f"parameters: {sum(p.numel() for p in model.parameters())}")
    filled = _filled(config, model, plan, sized)
    return configs.to_yaml(filled) + "".join(f"# {note}\n" for note in notes)


def _memory(config: Config, model: TDFormer, plan: BatchPlan) -> str:
    try:
        return str(planner.expected(model, config, plan, here(config, plan.world)))
    except RuntimeError as error:
        return f"recompute: not known beforehand ({error})"


def _filled(config: Config, model: TDFormer, plan: BatchPlan, sized: bool) -> Config:
    """sized: whether the model has the classes and sizes of the data."""
    filled, of_data = deepcopy(config), ("num_classes", "in_channels", "image_size")
    for field in fields(filled.model):
        if field.name in model.config and (sized or field.name not in of_data):
            setattr(filled.model, field.name, model.config[field.name])
    filled.model.own = {o: model.config[o] for o in model.backbone.options if not hasattr(filled.model, o)}
    if filled.model.v_reset is None:
        filled.model.v_reset = "soft"
    train, data = filled.train, filled.data
    train.norm_batch = plan.norm_batch
    if sized or train.micro_batch != AUTO:  # without the model's sizes nothing is chosen
        train.micro_batch = plan.micro_batch
    train.processes, train.threads = plan.world, threads(config, plan.world)
    train.alphas = train.alphas or tdformer.default_alphas(model.segments)
    if isinstance(data.folder, Path):
        data.root = str(data.folder)
    return filled
