"""What cannot work is refused by its name."""

from __future__ import annotations

import pytest
from configurations import (
    message,
)

from cluster.config import load
from cluster.errors import RunError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train.epochs=0", "at least 1"),
        ("train.lr=0", "above 0"),
        ("train.lr=.nan", "finite"),
        ("train.lr=.inf", "finite"),
        ("train.betas=[0.9, 1.0]", "below 1"),
        ("data.augment.flip=1.5", "at most 1"),
        ("train.precision=fp8", "choose fp32, bf16 or fp16"),
        ("train.loss_scale=0.5", "at least 1"),
        ("train.loss_scale=1e40", "at most"),
        ("model.feedback=frist", "did you mean first?"),
        ("model.feedback=[0,-1]", "at least 0"),
        ("model.feedback=[1,1]", "twice"),
        ("model.cm=4", "choose 1, 2 or 3"),
        ("model.clamp=[1,0]", "lower bound"),
        ("model.v_reset=hard", "give a number or soft"),
        ("model.image_size=[1,2,3]", "height"),
        ("engine.zero_stage=4", "choose 0, 1, 2 or 3"),
        ("name=a/b", "plain file name"),
        ("name=..", "plain file name"),
        ("train.min_lr=1", "above train.lr"),
        ("train.warmup_epochs=2", "exceeds train.epochs=1"),
        ("train.alphas=[0.5,0.6]", "sum to 1"),
        ("train.micro_batch=3", "does not divide 128 images"),
        ("seed=-1", "at least 0"),
    ],
)
def test_values_that_cannot_work_are_refused(given: str, expected: str):
    line = message(given)
    assert expected in line
    assert given.split("=")[0] in line


def test_settings_that_cannot_work_together_are_refused():
    assert "choose 1, 2 or 4" in message("model.time_steps=4", "model.segments=3")
    assert "2 entries" in message("model.segments=3", "train.alphas=[0.5,0.5]")
    assert "is odd" in message("data.mixup=0.8", "train.micro_batch=1")
    assert "is odd" in message("data.cutmix=1", "train.global_batch=5")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model.own=3", "command line: model.own is a section; set one of its keys, like model.own.OPTION"),
        ("model.own.a.b=3", "command line: model.own.a.b is not a setting; the nearest is model.own"),
        (
            "model.own.a={b: 1}",
            "command line: model.own.a is {b: 1}; expected a number, a text, true or false, or a list ",
        ),
        ("model.own.a=inf", "model.own.a is inf; it must be finite"),
        ("model.own.tau=3", "model.own.tau is no option of a backbone; write model.tau, if that is meant"),
        ("model.width=0", "model.width is 0; it must be at least 1"),
        ("model.depths=[1,0]", "model.depths is [1, 0]; it must be at least 1"),
        ("model.mlp_ratio=0", "model.mlp_ratio is 0.0; it must be above 0"),
    ],
)
def test_own_options_and_sizes_that_cannot_be(given: str, expected: str):
    assert message(given).startswith(expected)


@pytest.mark.parametrize("project", ["tdformer", "team/proj", "team/my project", "x" * 128])
def test_a_project_of_wandb_may_name_its_entity(project: str) -> None:
    assert load(None, ["log.wandb=offline", f"log.wandb_project={project}"]).log.wandb_project == project


@pytest.mark.parametrize("project", ["a/b/c", "/b", "a/", "a#b", "a%b", "a:b", "a?b", "a\\b", "x" * 129])
def test_what_wandb_does_not_take_as_a_project_is_refused(project: str) -> None:
    with pytest.raises(RunError, match="give PROJECT or ENTITY/PROJECT"):
        load(None, ["log.wandb=offline", f"log.wandb_project={project}"])
