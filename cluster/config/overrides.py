"""Which settings a command takes: each that is given has an effect, or is refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipelines.remote import Remote

from ..errors import RunError
from .check import registry
from .layers import named
from .schema import FIRST_WEIGHTS, Config, FetchConfig, TrainConfig, flat, types
from .words import show

if TYPE_CHECKING:
    from tdformer.model_options import ModelOptions
    from tdformer.options import Options

REMOTE = frozenset(("data.cache", "data.cache_gb", *(f"data.fetch.{f.name}" for f in fields(FetchConfig))))
"""How shards are fetched that are not on this machine."""

ELSEWHERE = REMOTE | {"plugins", "data.root", "data.format", "data.workers", "data.window", "train.threads"}
"""Where plugins and data lie and how data are read: evaluation takes them, and the same samples give the same
numbers."""

EVALUATED = frozenset(
    (
        *("model.time_steps", "model.segments", "model.image_size", "model.clamp", "model.border_dtype"),
        *("model.tau", "model.threshold", "model.v_reset", "model.leaky_proj_lif"),
        *("data.dataset", "data.size", "data.crop_ratio", "data.frames"),
        *("train.global_batch", "train.micro_batch", "train.precision"),
    )
)
"""What evaluation can do otherwise than the run did: the weights do not depend on it."""

GRADIENTS = ("model.surrogate", "model.alpha", "model.detach_reset")
UNBOUND = ("train.alphas=null", "train.norm_batch=null", "engine.reduce=fp32", "data.mixup=0", "data.cutmix=0")
"""Of training alone, and they would bound the segments and the batch of an evaluation."""


PREPARED = ELSEWHERE - {"data.workers", "train.threads"} | {"data.dataset", "data.source"}
"""What `tdformer prepare` asks of a configuration."""


def for_training(config: Config, overrides: Sequence[str], launched: bool = False, slurm: bool = False) -> None:
    """Raises RunError, naming the first of `overrides` that training would not notice beside the rest of `config`.

    launched: by `tdformer launch` or `resume`; slurm: there.
    """
    idle = _idle_in_training(config, launched, slurm)
    for key in named(overrides):
        if key in idle:
            raise RunError(f"{key} changes nothing here: {idle[key]}")


def for_preparation(overrides: Sequence[str]) -> None:
    """Raises RunError, naming the first of `overrides` that is not of where the data lie."""
    for key in named(overrides):
        if key not in PREPARED:
            raise RunError(f"{key} is not of where the data lie, and prepare keeps nothing; give it to tdformer train")


def while_running(before: Config, config: Config, run: Path, job: str) -> None:
    """Raises RunError where a run that is a live job was launched with other settings than `config`: it has its own."""
    old, new = flat(before), flat(config)
    changed = [f"{k}={new[k]}" for k in new if new[k] != old[k] and k not in ("name", "runs_dir", "plugins")]
    if changed:
        raise RunError(
            f"{run} is job {job} already, and runs without {', '.join(changed)}; tdformer stop {run}, then resume it"
        )


def _idle_in_training(config: Config, launched: bool, slurm: bool) -> dict[str, str]:
    """The settings that have no effect beside the others, and what to do about it."""
    model, data, augment = config.model, config.data, config.data.augment
    fed = model.feedback not in (None, "none", [])
    alone = (model.segments or 1) == 1
    made, schedule, scaled = _made(model.options()), config.train.schedule, config.train.computes_in.scaled
    one = "a model of one segment has no border and no feedback; set model.segments too"
    feedback = f"no block is fed back; set {'model.feedback and ' * (not fed)}model.segments too"
    remote = isinstance(data.folder, Remote)
    rules: list[tuple[bool, str, tuple[str, ...]]] = [
        (model.weights is None, "set model.weights too", ("model.weights_head",)),
        (alone, one, ("model.border_dtype", "model.segment_norm", *["model.feedback"] * fed)),
        (alone or not fed, feedback, ("model.cm", "model.pm", "model.mixer", "model.clamp")),
        (not made.fed().core, f"model.pm={model.pm} has no core to clamp", ("model.clamp",)),
        (data.size is None, "pictures are taken as they are; set data.size too", ("data.crop_ratio",)),
        (data.size is None, "nothing is cropped; set data.size too", ("data.augment.scale", "data.augment.ratio")),
        (not augment.erasing, "set data.augment.erasing too", ("data.augment.erasing_mode",)),
        (augment.rand_augment is None, "set data.augment.rand_augment too", ("data.augment.rand_augment_ops",)),
        (not data.passes_over, "set data.on_error=skip too", ("data.skips",)),
        (True, "raw files are read by tdformer prepare and tdformer shard", ("data.source",)),
        (not remote, "data.root is a local folder", tuple(REMOTE)),
        (not _reads_min_lr(config.train), f"train.schedule={schedule} does not end there", ("train.min_lr",)),
        (not scaled, "only fp16 has a loss scale", ("train.loss_scale", "train.growth_interval")),
        (not _has_borders(config), "set recompute.policy=unit too", ("recompute.borders",)),
        (not config.log.to_wandb, "set log.wandb too", ("log.wandb_project",)),
        (launched, "give --processes-per-node", ("train.processes",)),
        (not config.site.mail, "set site.mail too", ("site.mail_on",)),
        (not slurm, "it is for Slurm, and this run is on this machine", tuple(flat(config.site, "site."))),
    ]
    return {key: why for so, why, keys in reversed(rules) if so for key in keys}


def _made(options: Options) -> ModelOptions:
    """What a model of these options is made with."""
    from tdformer.model_options import ModelOptions  # imports torch

    return ModelOptions.among(options)[0]


def _reads_min_lr(train: TrainConfig) -> bool:
    """Whether the schedule, a pure function, gives other rates for another `min_lr`."""
    known = registry(types()["train.schedule"][1])
    if train.schedule not in known:
        return True  # of a plugin that is not imported yet
    schedule = cast("Callable[[TrainConfig, float], float]", known.get(train.schedule))
    other = replace(train, min_lr=train.min_lr / 2 + train.lr)
    return any(schedule(train, at / 8) != schedule(other, at / 8) for at in range(8))


def _has_borders(config: Config) -> bool:
    from tdformer.policies import POLICIES  # imports torch

    return config.recompute.policy in POLICIES and POLICIES.get(config.recompute.policy).packed


def for_evaluation(
    read: Callable[[Sequence[str]], Config],
    overrides: Sequence[str],
    model: Options,
    corruptions: bool = False,
    program: str = "",
) -> tuple[Config, Options]:
    """The configuration of an evaluation and the options of its model.

    read: the run's configuration with overrides. model: the options that the weights were trained with. corruptions:
    whether pictures are corrupted here, by draws of the seed. program: the suffix of a file whose graph is fixed.
    Raises RunError, naming the setting, for one that evaluation cannot do, or that would change nothing.
    """
    run, config = read(UNBOUND), read([*UNBOUND, *overrides])
    before, after, given = flat(run), flat(config), config.model.options() | {"name": config.model.name}
    options = dict(model)
    taken = EVALUATED | ({"seed"} if corruptions else set())
    for key in (k for k in after if after[k] != before[k] and k not in ELSEWHERE):
        option = key.removeprefix("model.") if key.startswith("model.") else None
        if option is not None and option in given and given[option] == model.get(option):
            continue
        if key == "model.own" and all(model.get(own) == value for own, value in config.model.own.items()):
            continue
        if key not in taken:
            raise RunError(f"{key} {_refusal(key, model, corruptions)}")
        if program and key not in ("data.dataset", "data.crop_ratio", "data.frames"):
            raise RunError(f"{key} cannot be set for a {program} file: its program is fixed; evaluate the run with it")
        if option is not None:
            options.pop(option)
            options |= {option: given[option]} if option in given else {}
    idle = _idle(options, config, run)
    for key in after:
        if after[key] != before[key] and key in idle:
            raise RunError(f"{key} changes nothing in this evaluation: {idle[key]}; leave it out")
    return config, options


def _refusal(key: str, model: Options, corruptions: bool) -> str:
    if key.removeprefix("model.") in FIRST_WEIGHTS:
        return "changes nothing in evaluation: training begins with it; leave it out"
    if key == "model.name":
        return f"cannot be set in evaluation: the weights are of {model['name']}, and another model needs another run"
    if key in GRADIENTS:
        return "changes nothing in evaluation: it is of gradients, and evaluation has none; leave it out"
    if key.startswith("model."):
        known = {"recompute", *flat(Config().model)}
        own = {option: value for option, value in model.items() if option not in known}
        asked = show(own if key == "model.own" else model.get(key.removeprefix("model."), "the name's own"))
        return f"cannot be set in evaluation: the weights were trained with {asked}; another one needs another run"
    if key == "seed":
        return "changes nothing in this evaluation: it draws --corruptions that are made here; leave it out"
    if key in ("name", "runs_dir"):
        return "cannot be set in evaluation: the run is the folder that is given"
    return "changes nothing in evaluation; leave it out"


def _idle(options: Options, config: Config, run: Config) -> dict[str, str]:
    """The settings of evaluation that have no effect beside the others, and why."""
    micro, alone = config.train.at_once, options.get("segments", 1) == 1
    made = _made(options)
    clamped = not alone and options["feedback"] and made.fed().core
    found = {
        "model.clamp": (not clamped, "no feedback is clamped in this model"),
        "model.border_dtype": (alone, "there is one segment, and no border"),
        "model.tau": (made.units().neuron.learned, "a plif neuron has learned its own"),
        "data.crop_ratio": (config.data.size is None, "without data.size pictures are taken as they are"),
        "train.global_batch": (micro > 0 and micro == run.train.micro_batch, "train.micro_batch is the batch"),
    }
    return {key: why for key, (so, why) in found.items() if so}
