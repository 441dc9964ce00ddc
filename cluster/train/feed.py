"""What a step is fed with: this rank's share of a global batch, as the model takes it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.loader import Batch, time_first, to_device, train_loader
from pipelines.order import Cursor, Share
from pipelines.views.mix import mix, soft_targets
from pipelines.workers import Workers

from ..build.setup import Setup


class Feed:
    """The training samples of a run, in its order."""

    def __init__(self, setup: Setup, workers: Workers, device: torch.device) -> None:
        self.setup, self.config, self.data, self.plan = setup, setup.config, setup.samples, setup.plan
        self.workers, self.device = workers, device

    def batches(self, cursor: Cursor) -> Iterator[tuple[list[Batch], float]]:
        """This rank's share of each global batch that is left of an epoch, in micro-batches; the seconds that it was
        waited for."""
        loader = train_loader(
            self.data,
            cursor,
            Share(self.plan.micro_batch, self.plan.accumulation, dist.get_rank(), dist.get_world_size()),
            augment=self.setup.augment,
            workers=self.workers,
            view=self.setup.view,
            skip=self.config.data.passes_over,
            window=self.config.data.window,
        )
        waiting = time.perf_counter()
        for batches in loader:
            yield batches, time.perf_counter() - waiting
            waiting = time.perf_counter()

    def inputs(self, batch: Batch, cursor: Cursor, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images `[B, C, H, W]`, or frames `[T, B, 2, H, W]`, and targets `[B, K]` of the head's K = `outputs` on the
        device, mixed if asked; and the labels `[B]`. cursor: where the batch is in the run."""
        config = self.config
        images = to_device(batch.images, self.data.mean, self.data.std, self.device)
        labels = batch.labels.to(self.device)
        targets = soft_targets(labels, outputs, config.train.label_smoothing)
        if config.data.mixes:
            images, targets = mix(
                images,
                targets,
                mixup=config.data.mixup,
                cutmix=config.data.cutmix,
                seed=config.seed,
                epoch=cursor.epoch,
                step=cursor.step,
                position=batch.position,
            )
        # A part whose input has no gradient is let go by ZeRO-3 before its backward is done.
        return time_first(images).requires_grad_(config.engine.zero_stage == 3), targets, labels
