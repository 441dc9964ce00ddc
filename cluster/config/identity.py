"""What makes two configurations the same run: the settings that decide its numbers."""

from __future__ import annotations

from dataclasses import fields

from .batches import norm_batch
from .plugins import name_of
from .schema import Config, FetchConfig, HealthConfig, SiteConfig, flat
from .words import show

# What may differ when a run goes on: where things lie (which weights it began with, their digest says), how often they
# are kept, how the work is spread, and in which order sums are taken (engine.deterministic; starts.jsonl notes it). The
# rest decides the numbers: train.tf32 is other arithmetic. (Whether a checkpoint loads on other processes is for the
# checkpoint to say.)
NEUTRAL = frozenset(
    (
        "name",
        "runs_dir",
        "model.weights",
        "data.root",
        "data.source",
        "data.workers",
        "data.on_error",
        "data.skips",
        "data.cache",
        "data.cache_gb",
        *(f"data.fetch.{f.name}" for f in fields(FetchConfig)),
        "train.micro_batch",
        "train.processes",
        "train.threads",
        "engine.device",
        "engine.deterministic",
        "engine.graph",
        "engine.zero_stage",
        "recompute.policy",
        "recompute.borders",
        "recompute.memory",
        "checkpoint.every_minutes",
        "checkpoint.every_steps",
        "checkpoint.keep",
        "log.wandb",
        "log.wandb_project",
        "log.tensorboard",
        "log.profile_steps",
        "log.curves",
        "log.figures",
        "engine.timeout_minutes",
        *(f"health.{f.name}" for f in fields(HealthConfig)),
        *(f"site.{f.name}" for f in fields(SiteConfig)),
    )
)


def differences(one: Config, other: Config) -> list[str]:
    """The settings that differ and change the numbers of a run: `train.lr (0.001, now 0.002)`."""
    derived = (
        {"train.norm_batch": norm_batch(config), "plugins": [name_of(entry) for entry in config.plugins]}
        for config in (one, other)
    )
    a, b = (flat(config) | own for config, own in zip((one, other), derived, strict=True))
    return [f"{k} ({show(a[k])}, now {show(b[k])})" for k in a if k not in NEUTRAL and a[k] != b[k]]
