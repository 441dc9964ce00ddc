"""The training loop."""

from __future__ import annotations

import json
import signal
import time
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import tdformer
from pipelines.loader import Batch
from pipelines.order import Cursor, steps_per_epoch
from pipelines.workers import Workers, anywhere, pinned
from tdformer.norm import StepStatistics, norm_batch, step_statistics

from ..build import devices
from ..build.data import input_facts
from ..build.first_weights import Begun
from ..build.model import load_weights
from ..build.setup import Setup
from ..config import flat
from ..run.folder import RunFolder
from ..run.kept import Metrics
from ..run.monitor import Monitor
from ..run.records import write_atomic
from ..signals import KINDS, Leave, Notice
from . import engine as engines
from .agreement import by_all, by_first, neighbours, of_first, same_data
from .evaluate import evaluate
from .feed import Feed
from .graph import Graph, Inputs
from .hooks import chosen
from .reading import Reading, runs_ahead
from .scale import LossScale
from .schedule import learning_rate
from .skips import left_out, skip_samples
from .slots import Addend, Slots
from .state import Checkpoints, TrainState
from .step import Launched, Step
from .stopwatch import Stopwatch
from .watchdog import Watchdog

SLOTS = {"window": 3, "damaged": 1, "stop": len(KINDS), "due": 1}
"""The loop's own, see `Trainer.step`: (loss, correct, images); samples that were not read; signals; time to save. With
fp16 also `broken`: ranks whose loss is not finite."""


class Passed(NamedTuple):
    """What a step's micro-batches give: the slot `window`, what BatchNorm measured, and the update."""

    window: Tensor
    statistics: StepStatistics
    outcome: engines.Outcome


