"""Runs of models that fire: an untrained one, or one that saw few batches, gives every picture its head's bias."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tdformer
from cluster.build.data import input_facts, opened, view
from cluster.build.model import build_model
from cluster.config import Config, flat, load
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from pipelines.loader import eval_loader, time_first, to_device
from pipelines.raw import catalog
from pipelines.raw.arrays import ArrayDataset
from pipelines.store import tar_writer as shards
from tdformer import registry
from tdformer.attention import SelfAttention
from tdformer.backbones import Entry, Spikformer, SpikformerSizes
from tdformer.norm import BatchNorm
from tdformer.plugins import Registry


@contextmanager
def tiny(also: Sequence[str] = ()) -> Iterator[None]:
    """While the block lasts there is a model `tiny`, which is exported in seconds; and those that are named."""
    models: Registry[Any] = Registry("model")
    for name in also:
        models.register(name, registry.MODELS.get(name))
    models.register("tiny", Entry(Spikformer, SpikformerSizes(8, 1, 2, (False, False, True, True)), 16, 3, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "MODELS", models)
        yield


def few_digits(
    folder: Path, names: list[str] | None = None, labels: list[int] | None = None, of: str = "digits"
) -> Path:
    """The digits as shards, a few of them; names: of the classes; labels: their new numbers."""
    known = catalog.get("digits")
    assert isinstance(known, ArrayDataset)

    def few(split: str, source: Path | None) -> tuple[Any, Any]:
        images, own = known.load(split, source)
        return images[:120], own[:120] if labels is None else np.array(labels)[own[:120]]

    for split in known.splits:
        shards.write(replace(known, load=few, class_names=tuple(names or known.class_names)), split, folder)
    return folder


def fire(model: tdformer.TDFormer, images: torch.Tensor, labels: torch.Tensor, classes: int) -> None:
    """Give it weights and statistics with which every layer fires and the classes are told apart."""
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, BatchNorm) and m.weight is not None):
            norm.weight.uniform_(1.0, 2.0)
            norm.bias.uniform_(0.0, 1.0)
            norm.momentum = 1.0
        for attention in (m for m in model.modules() if isinstance(m, SelfAttention)):
            for unit in (attention.q, attention.k, attention.v):  # few heads and tokens: products are small
                unit.current.norm.bias.uniform_(0.5, 2.0)
        model.train()(images)
        seen: list[torch.Tensor] = []
        hook = model.head.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        model.eval()(images)
        hook.remove()
        features = nn.functional.pad(seen[-1], (0, 1), value=1.0).double()
        square = features.T @ features + 0.1 * torch.eye(features.shape[1])
        fitted = torch.linalg.solve(square, features.T @ nn.functional.one_hot(labels, classes).double())
        model.head.weight.copy_(10 * fitted[:-1].T)
        model.head.bias.copy_(10 * fitted[-1])


def digits_run(place: Path, recipe: str, average: bool = False) -> RunFolder:
    """A run in `place`, as `save`, on a few digits beside it, with what training keeps of its data."""
    (place / "recipe.yaml").write_text(recipe)
    config = load(place / "recipe.yaml", [f"data.root={few_digits(place / 'shards')}"])
    data = opened(config, "test")
    return RunFolder(save(place / "run", config, data, average, classes=data.class_names, input=input_facts(data)))


def save(folder: Path, config: Config, data: Any, average: bool = False, **state: Any) -> Path:
    """A run with one checkpoint of a model that fires; average: those are the averaged weights, and its own are as they
    were before."""
    model = build_model(config, data)
    batch = next(iter(eval_loader(data, rank=0, world=1, batch_size=len(data), workers=0, view=view(config, data))))
    images = time_first(to_device(batch.images, data.mean, data.std, torch.device("cpu")))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fire(model, images, batch.labels, data.classes)
    RunFolder(folder).open(config)
    saved = {"model": model.config, "config": flat(config), **state}
    parts = {"model": before, "ema": model.state_dict()} if average else {"model": model.state_dict()}
    checkpoint.save(folder / "checkpoints", 7, parts, saved, keep=1)
    return folder
