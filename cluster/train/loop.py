"""The training loop and the state that it goes on from."""

from __future__ import annotations

import signal
import socket
import time
import zlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import tdformer
from pipelines.classes import mapping
from pipelines.errors import DataError
from pipelines.loader import Batch, time_first, to_device, train_loader
from pipelines.order import Cursor, epoch_order, global_batch, steps_per_epoch
from pipelines.views.mix import mix, soft_targets
from pipelines.workers import Workers
from tdformer.measure import Firing, measure_firing
from tdformer.norm import norm_batch, step_statistics

from ..build.model import load_weights
from ..build.setup import Setup
from ..config import Config, flat
from ..errors import RunError
from ..run import checkpoint
from ..run.folder import RunFolder
from ..run.monitor import Monitor
from ..signals import KINDS, Leave, Notice
from . import engine as engines
from .ema import EMA
from .evaluate import evaluate
from .health import Alarms, Stopwatch, Watchdog
from .schedule import learning_rate


@dataclass
class TrainState:
    """What a run is between two steps, besides weights and moments.

    Learning rate, augmentation, mixing and torch's random numbers are pure functions of (seed, step), so they need
    no state of their own. `window` sums (loss, correct, images) since the last logged step; `evaluated`: epochs after
    which no evaluation is due any more; `skipped`: steps left out because the loss or the gradient was not finite,
    `in_a_row` of them just now; `metrics_bytes` and `metrics_sha256`: of metrics.jsonl.
    """

    step: int
    cursor: Cursor
    window: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    accuracy: float = 0.0
    best_accuracy: float = 0.0
    metrics_bytes: int = 0
    evaluated: int = 0
    skipped: int = 0
    in_a_row: int = 0
    metrics_sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        return self.__dict__ | {"cursor": self.cursor.to_dict()}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> TrainState:
        """Raises TypeError, KeyError, ValueError or AttributeError where `saved` is not what `to_dict` returned."""
        return cls(**(saved | {"cursor": Cursor.from_dict(saved["cursor"])}))


