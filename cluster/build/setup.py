"""A configuration and what it makes: each part when it is first asked for, and once."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from pipelines.samples import Augmentation, Samples, Seen
from tdformer import TDFormer
from tdformer.options import Options
from tdformer.policies import Choice

from ..config import BatchPlan, Config, resolve
from ..errors import RunError
from . import planner
from .data import augmentation, check_kind, opened, training_data, view
from .first_weights import Begun, begin
from .memory import Memory
from .model import build_model, outline, trained_model
from .optimizers import OPTIMIZERS


class Settled(NamedTuple):
    """What all ranks take the first one's word for: another may not see yet that the run was begun, or may have other
    memory."""

    norm_batch: int | None
    micro_batch: int | str
    recompute: Choice
    weights: str | None
    sha256: str | None


class Setup:
    """What training, evaluation and the checks before them take, for `world` processes.

    samples: what the model is fitted to, those of `train`, or in evaluation of `test`. test: what training evaluates
    on. Each part raises RunError, DataError or ModelError where it cannot be made.
    """

    def __init__(self, config: Config, world: int, samples: Samples, test: Samples | None = None) -> None:
        self.config, self.world, self.samples, self.test = config, world, samples, test

    @classmethod
    def to_train(cls, config: Config, world: int, trusted: bool = False) -> Setup:
        """trusted: another process of this machine checks the samples that lie on it."""
        return cls(config, world, *training_data(config, trusted))

    @classmethod
    def to_evaluate(cls, config: Config) -> Setup:
        """In this process, on the samples of `test`."""
        samples = opened(config, "test")
        check_kind(config.data, samples)
        return cls(config, 1, samples)

    @cached_property
    def plan(self) -> BatchPlan:
        """How a batch is split; in training the samples must be enough for one."""
        return resolve(self.config, self.world, None if self.test is None else len(self.samples))

    @cached_property
    def view(self) -> Seen | None:
        """How samples are brought to one size; None: they are taken as they are."""
        return view(self.config, self.samples)

    @cached_property
    def augment(self) -> Augmentation | None:
        return augmentation(self.config, self.samples)

    @cached_property
    def outline(self) -> TDFormer:
        """The model to train, on meta: its shapes without its numbers."""
        return outline(self.config, self.samples)

    def model(self) -> TDFormer:
        """The model to train, with its first weights: another one each time."""
        return build_model(self.config, self.samples)

    def begin(self, model: TDFormer, verified: bool = False) -> Begun:
        """Put `model.weights` into a model to train, or see on meta whether they fit; see `first_weights.begin`."""
        return begin(model, self.config, self.samples, verified)

    def trained(self, options: Options, weights: Mapping[str, Tensor], where: Path) -> TDFormer:
        """The model of trained weights, from the checkpoint or file `where`, in evaluation mode."""
        return trained_model(options, weights, self.config, self.samples, where)

    def recompute(self) -> planner.Recompute | None:
        """What `recompute.policy: auto` chooses; None where the configuration says it. All ranks call it together."""
        return planner.planned(self.outline, self.config, self.plan)

    def check_memory(self, memory: Memory) -> str | None:
        """Compare a step with the memory there is; see `planner.check`."""
        return planner.check(self.outline, self.config, self.plan, memory)

    @property
    def settled(self) -> Settled:
        """As it is for this rank."""
        train, kept, model = self.config.train, self.config.recompute, self.config.model
        choice = Choice(kept.policy, kept.borders)
        return Settled(train.norm_batch, train.micro_batch, choice, model.weights, model.weights_sha256)

    def settle(self, first: Settled) -> None:
        """Take the first rank's word."""
        train, kept, model = self.config.train, self.config.recompute, self.config.model
        model.weights, model.weights_sha256 = first.weights, first.sha256
        kept.policy, kept.borders = first.recompute
        if (first.norm_batch, first.micro_batch) != (train.norm_batch, train.micro_batch):
            train.norm_batch, train.micro_batch = first.norm_batch, first.micro_batch
            self.__dict__.pop("plan", None)

    def cut(self, plan: BatchPlan, recompute: Choice | None = None) -> Setup:
        """The same with its batch split so, and computing so again (None: as it does)."""
        other = copy(self)
        train = replace(self.config.train, micro_batch=plan.micro_batch, norm_batch=plan.norm_batch)
        kept = self.config.recompute
        if recompute is not None:
            kept = replace(kept, policy=recompute.policy, borders=recompute.borders)
        other.config = replace(self.config, train=train, recompute=kept)
        other.__dict__["plan"] = plan
        return other

    def check(self) -> None:
        """Refuse what training could not be begun with."""
        _ = self.plan, self.outline, self.augment, self.view
        train, kind = self.config.train, OPTIMIZERS.get(self.config.train.optimizer)
        made = kind.make([{"params": [p for p in self.outline.parameters() if p.requires_grad]}], train)
        if self.config.engine.zero_stage and not kind.elementwise and not hasattr(made, "over_shares"):
            raise RunError(
                f"train.optimizer={train.optimizer} takes steps of whole parameters, and ZeRO shards them; set "
                "engine.zero_stage=0"
            )
        if self.config.engine.graph:
            self._check_graph()

    def _check_graph(self) -> None:
        """Refuse what one graph of forward and backward passes cannot hold: it runs no Python and meets no rank."""
        train, stage, ranks = self.config.train, self.config.engine.zero_stage, self.plan.norm_ranks
        reasons = {
            f"engine.zero_stage={stage} hands gradients on by Python in between": stage > 0,
            f"train.precision={train.precision} takes a loss scale that the step before decides": (
                train.computes_in.scaled
            ),
            f"{ranks} processes exchange a norm batch of {self.plan.norm_batch} in between": ranks > 1,
        }
        for why, there in reasons.items():
            if there:
                raise RunError(f"engine.graph=true records forward and backward passes, and {why}; set it false")
