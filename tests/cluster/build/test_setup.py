"""What a configuration makes is made once, and refused before a start where it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from cluster.build.optimizers import OPTIMIZERS, Optimizer
from cluster.build.setup import Setup
from cluster.build.shards import write_shards
from cluster.config import Config, load
from cluster.errors import RunError
from tdformer.policies import Choice

WORDS = ["data.dataset=digits", "train.global_batch=480", "data.augment.flip=0.5"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    write_shards("digits", folder := tmp_path_factory.mktemp("setup") / "shards")
    return folder


@pytest.fixture
def config(shards: Path) -> Config:
    return load(None, [*WORDS, f"data.root={shards}"])


def test_each_part_is_made_once_and_fits_the_others(config: Config) -> None:
    setup = Setup.to_train(config, 2)
    setup.check()
    parts = setup.plan, setup.outline, setup.augment, setup.view
    setup.check()
    assert all(a is b for a, b in zip(parts, (setup.plan, setup.outline, setup.augment, setup.view), strict=True))
    assert (setup.plan.world, setup.plan.micro_batch, len(setup.samples)) == (2, 240, 1437)
    assert all(p.is_meta for p in setup.outline.parameters())
    one, other = setup.model(), setup.model()
    assert one is not other and not any(p.is_meta for p in one.parameters())
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_what_the_first_rank_has_settled_is_everybody_s(config: Config) -> None:
    setup = Setup.to_train(config, 2)
    plan, own = setup.plan, setup.settled
    setup.settle(own._replace(weights="runs/one@7", sha256="0" * 64))
    assert setup.plan is plan and (config.model.weights, config.model.weights_sha256) == ("runs/one@7", "0" * 64)
    setup.settle(own._replace(norm_batch=60, micro_batch=60, recompute=Choice("unit", 2)))
    assert config.model.weights is None and (config.recompute.policy, config.recompute.borders) == ("unit", 2)
    assert setup.plan.micro_batch == 60
    assert (plan.norm_batch, setup.plan.norm_batch, config.train.norm_batch) == (120, 60, 60)


def test_a_batch_larger_than_the_data_is_for_evaluation_alone(shards: Path) -> None:
    config = load(None, [*WORDS, f"data.root={shards}", "train.global_batch=1500"])
    assert len(Setup.to_evaluate(config).samples) == 360 and Setup.to_evaluate(config).plan.global_batch == 1500
    with pytest.raises(RunError, match="train.global_batch=1500 exceeds the 1437 training images"):
        Setup.to_train(config, 1).check()


def test_lamb_without_timm_is_refused_in_a_line(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    monkeypatch.delitem(sys.modules, "cluster.build.lamb", raising=False)
    config.train.optimizer = "lamb"
    with pytest.raises(
        RunError, match="train.optimizer=lamb is timm's, which does not import here .*; pip install"
    ) as e:
        Setup.to_train(config, 1).check()
    assert "\n" not in str(e.value)


def test_whole_parameters_are_not_what_zero_gives(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPTIMIZERS, "_entries", {**OPTIMIZERS._entries})
    OPTIMIZERS.register("layers", Optimizer(OPTIMIZERS.get("sgd").make, ("momentum_buffer",), elementwise=False))
    config.train.optimizer = "layers"
    Setup.to_train(config, 1).check()
    config.engine.zero_stage = 1
    with pytest.raises(RunError, match="train.optimizer=layers takes steps of whole parameters"):
        Setup.to_train(config, 1).check()
    config.train.optimizer = "sgd"
    Setup.to_train(config, 1).check()