class Trainer:
    """One rank of a run: the model in its engine, the data, the state; `run()` takes it to the end."""

    monitor: Monitor

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
        config, self.setup = setup.config, setup
        self.config, self.folder, self.device, self.notice, self.watchdog = config, folder, device, notice, watchdog
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.checkpoints = Checkpoints(folder, config.checkpoint.keep, watchdog, first_here)
        self.best = False  # whether the weights, as they are, were evaluated and are the best so far
        # What came of a step is known one step later where the device works behind the host; not with ZeRO 3, whose
        # weights may not be gathered between a forward pass and its backward pass.
        self.later = runs_ahead(device) and config.engine.zero_stage < 3
        self.launched: Launched | None = None  # a step of which it is not known yet what came of it
        self.known: list[Step] = []  # those that it is known of since the last one was begun
        self.settled = 0.0  # when it was known of the last one
        self.asked: signal.Signals | None = None  # by whom the run is to end
        self.due = False  # whether it is time to save
        setup.settle(of_first(setup.settled))
        assert setup.test is not None
        self.data, self.validation = setup.samples, setup.test
        self.hosts = same_data(self.data)
        self.plan, self.view = setup.plan, setup.view
        self.epoch_steps = steps_per_epoch(len(self.data), config.train.global_batch)
        self.total_steps = self.epoch_steps * config.train.epochs
        place = pinned if device.type == "cuda" else anywhere
        self.workers = Workers(config.data.workers, self.data, self.validation, place=place)
        self.feed = Feed(setup, self.workers, device)

        model = setup.model()
        self.recompute = setup.recompute()
        kept = self.recompute or config.recompute
        model.set_recompute(kept.policy, kept.borders)
        self.state = TrainState(0, Cursor(config.seed, 0, 0, config.train.global_batch, self.data.digest))
        resumed = self.checkpoints.newest(self.data, self._warn)
        if resumed is not None:
            self.state = resumed.state
            load_weights(model, resumed.parts["model"], resumed.where)
        self.begun: Begun | None = None  # with weights of another model, just now
        if resumed is None and config.model.weights is not None:
            self.begun = begun = by_all(lambda: setup.begin(model, verified=not first_here))
            by_first(lambda: write_atomic(folder.weights_file, (json.dumps(begun.row(), indent=1) + "\n").encode()))
        if config.train.computes_in.scaled:
            self.state.scale = self.state.scale or LossScale(config.train.loss_scale)
        norm_batch(model, self.plan.norm_batch, neighbours(self.plan.norm_ranks, config.engine.timeout_minutes))
        self.outputs: int = model.config["num_classes"]  # of the head
        self.engine = engines.start(model, config, self.plan)
        self.graph = Graph(self.engine, self.passes) if config.engine.graph else None
        if resumed is not None:
            engines.restore_moments(self.engine, resumed.parts["optimizer"], self.state.step - self.state.skipped)

        rows: list[Metrics] = []

        def take_up() -> None:
            folder.metrics.truncate(self.state.metrics_bytes, self.state.metrics_sha256)
            rows.extend(folder.metrics.read("step"))

        by_first(take_up)
        self.stopwatch = Stopwatch(device)
        self.hooks = chosen(config)
        broken = {} if self.state.scale is None else {"broken": 1}
        self.slots = Slots(SLOTS | broken | self.hooks.slots(self.world), device)
        self.hooks.begin(self, rows, resumed)

    def run(self, monitor: Monitor) -> dict[str, object]:
        """Train to the last epoch; returns the summary. All ranks call it together.

        Raises Leave after a signal, once the step is done and saved."""
        self.watchdog.alive()  # making this was no step
        self.monitor = monitor
        summary: dict[str, object] | None = None
        try:
            if self.end_epoch():  # it was stopped at its epoch's end, before this
                self.save()
            while self.state.step < self.total_steps:
                self.epoch()
            self.saved()
            accuracies = {"accuracy": self.state.accuracy, "best_accuracy": self.state.best_accuracy}
            summary = {"step": self.state.step, "epochs": self.config.train.epochs, **accuracies}
        finally:
            self.hooks.end(summary)
        return summary

    def epoch(self) -> None:
        """The steps that are left of one, its evaluation, and the checkpoints that are due."""
        self.engine.train()
        every = self.config.checkpoint.every_steps
        for batches, waited in self.feed.batches(self.state.cursor):
            self.watchdog.alive()
            step = self.step(batches, waited)
            pause = self.state.cursor.step == 0 or bool(every and step.number % every == 0)
            if pause or self.due or self.asked is not None:
                self.settle()
            for known in self.known:
                if known.logs:
                    self.monitor.row(known.row)
                    self.hooks.logged(known)
                self.monitor.step(known.number, known.epoch, known.lap)
            if self.asked is not None:
                self.leave(self.asked)
            self.end_epoch()
            if pause or self.due:
                self.save()

    def step(self, batches: list[Batch], waited: float) -> Step:
        """One optimizer step over this rank's share of a global batch, which was waited `waited` seconds for; and what
        came of the one before, if that is not known yet."""
        config, state, train = self.config, self.state, self.config.train
        self.known = []
        step = Step(
            number=state.step + 1,
            epoch=state.cursor.epoch,
            lr=learning_rate(train, state.step, self.epoch_steps),
            logs=(state.step + 1) % config.log.every_steps == 0,
            images=train.global_batch,
            begun=time.perf_counter() - waited,
            waited=waited,
        )
        # Whatever draws from torch's generator does so as a function of (seed, step, rank): nothing to save.
        torch.manual_seed(zlib.crc32(f"{config.seed} {state.step} {self.rank}".encode()))
        engines.set_lr(self.engine, step.lr)
        with self.hooks.during(step):
            looked_at = self.graph is None or step.logs  # by hooks, at units
            window, statistics, outcome = (self.computed if looked_at else self.replayed)(step, batches)
        step.worked = self.stopwatch.read()
        damaged = {i: line for batch in batches for i, line in batch.damaged.items()}
        shares: dict[str, Addend] = {
            "window": window.where(outcome.applied, 0.0),
            "damaged": sum(len(batch.damaged) for batch in batches),
            "stop": self.notice.seen,
            "due": self.rank == 0 and self.checkpoints.due(config.checkpoint.every_minutes),  # one clock for all ranks
        }
        if step.scale is not None:
            shares["broken"] = (~window[0].isfinite()).double()
        sums, means = self.slots.summed(shares | self.hooks.share(step), statistics.means())
        numbers = Reading(torch.cat([sums, torch.stack([outcome.applied.double(), outcome.norm])]))
        self.launched = Launched(step, state.cursor, numbers, statistics, means, damaged)
        self.feed.send_next()
        state.step += 1
        state.cursor = state.cursor.advance(len(self.data))
        if step.logs or not self.later:
            self.settle()
        return step

    def computed(self, step: Step, batches: list[Batch]) -> Passed:
        """The micro-batches of a step, one after the other."""
        window = self.nothing()
        with step_statistics() as statistics:
            for batch in batches:
                with self.stopwatch:
                    images, targets, labels = self.feed.inputs(batch, self.state.cursor, self.outputs)
                    logits = self.forward(images)
                self.settle()  # now that the device has something to do while the host waits
                step.scale = None if self.state.scale is None else self.state.scale.value
                window += self.backward(logits, targets, labels, step.scale)
                del logits  # and with them what backward was computed from
                outcome = engines.update(self.engine, self.config.train.clip_grad, step.scale)
        assert outcome is not None  # of the last micro-batch
        return Passed(window, statistics, outcome)

    def replayed(self, step: Step, batches: list[Batch]) -> Passed:
        """The same by the graph, which has all of them at once."""
        assert self.graph is not None
        with self.stopwatch:
            inputs = [self.feed.inputs(batch, self.state.cursor, self.outputs) for batch in batches]
            window, statistics = self.graph.replay(inputs)
        self.settle()
        engines.take(self.engine, self.graph.gradients)
        outcome = engines.update(self.engine, self.config.train.clip_grad)
        assert outcome is not None
        return Passed(window, statistics, outcome)

    def passes(self, inputs: Sequence[Inputs]) -> Tensor:
        """What the graph records."""
        window = self.nothing()
        for images, targets, labels in inputs:
            window += self.backward(self.forward(images), targets, labels)
        return window

    def nothing(self) -> Tensor:
        """The slot `window` of no image."""
        return torch.zeros(SLOTS["window"], dtype=torch.float64, device=self.device)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of a micro-batch, `[N, B, K]`."""
        with devices.autocast(self.device, self.config.train.precision):
            logits: Tensor = self.engine(images)
        return logits

    def backward(self, logits: Tensor, targets: Tensor, labels: Tensor, scale: float | None = None) -> Tensor:
        """A micro-batch's gradients, and what it adds to `window`."""
        loss = tdformer.segment_loss(logits, targets, self.config.train.alphas)
        # Times 1; a loss that is not finite makes its gradient so, and the step is left out on all ranks.
        engines.backward(self.engine, loss * (1 + 0 * loss.detach()), scale)
        correct = (logits[-1].argmax(1) == labels).sum()
        count = torch.full_like(correct, len(labels))
        return torch.stack([loss.detach() * len(labels), correct, count])

    def settle(self) -> None:
        """What came of the step that was launched last, once its numbers are there. Weights and moments are as it left
        them, for `step` calls this before it updates them. All ranks call it together."""
        if self.launched is None:
            return
        launched, self.launched, state = self.launched, None, self.state
        step = launched.step
        *sums, applied, step.grad_norm = launched.numbers.wait()
        step.applied, step.sums = bool(applied), self.slots.named(sums)
        if step.applied:
            launched.statistics.move(launched.means)
        self.account(step)
        if step.sums["damaged"][0]:
            skip_samples(state, step, launched.damaged, self.config.data.skips, self.monitor)
        if not (step.applied or step.overflow):
            left_out(state, step, launched.cursor, self.data, self.config, self.monitor)
        self.asked = self.notice.agreed(step.sums["stop"])
        self.due = self.due or bool(step.sums["due"][0])
        step.begun = max(step.begun, self.settled)  # the time before is the last one's
        self.hooks.step(step)
        self.settled = time.perf_counter()
        self.known.append(step)

    def account(self, step: Step) -> None:
        """What a step adds to the state, and its row for metrics.jsonl."""
        state = self.state
        state.window = [a + b for a, b in zip(state.window, step.sums["window"], strict=True)]
        state.skipped += not step.applied
        if state.scale is not None:
            step.overflow = not (step.applied or state.scale.least or step.sums["broken"][0])
            state.scale = state.scale.after(step.applied, self.config.train.growth_interval)
        state.in_a_row = 0 if step.applied else state.in_a_row + (not step.overflow)
        step.row = {"step": step.number, "epoch": step.epoch, "lr": step.lr}
        if step.logs:
            (loss, correct, count), state.window = state.window, [0.0, 0.0, 0.0]
            step.loss = loss / count if count else None
            means = {"loss": step.loss, "accuracy": correct / count if count else None}
            step.row |= means | {"grad_norm": step.grad_norm} | ({"skipped": state.skipped} if state.skipped else {})
            step.row |= {} if state.scale is None else {"loss_scale": state.scale.value}

    def end_epoch(self) -> bool:
        """Between two epochs: evaluate, if it is due. False: there was nothing to do."""
        epoch = self.state.cursor.epoch
        if self.state.cursor.step or epoch <= self.state.evaluated:
            return False
        self.state.evaluated = epoch
        if epoch % self.config.train.eval_every_epochs == 0 or epoch == self.config.train.epochs:
            row = self.evaluate()
            self.monitor.evaluation(row)
            self.hooks.evaluated(row)
        return True

    def evaluate(self) -> dict[str, object]:
        """Accuracy and loss over the whole validation set, of the averaged weights where there are some."""
        model = self.engine.module
        if (weights := self.hooks.weights()) is not None:
            model = self.setup.trained(model.config, weights, self.folder.path).to(self.device)
        model.eval()
        micro_batch, alive = self.plan.micro_batch, self.watchdog.alive
        with devices.autocast(self.device, self.config.train.precision):
            result = evaluate(model, self.validation, self.device, micro_batch, self.workers, alive, self.view)
        alive()
        self.engine.train()
        self.state.accuracy = result["accuracy"]
        self.best = result["accuracy"] >= self.state.best_accuracy
        self.state.best_accuracy = max(self.state.best_accuracy, result["accuracy"])
        return {"step": self.state.step, "epoch": self.state.cursor.epoch} | {
            f"eval_{key}": value for key, value in result.items()
        }

    def save(self) -> None:
        """Begin a checkpoint: all ranks gather it together, the first one writes it while training goes on."""
        self.saved()
        first = self.rank == 0
        parts = {"model": engines.weights(self.engine, first), "optimizer": engines.moments(self.engine, first)}
        self.state.hooks = self.hooks.state()
        if first:
            made = {"model": self.engine.module.config, "config": flat(self.config)}
            seen = {"frames": self.data.kind.frames, "input": input_facts(self.data)}
            rest = made | {"classes": self.data.class_names} | seen
            self.checkpoints.begin(parts | self.hooks.tensors(), self.state, rest, self.best)
        self.best = self.due = False
        self.hooks.saved(self.state.step)

    def saved(self) -> None:
        """Wait for the checkpoint that is being written."""
        self.checkpoints.wait()

    def leave(self, kind: signal.Signals) -> None:
        """Save, and raise Leave."""
        self.save()
        self.saved()
        raise Leave(kind, self.state.step)

    def _warn(self, message: str) -> None:
        if self.rank == 0:
            print(f"warning: {message}", flush=True)
