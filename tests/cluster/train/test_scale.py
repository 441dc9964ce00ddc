"""fp16: a loss scale that moves as torch's, steps that are those of torch's GradScaler at each ZeRO stage, and runs
that are killed between an overflow and the next growth and go on to the bit."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forked import Command, apart
from hypothesis import given
from hypothesis import strategies as st
from same_run import assert_equal
from torch import Tensor

import tdformer
from cluster.build.devices import autocast
from cluster.build.optimizers import OPTIMIZERS
from cluster.config import Config, load, resolve
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from cluster.run.words import worded
from cluster.train.scale import LEAST, MOST, LossScale
from cluster.train.state import TrainState
from pipelines.order import Cursor
from pipelines.raw import catalog
from pipelines.raw.arrays import ArrayDataset
from pipelines.store import tar_writer

CPU = torch.device("cpu")


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4), st.integers(45, 127))
def test_it_moves_as_torch_s(steps: list[bool], interval: int, power: int) -> None:
    """Over any sequence of overflows, up to the largest power of two that is left in fp32."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**power, growth_interval=interval)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer, scale = torch.optim.SGD([weight], lr=1.0), LossScale(2.0**power)
    for finite in steps:
        scaler.scale(weight.sum()).backward()
        assert weight.grad is not None and float(weight.grad) == scale.value
        if not finite:
            weight.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scale = scale.after(finite, interval)
        found = scaler.state_dict()
        assert (found["scale"], found["_growth_tracker"]) == (scale.value, scale.finite)
    assert float(weight.detach()) == -sum(steps)


@given(st.floats(LEAST, MOST), st.lists(st.booleans(), max_size=200), st.integers(1, 3))
def test_it_stays_within_its_bounds(value: float, steps: list[bool], interval: int) -> None:
    scale = LossScale(value)
    for finite in steps:
        before, scale = scale, scale.after(finite, interval)
        assert LEAST <= scale.value <= MOST and 0 <= scale.finite < interval
        assert finite or before.least or scale.value < before.value


def test_it_is_in_the_state_with_fp16_alone() -> None:
    """What an earlier version wrote has none; and what runs without fp16 write is what they wrote before."""
    cursor = Cursor(0, 0, 0, 8, "digest")
    plain = TrainState(3, cursor).to_dict()
    assert "scale" not in plain and TrainState.from_dict(plain).scale is None
    state = TrainState(3, cursor, scale=LossScale(2.0**18, 7))
    assert TrainState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
    with pytest.raises(TypeError):
        TrainState.from_dict(plain | {"scale": asdict(LossScale(1.0)) | {"other": 1}})


def test_it_is_told_as_a_power_of_two() -> None:
    assert worded("loss_scale", 65536.0) == "loss scale 2^16" and worded("loss_scale", 1.0) == "loss scale 2^0"
    assert worded("loss_scale", 1500.0) == "loss scale 1500"


# Steps of an engine, against those of torch.

STEPS, MICRO, CLIP, INTERVAL, SCALE = 5, 4, 0.5, 2, 2.0**20
WORDS = ["train.precision=fp16", f"train.global_batch={2 * MICRO}", f"train.micro_batch={MICRO}", "train.lr=1e-5"]


def small() -> tdformer.TDFormer:
    torch.manual_seed(0)
    return tdformer.create_model("quickstart", time_steps=2, in_channels=1, image_size=8).train()


def batches() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Of each step, its two micro-batches."""
    rng = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        yield [
            (torch.rand(MICRO, 1, 8, 8, generator=rng), torch.randint(10, (MICRO,), generator=rng)) for _ in range(2)
        ]


STAGES = (0, 1, 3)

Told = tuple[list[tuple[bool, float]], dict[str, Tensor]]
"""Of each step, whether it was taken and the scale after it; and at the end the means of gradients that AdamW keeps."""


def by_torch(config: Config) -> Told:
    """A loop as torch's pages write it."""
    from cluster.train.engine import parameter_groups

    model, train, told = small(), config.train, []
    optimizer = OPTIMIZERS.get("adamw").make(parameter_groups(model, train.weight_decay, train.layer_decay), train)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=INTERVAL)
    for group in optimizer.param_groups:
        group["lr"] = train.lr
    for step in batches():
        for images, labels in step:
            with torch.autocast("cpu", torch.float16):
                logits = model(images)
            scaler.scale(tdformer.segment_loss(logits, labels) / len(step)).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        told.append((bool(norm.isfinite()), scaler.get_scale()))
    return told, {f"exp_avg.{name}": optimizer.state[value]["exp_avg"] for name, value in model.named_parameters()}