class Trainer:
    """One rank of a run: the model in its engine, the data, the state; `run()` takes it to the end."""

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        device: torch.device,
        notice: Notice,
        watchdog: Watchdog,
        first_here: bool,
    ) -> None:
        """first_here: of its machine's ranks this is the one that reads what is there for all of them."""
        config = setup.config
        self.config, self.folder, self.device, self.notice, self.watchdog = config, folder, device, notice, watchdog
        self.asked: signal.Signals | None = None
        self.damaged = 0  # samples that some rank could not read in the last step
        self.due = False  # whether rank 0 found, in the last step, that it is time to save
        self.best = False  # whether the weights, as they are, were evaluated and are the best so far
        self.saver = checkpoint.Saver(folder.checkpoints, config.checkpoint.keep)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        settled = [config.train.norm_batch]  # of the first rank: another may not see yet that the run was begun
        dist.broadcast_object_list(settled)
        setup.settle(settled[0])
        assert setup.test is not None
        self.data, self.validation = setup.samples, setup.test
        self.first_here = first_here
        hosts = self._same_data()
        self.plan = setup.plan
        self.epoch_steps = steps_per_epoch(len(self.data), config.train.global_batch)
        self.total_steps = self.epoch_steps * config.train.epochs
        self.classes = list(self.data.class_names)  # of the run, in the order of the head's outputs
        self.view, self.augment = setup.view, setup.augment
        self.workers = Workers(config.data.workers, self.data, self.validation)

        model = setup.model()
        self.recompute = setup.recompute()
        chosen = self.recompute or config.recompute
        model.set_recompute(chosen.policy, chosen.borders)
        there = [checkpoint.complete(folder.checkpoints)]
        dist.broadcast_object_list(there)  # a shared file system may show some ranks older listings
        found = checkpoint.newest_good(folder.checkpoints, self._warn, there[0], self._verified_by_all)
        parts: dict[str, dict[str, Tensor]] = {}
        start = Cursor(config.seed, 0, 0, config.train.global_batch, self.data.digest)
        self.state = TrainState(0, start)
        if found is not None:
            parts, saved = checkpoint.load(found, verified=True)
            load_weights(model, parts["model"], found)
            try:
                self.state = TrainState.from_dict(saved["state"])
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                raise RunError(
                    f"{found} has a state of another version ({error}); use the one that wrote it"
                ) from error
            # Another name is another digest too; this says which.
            mapping(saved.get("classes", self.classes), self.classes, str(found), str(self.data.folder))
        self.state.cursor = self.state.cursor.check(self.data.digest, self.data.columns)
        norm_batch(model, self.plan.norm_batch, _together(self.plan.norm_ranks, config))
        self.ema = EMA(model.to(device), config.train.ema_decay) if config.train.ema_decay else None
        if self.ema is not None and "ema" in parts:
            for name, value in parts["ema"].items():  # a copy: the file they are mapped from may be removed
                self.ema.average[name].copy_(value)
        self.engine = engines.start(model, config, self.plan)
        if found is not None:
            engines.restore_moments(self.engine, parts["optimizer"], self.state.step - self.state.skipped)
        losses: list[float] = []

        def take_up() -> None:
            folder.metrics.truncate(self.state.metrics_bytes, self.state.metrics_sha256)
            losses.extend(row["loss"] for row in folder.metrics.read("step") if isinstance(row.get("loss"), float))

        self._agree(take_up)
        self.alarms = Alarms(config.health, hosts, losses)
        self.stopwatch = Stopwatch(device)
        self.seconds = [0.0] * self.world  # each rank's, since the last logged step
        self.firing: dict[str, Firing] = {}  # of the last logged step

    def run(self, monitor: Monitor) -> dict[str, Any]:
        """Train to the last epoch; returns the summary. All ranks call it together.

        Raises Leave after a signal, once the step is done and saved."""
        config, state = self.config, self.state
        if self.end_epoch(monitor):  # it was stopped at its epoch's end, before this
            self.save()
        while state.step < self.total_steps:
            self.engine.train()
            batches = train_loader(
                self.data,
                state.cursor,
                rank=self.rank,
                world=self.world,
                micro_batch=self.plan.micro_batch,
                accumulation=self.plan.accumulation,
                augment=self.augment,
                workers=self.workers,
                view=self.view,
                skip=config.data.on_error == "skip",
                window=config.data.window,
            )
            waiting = time.perf_counter()
            for micro_batches in batches:
                begun = time.perf_counter()
                self.watchdog.alive()
                row = self.step(micro_batches, begun - waiting)
                if self.damaged:
                    self.skip_samples(micro_batches, monitor)
                if state.in_a_row:
                    self.left_out(monitor)
                state.step += 1
                state.cursor = state.cursor.advance(len(self.data))
                done = time.perf_counter()
                monitor.step(
                    row,
                    images=config.train.global_batch,
                    seconds=done - waiting,
                    waited=begun - waiting,
                    units={name: f.rate for name, f in self.firing.items()},
                )
                if "loss" in row:
                    self.examine(row, monitor)
                if self.asked is not None:
                    self.save()
                    self.saved()
                    raise Leave(self.asked, state.step)
                self.end_epoch(monitor)
                every = config.checkpoint.every_steps
                if state.cursor.step == 0 or self.due or (every and state.step % every == 0):
                    self.save()
                waiting = time.perf_counter()
        self.saved()
        return {
            "step": state.step,
            "epochs": config.train.epochs,
            "accuracy": state.accuracy,
            "best_accuracy": state.best_accuracy,
        }

    def end_epoch(self, monitor: Monitor) -> bool:
        """Between two epochs: evaluate, if it is due. False: there was nothing to do."""
        epoch = self.state.cursor.epoch
        if self.state.cursor.step or epoch <= self.state.evaluated:
            return False
        self.state.evaluated = epoch
        if epoch % self.config.train.eval_every_epochs == 0 or epoch == self.config.train.epochs:
            monitor.evaluation(self.evaluate())
        return True

    def step(self, micro_batches: list[Batch], waited: float) -> dict[str, Any]:
        """One optimizer step over this rank's share of the global batch, `waited` seconds for; returns the row for
        metrics.jsonl."""
        config, state, train = self.config, self.state, self.config.train
        # Whatever draws from torch's generator does so as a function of (seed, step, rank): nothing to save.
        torch.manual_seed(zlib.crc32(f"{config.seed} {state.step} {self.rank}".encode()))
        lr = learning_rate(train, state.step, self.epoch_steps)
        engines.set_lr(self.engine, lr)
        logs = (state.step + 1) % config.log.every_steps == 0
        sums = torch.zeros(5 + len(KINDS) + self.world, dtype=torch.float64, device=self.device)
        measured: AbstractContextManager[dict[str, Firing]] = (
            measure_firing(self.engine.module) if logs else nullcontext({})
        )
        with measured as firing, step_statistics() as statistics:
            for batch in micro_batches:
                self.stopwatch.mark()
                images, targets, labels = self.inputs(batch)
                # A part whose input has no gradient is let go by ZeRO-3 before its backward is done.
                images.requires_grad_(config.engine.zero_stage == 3)
                with self.autocast():
                    logits = self.engine(images)
                self.stopwatch.mark()
                loss = tdformer.segment_loss(logits, targets, train.alphas)
                # Times 1; a loss that is not finite makes its gradient so, and the step is left out on all ranks.
                self.engine.backward(loss * (1 + 0 * loss.detach()))
                applied, norm = engines.update(self.engine, train.clip_grad)  # acts once the last micro-batch is in
                correct = (logits[-1].argmax(1) == labels).sum()
                sums[:3] += torch.stack([loss.detach() * len(labels), correct, correct.new_tensor(len(labels))])
        if not applied:
            sums[:3] = 0
        sums[3] = sum(len(batch.damaged) for batch in micro_batches)
        sums[4:6] = torch.tensor(self.notice.seen)
        sums[6] = self.rank == 0 and self.saver.due(config.checkpoint.every_minutes)  # one clock for all ranks
        sums[7 + self.rank] = waited + self.stopwatch.read()
        means = self.over_ranks(sums, statistics.means())
        if applied:
            statistics.move(means)
        if self.ema is not None and applied:
            self.ema.update(self.engine)
        *own, damaged, usr2, term, due = (told := sums.tolist())[:7]
        seconds, self.damaged, self.due = told[7:], int(damaged), bool(due)
        self.asked = self.notice.agreed([usr2, term])
        state.window = [a + b for a, b in zip(state.window, own, strict=True)]
        self.seconds = [a + b for a, b in zip(self.seconds, seconds, strict=True)]
        state.skipped, state.in_a_row = state.skipped + (not applied), 0 if applied else state.in_a_row + 1
        row: dict[str, Any] = {"step": state.step + 1, "epoch": state.cursor.epoch, "lr": lr}
        if logs:
            loss_sum, correct_sum, count = state.window
            state.window = [0.0, 0.0, 0.0]
            self.firing = firing
            row |= {
                "loss": loss_sum / count if count else None,
                "accuracy": correct_sum / count if count else None,
                "grad_norm": norm,
                "firing_rate": sum(f.rate for f in firing.values()) / len(firing),
                "silent": sum(f.silent for f in firing.values()) / len(firing),
            }
            row |= {"skipped": state.skipped} if state.skipped else {}
        return row

    def left_out(self, monitor: Monitor) -> None:
        """Tell of a step whose loss or gradient was not finite, with the ids of its batch. Raises RunError, on all
        ranks, after too many of them in a row."""
        state, cursor, limit = self.state, self.state.cursor, self.config.health.skips
        order = epoch_order(cursor, self.data.shard_of, self.config.data.window)
        ids = global_batch(order, cursor.step, cursor.global_batch)
        line = f"the loss or the gradient of step {state.step + 1} is not finite: left out ({state.skipped} so far)"
        monitor.warn(line, step=state.step + 1, epoch=cursor.epoch, ids=ids.tolist())
        if state.in_a_row > limit:
            raise RunError(
                f"{state.in_a_row} steps in a row without a finite loss and gradient (health.skips={limit}), the last "
                f"is {state.step + 1}; their samples are in {self.folder.health.path}. Lower train.lr or set "
                "train.clip_grad; the run goes on from its last checkpoint"
            )

    def skip_samples(self, micro_batches: list[Batch], monitor: Monitor) -> None:
        """Note the samples that some rank could not read in this step, so that a run that goes on passes over the same
        ones. Raises DataError, on all ranks, when there are too many."""
        found: list[dict[int, str]] = [{}] * self.world
        dist.all_gather_object(found, {i: line for batch in micro_batches for i, line in batch.damaged.items()})
        state, limit = self.state, self.config.data.skips
        new = {i: line for one in found for i, line in one.items() if i not in state.cursor.damaged}
        damaged = tuple(sorted({*state.cursor.damaged, *new}))
        state.cursor = replace(state.cursor, damaged=damaged)
        for i, line in sorted(new.items()):
            monitor.warn(f"sample {i} is skipped: {line}", step=state.step + 1, sample=i)
        if new and len(damaged) > limit:
            raise DataError(f"{len(damaged)} training samples are damaged (data.skips={limit}); one: {new[max(new)]}")

    def examine(self, row: dict[str, Any], monitor: Monitor) -> None:
        """Warn of what a logged step shows."""
        lines = self.alarms.loss(row["loss"]) + self.alarms.ranks(self.seconds) + self.alarms.firing(self.firing)
        self.seconds = [0.0] * self.world
        for line in lines:
            monitor.warn(line, step=row["step"], epoch=row["epoch"])

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Images `[B, C, H, W]`, or frames `[T, B, 2, H, W]`, and targets `[B, K]` of the head's K outputs on the
        device, mixed if asked; and the labels `[B]`."""
        config, cursor = self.config, self.state.cursor
        images = to_device(batch.images, self.data.mean, self.data.std, self.device)
        labels = batch.labels.to(self.device)
        targets = soft_targets(labels, self.engine.module.config["num_classes"], config.train.label_smoothing)
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
        return time_first(images), targets, labels

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16")

    def over_ranks(self, sums: Tensor, means: Tensor) -> Tensor:
        """Sum `sums` and average what BatchNorm measured, in one small all-reduce a step: the ranks' running statistics
        stay equal, so that evaluation and checkpoints do not depend on which of them did it."""
        if self.world == 1:
            return means
        packed = torch.cat([sums, means.double() / self.world])
        dist.all_reduce(packed)
        sums.copy_(packed[: len(sums)])
        return packed[len(sums) :].to(means.dtype)

    def evaluate(self) -> dict[str, Any]:
        """Accuracy and loss over the whole validation set, of the averaged weights where there are some."""
        if self.ema is not None:
            model = tdformer.create_model(**self.engine.module.config).to(self.device)
            model.load_state_dict(self.ema.average)
        else:
            model = self.engine.module
        model.eval()
        with self.autocast():
            result = evaluate(
                model,
                self.validation,
                self.device,
                self.plan.micro_batch,
                self.workers,
                self.watchdog.alive,
                self.view,
            )
        self.watchdog.alive()
        self.engine.train()
        self.state.accuracy = result["accuracy"]
        self.best = result["accuracy"] >= self.state.best_accuracy
        self.state.best_accuracy = max(self.state.best_accuracy, result["accuracy"])
        return {"step": self.state.step, "epoch": self.state.cursor.epoch} | {
            f"eval_{key}": value for key, value in result.items()
        }

    def save(self) -> None:
        """Begin a checkpoint: all ranks gather it together, rank 0 writes it while training goes on."""
        self.saved()
        keep = self.rank == 0
        parts = {"model": engines.weights(self.engine, keep), "optimizer": engines.moments(self.engine, keep)}
        if keep:
            if self.ema is not None:
                parts["ema"] = {k: v.to("cpu", copy=True) for k, v in self.ema.average.items()}
            metrics = self.folder.metrics
            self.state.metrics_bytes, self.state.metrics_sha256 = metrics.size(), metrics.digest()
            saved = {"format": checkpoint.FORMAT, "state": self.state.to_dict()}
            saved |= {"model": self.engine.module.config, "config": flat(self.config), "classes": self.classes}
            self.saver.begin(self.state.step, parts, saved, self.best, self.folder.metrics.sync)
        self.best = False

    def saved(self) -> None:
        """Wait for the checkpoint that is being written, however long it takes, as long as it gets on; its failure is
        every rank's."""
        rounds = min(5.0, self.watchdog.seconds / 4)
        before = None
        while (progress := self._agree(lambda: self.saver.wait(rounds))) is not None:
            if progress != before:
                self.watchdog.alive()
            before = progress
        self.watchdog.alive()

    def _agree(self, act: Any) -> Any:
        """Run `act` on rank 0 and give its result, or its error, to all ranks."""
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                result = act()
                outcome = [str(result) if result is not None else None, None]
            except (RunError, DataError) as error:
                outcome = [None, str(error)]
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise RunError(outcome[1])
        return outcome[0]

    def _same_data(self) -> list[str]:
        """The host of each rank. Raises RunError, on all ranks, where theirs are not the same data."""
        seen: list[tuple[str, str]] = [("", "")] * self.world
        dist.all_gather_object(seen, (socket.gethostname(), self.data.digest))
        (first, digest), *others = seen
        for host, other in others:
            if other != digest:
                raise RunError(
                    f"{self.data.folder} has digest {digest[:12]} on {first} and {other[:12]} on {host}; copy the same "
                    "shards to all machines"
                )
        return [host for host, _ in seen]

    def _verified_by_all(self, path: Path) -> str | None:
        """What the first machine that finds a fault says of a checkpoint: all use it or none. Of its ranks one looks:
        they have one cache of its file systems."""

        def gather(word: str | None) -> list[str | None]:
            words: list[str | None] = [None] * self.world
            dist.all_gather_object(words, word)
            return words

        return checkpoint.verify_together(
            path, gather, lambda path: (checkpoint.verify(path) or "") if self.first_here else None
        )

    def _warn(self, message: str) -> None:
        if self.rank == 0:
            print(f"warning: {message}", flush=True)


def _together(ranks: int, config: Config) -> dist.ProcessGroup | None:
    """The group of so many neighbouring ranks that this one is in; None: it is alone."""
    if ranks == 1:
        return None
    if ranks == dist.get_world_size():
        return dist.group.WORLD
    return dist.new_subgroups(ranks, timeout=timedelta(minutes=config.engine.timeout_minutes))[0]
