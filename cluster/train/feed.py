"""What a step is fed with: this rank's share of a global batch, as the model takes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.delivery import Delivery, lane
from pipelines.loader import Batch, time_first, to_device, train_loader
from pipelines.order import Cursor, Share
from pipelines.samples import InTwo
from pipelines.views import mix
from pipelines.workers import Workers
from tdformer.kernels import largest_integer
from tdformer.packing import bounded

from ..build.setup import Setup


class Feed:
    """The training samples of a run, in its order."""

    def __init__(self, setup: Setup, workers: Workers, device: torch.device) -> None:
        self.setup, self.config, self.data, self.plan = setup, setup.config, setup.samples, setup.plan
        self.workers, self.device, self.lane = workers, device, lane(device)
        self._delivery: Delivery | None = None
        self._in_two: InTwo | None = None  # an augmentation whose end a GPU does
        if self.lane is not None and isinstance(setup.augment, InTwo) and setup.augment.finishes_on(device):
            self._in_two = setup.augment

    def batches(self, cursor: Cursor) -> Delivery:
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
            finish=self._in_two is None,
        )
        source = loader if self.lane is None else self._drawn(loader, cursor)
        self._delivery = Delivery(source, self.lane, lambda: self.workers.ready(self.plan.accumulation))
        return self._delivery

    def send_next(self) -> None:
        """To be called once a step is on its way: a GPU is sent the next one's batches while it computes."""
        if self._delivery is not None:
            self._delivery.send_next()

    def inputs(self, batch: Batch, cursor: Cursor, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images `[B, C, H, W]`, or frames `[T, B, 2, H, W]`, and targets `[B, K]` of the head's K = `outputs` on the
        device, mixed if asked; and the labels `[B]`. cursor: where the batch is in the run."""
        config = self.config
        if self._in_two is not None and batch.drawn is not None:
            self._in_two.finish(batch.images, batch.drawn)
        images = to_device(batch.images, self.data.mean, self.data.std, self.device)
        labels = batch.labels.to(self.device)
        targets = mix.soft_targets(labels, outputs, config.train.label_smoothing)
        if config.data.mixes:
            how = self._mixing(batch, cursor) if batch.mixing is None else batch.mixing
            images, targets = mix.mixed(images, targets, how.to(self.device))
        images = time_first(images)
        if self.lane is not None:
            images = bounded(images, batch.largest)
        # A part whose input has no gradient is let go by ZeRO-3 before its backward is done.
        return images.requires_grad_(config.engine.zero_stage == 3), targets, labels

    def _drawn(self, loader: Iterator[list[Batch]], cursor: Cursor) -> Iterator[list[Batch]]:
        """With what is drawn for the steps from the cursor on and known of their frames, before a GPU waits for it."""
        for batches in loader:
            if self.config.data.mixes:
                batches = [replace(batch, mixing=self._mixing(batch, cursor)) for batch in batches]
            if self.data.kind.frames:
                batches = [replace(batch, largest=_largest(batch)) for batch in batches]
            yield batches
            cursor = replace(cursor, step=cursor.step + 1)

    def _mixing(self, batch: Batch, cursor: Cursor) -> Tensor:
        config, (height, width) = self.config, batch.images.shape[-2:]
        return mix.drawn(
            len(batch.images),
            (height, width),
            mixup=config.data.mixup,
            cutmix=config.data.cutmix,
            seed=config.seed,
            epoch=cursor.epoch,
            step=cursor.step,
            position=batch.position,
        )


def _largest(batch: Batch) -> int | None:
    """See `Batch`. Bytes are normalised; what cutmix puts together are integers still, what mixup does are none."""
    if batch.images.dtype == torch.uint8 or (batch.mixing is not None and not mix.swaps(batch.mixing)):
        return None
    return largest_integer(batch.images)