def by_us(config: Config) -> Told:
    from cluster.train import engine

    running, scale, told = engine.start(small(), config, resolve(config, 1)), LossScale(SCALE), []
    engine.set_lr(running, config.train.lr)
    for step in batches():
        for images, labels in step:
            with autocast(CPU, config.train.precision):
                logits = running(images)
            engine.backward(running, tdformer.segment_loss(logits, labels), scale.value)
            outcome = engine.update(running, CLIP, scale.value)
        assert outcome is not None and (outcome.norm < 100) == outcome.applied
        scale = scale.after(bool(outcome.applied), INTERVAL)
        told.append((bool(outcome.applied), scale.value))
    return told, {key: value for key, value in engine.moments(running, True).items() if key.startswith("exp_avg.")}


def both(folder: Path) -> None:
    from cluster.train import engine

    torch.set_num_threads(1)
    engine.init_distributed(0, 1, dist.FileStore(str(folder / "meet"), 1), wanted="cpu")
    found: list[Told] = []
    for stage in STAGES:
        config = load(None, [*WORDS, f"train.clip_grad={CLIP}", f"engine.zero_stage={stage}"])
        found.append(by_us(config))
    found.append(by_torch(config))
    images, labels = next(batches())[0]
    losses = []
    for precision in ("fp32", "fp16"):
        with autocast(CPU, precision):
            losses.append(float(tdformer.segment_loss(small()(images), labels).detach()))
    torch.save((found, losses), folder / "told")


def test_steps_are_those_of_torch_s_gradscaler(tmp_path: Path) -> None:
    """Two micro-batches a step, clipped; the first steps overflow, then it grows into the next overflow."""
    apart(both, tmp_path)
    (*stages, (told, means)), (loss32, loss16) = torch.load(tmp_path / "told", weights_only=True)
    assert {applied for applied, _ in told} == {True, False} and any(b > a for (_, a), (_, b) in pairwise(told))
    assert loss16 == pytest.approx(loss32, rel=0.05) and loss16 != loss32
    whole = torch.cat([value.flatten() for value in means.values()])
    assert whole.norm() > 0.02
    for stage, (own, found) in zip(STAGES, stages, strict=True):
        difference = torch.cat([(found[name] - value).flatten() for name, value in means.items()])
        # ZeRO 3 has a linear layer of its own, which rounds otherwise in fp16.
        assert own == told and difference.norm() <= (0.0, 1e-5, 1e-2)[STAGES.index(stage)] * whole.norm(), stage


# Runs.

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2}
data: {dataset: digits, root: shards}
train:
  {epochs: 1, global_batch: 8, micro_batch: 4, norm_batch: 4, lr: 0.003, clip_grad: 1.0, ema_decay: 0.9, threads: 1,
   precision: fp16, loss_scale: 524288, growth_interval: 3}
