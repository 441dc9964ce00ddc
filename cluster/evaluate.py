"""Exact evaluation: every sample once, on any number of ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import tdformer
from pipelines.loader import eval_loader, to_device
from pipelines.pictures import View
from pipelines.webdataset import TarDataset

from . import checkpoint
from .config import Config, load, resolve
from .errors import RunError
from .model import load_weights, view


@torch.no_grad()
def evaluate(
    model: Callable[[Tensor], Tensor],
    data: TarDataset,
    device: torch.device,
    batch_size: int,
    workers: int,
    each: Callable[[], None] = lambda: None,
    view: View | None = None,
) -> dict[str, float]:
    """Accuracy and cross-entropy of a model in evaluation mode; all ranks call it together. each: called for every
    batch."""
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for batch in eval_loader(data, rank=rank, world=world, batch_size=batch_size, workers=workers, view=view):
        each()
        images, labels = to_device(batch.images, data.mean, data.std, device), batch.labels.to(device)
        logits = model(images).float()
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        correct = (logits.argmax(1) == labels).sum()
        sums += torch.stack([loss, correct, correct.new_tensor(len(labels))])
    if world > 1:
        dist.all_reduce(sums)
    loss_sum, correct_sum, count = sums.tolist()
    if count != len(data):
        raise RuntimeError(f"evaluation saw {count:.0f} of {len(data)} samples")
    return {"accuracy": correct_sum / count, "loss": loss_sum / count}


def evaluate_run(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate the newest good checkpoint of a run folder, or one checkpoint, on the run's validation set.

    Raises RunError when there is none, or it is damaged.
    """
    config, found = located(Path(path), overrides)
    weights, saved = checkpoint.load_weights(found)
    data = TarDataset(config.data.folder / "test")
    model = tdformer.create_model(**saved["model"])
    load_weights(model, weights, found)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
        result = evaluate(
            model.to(device).eval(),
            data,
            device,
            resolve(config, 1).micro_batch,
            config.data.workers,
            view=view(config, data),
        )
    return {"checkpoint": str(found), "samples": len(data)} | result


def located(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, Path]:
    """A run's configuration and newest good checkpoint, or the checkpoint that `path` is. Raises RunError."""
    root = path if (path / "config.yaml").is_file() else path.parent.parent
    if not (root / "config.yaml").is_file():
        raise RunError(
            f"{path} is neither a run folder nor a checkpoint in one; give runs/NAME or a step-XXXXXXXX in it"
        )
    found = checkpoint.newest_good(root / "checkpoints", _warn) if path == root else path
    if found is None:
        raise RunError(f"{root} has no checkpoint yet; train it first")
    return load(root / "config.yaml", overrides), found


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
