"""What cannot work, refused by name before anything starts."""

from __future__ import annotations

import difflib
import importlib
import math
import operator
import re
from collections.abc import Iterable, Sequence

from pipelines.remote import Remote
from pipelines.store.forms import SHARDS
from tdformer.plugins import Registry

from ..errors import RunError
from .schema import Config, Limits, each, flat
from .words import either, show


def check(config: Config, dataset_size: int | None = None) -> None:
    """Refuse what cannot work: values, values beside each other, the batch beside the size of the data."""
    for key, value, f in each(config):
        check_limits(key, value, f.metadata)
    model, train, alphas = config.model, config.train, config.train.alphas
    for option, value in model.own.items():
        if option == "recompute" or option in flat(model):
            raise RunError(f"model.own.{option} is no option of a backbone; write model.{option}, if that is meant")
        check_limits(f"model.own.{option}", value, {})
    if not config.name or config.name in (".", "..") or "/" in config.name or "\0" in config.name:
        raise RunError(f"name is {config.name!r}; it becomes a folder in runs_dir, so use a plain file name")
    if isinstance(model.v_reset, str) and model.v_reset != "soft":
        raise RunError(f"model.v_reset is {model.v_reset}; give a number or soft")
    if isinstance(model.image_size, list) and len(model.image_size) != 2:
        raise RunError(f"model.image_size is {show(model.image_size)}; give a number or [height, width]")
    if isinstance(folder := config.data.folder, Remote) and config.data.window is None:
        raise RunError(
            f"data.root is {folder}, not a local folder, and all its shards cannot be shuffled together; "
            "set data.window, such as data.window=8"
        )
    if isinstance(folder, Remote) and config.data.form.copy:
        raise RunError(
            f"data.root is {folder}, and {config.data.format} is a copy that is read from local disks; set "
            f"data.format={SHARDS.name}"
        )
    for key in ("scale", "ratio"):
        low, high = getattr(config.data.augment, key)
        if low > high:
            raise RunError(f"data.augment.{key} is {show([low, high])}; the smaller one comes first")
    if model.time_steps and model.segments and model.time_steps % model.segments:
        raise RunError(
            f"model.segments={model.segments} does not divide model.time_steps={model.time_steps}; "
            f"choose {either([str(d) for d in range(1, min(model.time_steps, 1024) + 1) if model.time_steps % d == 0])}"
        )
    if isinstance(model.feedback, list) and len(set(model.feedback)) != len(model.feedback):
        raise RunError(f"model.feedback names a block twice: {show(model.feedback)}")
    if model.weights_sha256 is not None and not re.fullmatch("[0-9a-f]{64}", model.weights_sha256):
        raise RunError(f"model.weights_sha256 is {show(model.weights_sha256)}; it is 64 digits of 0-9 and a-f, or null")
    if model.weights_sha256 is not None and model.weights is None:
        raise RunError("model.weights_sha256 is of weights to begin with, and model.weights is null; set that too")
    if model.clamp and not model.clamp[0] < model.clamp[1]:
        raise RunError(f"model.clamp is {show(model.clamp)}; the lower bound b comes first and is below a")
    if alphas is not None:
        if model.segments and len(alphas) != model.segments:
            raise RunError(f"train.alphas has {len(alphas)} entries for model.segments={model.segments}")
        if abs(sum(alphas) - 1) > 1e-6:
            raise RunError(f"train.alphas sums to {sum(alphas):g}; the weights of the segments sum to 1")
    if train.min_lr > train.lr:
        raise RunError(f"train.min_lr={train.min_lr:g} is above train.lr={train.lr:g}")
    if train.warmup_epochs > train.epochs:
        raise RunError(f"train.warmup_epochs={train.warmup_epochs:g} exceeds train.epochs={train.epochs}")
    if dataset_size is not None and dataset_size < train.global_batch:
        raise RunError(f"train.global_batch={train.global_batch} exceeds the {dataset_size} training images")
    lines = {"name": config.name, "runs_dir": config.runs_dir, **flat(config.site, "site.")}
    for key, value in lines.items():
        texts = value if isinstance(value, list) else [value]
        if key != "site.setup" and any("\n" in str(text) for text in texts):
            raise RunError(f"{key} is {value!r}; it becomes a line of the job's script, so it must be one")
    project = config.log.wandb_project
    if config.log.to_wandb and not re.fullmatch(r"([^/\\#?%:]+/)?[^/\\#?%:]{1,128}", project):
        raise RunError(f"log.wandb_project is {project!r}; give PROJECT or ENTITY/PROJECT, without \\ # ? % :")
    for entry in config.site.sbatch:
        if entry.startswith("-"):
            raise RunError(f"site.sbatch has {entry!r}; write key=value or key, without dashes")


def check_registered(config: Config) -> None:
    """Refuse names that are in no registry, as they are now: plugins that add to them are imported before."""
    for key, value, f in each(config):
        chosen = value if isinstance(value, list) else [] if value in (None, f.default) else [value]
        if "registry" in f.metadata and chosen:
            known = choices(f.metadata)
            for one in chosen:
                if one not in known:
                    raise _not_among(known, key, one)


def choices(limits: Limits) -> list[object]:
    """What a setting with these limits may be: what its schema names, and what its registry has now."""
    named = _named(limits)
    return named + [*registry(limits)] if "registry" in limits else named


def registry(limits: Limits) -> Registry[object]:
    """That of a setting with these limits."""
    module, _, name = str(limits["registry"]).partition(":")
    found: Registry[object] = getattr(importlib.import_module(module), name)
    return found


def _named(limits: Limits) -> list[object]:
    named = limits.get("choices")
    return [*named] if isinstance(named, Sequence) else []


def _not_among(known: Iterable[object], key: str, value: object) -> RunError:
    names = [str(choice) for choice in known]
    near = difflib.get_close_matches(str(value), names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return RunError(f"{key} is {show(value)}; choose {either(names)}{hint}")


def check_limits(key: str, value: object, limits: Limits) -> None:
    if value is None:
        return
    named, many = _named(limits), isinstance(value, (list, tuple))
    if named and "registry" not in limits and not many and value not in named:
        raise _not_among(named, key, value)
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            continue
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise RunError(f"{key} is {show(value)}; it must fit into 64 bits")
        if not math.isfinite(number):
            raise RunError(f"{key} is {show(value)}; it must be finite")
        for limit, words, holds in (
            ("least", "at least", operator.ge),
            ("above", "above", operator.gt),
            ("most", "at most", operator.le),
            ("below", "below", operator.lt),
        ):
            bound = limits.get(limit)
            if isinstance(bound, int | float) and not holds(number, bound):
                raise RunError(f"{key} is {show(value)}; it must be {words} {bound}")