checkpoint: {every_steps: 1, keep: 20}
log: {curves: false, every_steps: 1}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On 56 digits, and 8 for evaluation."""
    digits, file = catalog.get("digits"), tmp_path_factory.mktemp("scale") / "recipe.yaml"
    assert isinstance(digits, ArrayDataset)

    def few(split: str, source: Path | None) -> tuple[Any, Any]:
        count = {"train": 56, "test": 8}[split]
        images, labels = digits.load(split, source)
        return images[:count], labels[:count]

    for split in digits.splits:
        tar_writer.write(replace(digits, load=few), split, file.parent / "shards")
    file.write_text(RECIPE)
    return file


def start(recipe: Path, runs: Path, *words: str, **how: Any) -> Command:
    return Command("train", recipe, f"runs_dir={runs}", *words, cwd=recipe.parent, merged=True, **how)


def finish(recipe: Path, runs: Path, *words: str) -> str:
    process = start(recipe, runs, *words)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def kill_after(step: int, process: Command, runs: Path) -> None:
    saved, deadline = runs / "run" / "checkpoints" / f"step-{step:08d}", time.monotonic() + 120
    while not saved.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for path in checkpoint.complete(saved.parent):  # it may have come further before the signal did
        if checkpoint.step_of(path) > step:
            path.rename(runs / path.name)


@pytest.mark.parametrize(("processes", "stage"), [(1, 0), (2, 1), (2, 3)])
def test_killed_between_an_overflow_and_the_next_growth(
    recipe: Path, tmp_path: Path, processes: int, stage: int
) -> None:
    words = "--processes", str(processes), f"engine.zero_stage={stage}"
    said = finish(recipe, tmp_path / "whole", *words)
    folder = RunFolder(tmp_path / "whole" / "run")
    rows = [row for row in folder.metrics.read() if "lr" in row]
    scales = [2.0**19, *(row["loss_scale"] for row in rows)]
    overflows = [n for n in range(len(rows)) if scales[n + 1] < scales[n]]
    growths = [n for n in range(len(rows)) if scales[n + 1] > scales[n]]
    assert growths and growths[0] - 3 in overflows, scales
    assert [row.get("skipped", 0) for row in rows] == [sum(o <= n for o in overflows) for n in range(len(rows))]
    assert [row["loss"] is None for row in rows] == [n in overflows for n in range(len(rows))]
    assert not [row for row in folder.health.read() if "ids" in row] and "loss scale 2^" in said  # no alarm

    moment = growths[0]  # after so many steps one is left until it grows
    process = start(recipe, tmp_path / "killed", *words)
    kill_after(moment, process, tmp_path / "killed")
    newest = checkpoint.complete(tmp_path / "killed" / "run" / "checkpoints")[0]
    state = checkpoint.load(newest)[1]["state"]
    assert state["step"] == moment and state["scale"] == {"value": scales[moment], "finite": 2}
    assert f"goes on from step {moment} of" in finish(recipe, tmp_path / "killed", *words)
    assert_equal(tmp_path / "whole", tmp_path / "killed")


def test_a_step_is_the_same_however_it_is_cut(recipe: Path, tmp_path: Path) -> None:
    """To rounding in fp16, of the first step; 1024 times the loss is far from an overflow and from a growth."""
    words = "train.loss_scale=1024", "train.growth_interval=100", "train.global_batch=32", "train.norm_batch=8"
    rows = []
    for micro in (8, 32):
        finish(recipe, tmp_path / str(micro), *words, f"train.micro_batch={micro}")
        rows.append(RunFolder(tmp_path / str(micro) / "run").metrics.read()[0])
    assert [row["loss_scale"] for row in rows] == [1024.0, 1024.0] and "skipped" not in rows[0]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-4)
    assert rows[0]["grad_norm"] == pytest.approx(rows[1]["grad_norm"], rel=1e-2)


LARGER = """\
import tdformer
from cluster.cli import main

loss = tdformer.segment_loss
tdformer.segment_loss = lambda *given: loss(*given) * float("FACTOR")
main()
"""


@pytest.mark.parametrize(
    ("factor", "warned", "of"), [("1e30", [3, 4], " at loss scale 1, the least"), ("inf", [1, 2], "")]
)
def test_an_overflow_is_no_alarm_until_the_scale_is_at_its_least(
    recipe: Path, tmp_path: Path, factor: str, warned: list[int], of: str
) -> None:
    """A gradient that overflows at any scale; and a loss that is not finite, which no scale mends."""
    program = LARGER.replace("FACTOR", factor)
    process = start(recipe, tmp_path, "train.loss_scale=4", "health.skips=1", program=program)
    said, _ = process.communicate()
    last = warned[-1]
    assert process.returncode == 2 and "2 steps in a row without a finite loss and gradient (health.skips=1)" in said
    folder = RunFolder(tmp_path / "run")
    alarms = [row for row in folder.health.read() if "ids" in row]
    assert [row["step"] for row in alarms] == warned
    line = f"the loss or the gradient of step {last} is not finite{of}: left out ({last} so far)"
    assert alarms[-1]["warning"] == line
    scales = [row["loss_scale"] for row in folder.metrics.read()]
    assert scales == [2.0, 1.0, 1.0][: last - 1]
