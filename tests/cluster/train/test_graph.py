"""A step as a graph is the step without one, to the bit: on a GPU, which may be emulated (`tests/emulated.py`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from emulated import gpus
from event_files import gestures
from forked import TDFORMER, torchrun
from same_run import assert_equal

from cluster.build.setup import Setup
from cluster.build.shards import write_shards
from cluster.config import load
from cluster.errors import RunError
from cluster.run.folder import RunFolder

RUNS = """\
import math, os, signal
import tdformer, torch
from cluster.cli import main
from cluster.train import feed, graph, loop

inputs, step, replay, forward = feed.Feed.inputs, loop.Trainer.step, graph.Graph.replay, tdformer.TDFormer.forward
begin, own = torch.cuda.CUDAGraph.capture_begin, []

def poisoned(feed, batch, cursor, outputs):
    images, targets, labels = inputs(feed, batch, cursor, outputs)
    return images, targets * (math.inf if poisoned.on else 1), labels

def noted(trainer, *given):
    number = trainer.state.step + 1
    poisoned.on = number == 2
    if number == int(os.environ.get("KILLED", 0)):
        trainer.saved()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(trainer, *given)

def drawing(model, images):
    if model.training and not images.is_meta:
        images = images + torch.rand_like(images) / 8
        assert not os.environ.get("LOOKS") or images.max() > 0
    return forward(model, images)

def told(graph, given):
    own[:] = [graph]
    print("replayed", flush=True)
    return replay(graph, given)

def begun(*given, **named):
    assert not own[0].gradients and own[0]._result is None  # whose memory a capture could not have
    assert all(p.grad is None for p in own[0]._engine.module.parameters())
    return begin(*given, **named)

torch.cuda.CUDAGraph.capture_begin = begun
feed.Feed.inputs, loop.Trainer.step, graph.Graph.replay, tdformer.TDFormer.forward = poisoned, noted, told, drawing
main()
"""
RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, width: 48, depths: [1, 1, 1], heads: 2}
data: {dataset: digits, root: SHARDS, share: 0.35, augment: {crop_padding: 1}, mixup: 0.2}
train: {epochs: 2, global_batch: 8, micro_batch: 4, clip_grad: 0.5, ema_decay: 0.9, threads: 1}
checkpoint: {every_steps: 3, every_minutes: null, keep: 4}
log: {curves: false, every_steps: 4}
"""
STEPS = 6
"""In two epochs, of which the second one leaves its weights, and the fourth one logs."""
FED_BACK = ("model.segments=2", "model.feedback=all")
CASES = {
    "none": (1, "train.micro_batch=8", "train.norm_batch=4"),
    "unit": (1, *FED_BACK, "recompute.policy=unit", "train.precision=bf16"),
    "block": (1, "recompute.policy=block", "train.optimizer=lamb"),
    "ranks": (2, *FED_BACK, "train.micro_batch=2", "train.norm_batch=2"),
}
"""By how many GPUs they need. One micro-batch of two norm batches, and two micro-batches; N = 1 and 2."""
Start = Callable[..., tuple[CompletedProcess[str], Path]]
"""A run by some ranks; what the first one said."""


@pytest.fixture(scope="module")
def start(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("graph")
    (folder / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))

    def start(
        runs: str, *words: str, ranks: int = 1, program: str = RUNS, **environment: int
    ) -> tuple[CompletedProcess[str], Path]:
        env = os.environ | {name: str(value) for name, value in environment.items()}
        given = ("train", folder / "recipe.yaml", f"runs_dir={folder / runs}", *words)
        started = torchrun(ranks, *given, cwd=folder, env=env, program=program)
        first, *others = [command.completed() for command in started]
        print(first.stdout, *(done.stderr for done in (first, *others)))
        assert {done.returncode for done in others} <= {first.returncode}
        return first, folder / runs

    return start


@pytest.mark.gpu
@pytest.mark.parametrize("case", [pytest.param(case, marks=gpus(count)) for case, (count, *_) in CASES.items()])
def test_a_run_by_a_graph_is_the_run_without(start: Start, case: str) -> None:
    """Metrics, weights, moments and their average, with a step that is left out, one that logs, which runs without,
    random numbers in the model, and an evaluation between two epochs; `unit` is killed, too, and goes on."""
    ranks, *words = CASES[case]
    words = ["engine.device=cuda", *words]
    done, eager = start(f"{case}-eager", *words, ranks=ranks)
    assert done.returncode == 0 and "replayed" not in done.stdout
    if case == "unit":
        killed, _ = start(f"{case}-graph", *words, "engine.graph=true", KILLED=6)
        assert killed.returncode == -9 and killed.stdout.count("replayed") == 4
    done, graphed = start(f"{case}-graph", *words, "engine.graph=true", ranks=ranks)
    assert done.returncode == 0
    assert done.stdout.count("replayed") == (2 if case == "unit" else STEPS - 1)
    assert_equal(eager, graphed)
    (row,) = (row for row in RunFolder(graphed / "run").metrics.read("step") if "lr" in row)
    assert row["step"] == 4 and row["skipped"] == 1


@pytest.mark.gpu
@gpus(1)
def test_a_step_that_looks_at_a_number_has_no_graph(start: Start) -> None:
    """The line says at which operator, though a capture that is broken cannot be ended either."""
    done, _ = start("looks", "engine.device=cuda", "engine.graph=true", LOOKS=1)
    assert done.returncode == 2 and done.stderr.count("\nerror: ") + done.stderr.startswith("error: ") == 1
    assert "engine.graph=true: no graph of this step (" in done.stderr
    assert "not permitted when stream is capturing" in done.stderr


def test_what_no_graph_holds_is_refused(start: Start, few_digits: Path, tmp_path: Path) -> None:
    """In one line, on every way to it: by its settings, where there is no GPU, and by the data's kind."""
    words = (f"data.root={few_digits}", "data.dataset=digits", "model.name=quickstart", "engine.graph=true")
    for word, why in {
        "engine.zero_stage=2": "engine.zero_stage=2 hands gradients on by Python",
        "train.precision=fp16": "train.precision=fp16 takes a loss scale",
        "train.norm_batch=8": "2 processes exchange a norm batch of 8",
    }.items():
        setup = Setup.to_train(load(None, [*words, "train.global_batch=8", "train.micro_batch=4", word]), 2)
        with pytest.raises(RunError, match=f"engine.graph=true records forward and backward passes, and {why}"):
            setup.check()
    done, _ = start("cpu", "engine.graph=true", program=TDFORMER)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "engine.graph=true records what a GPU is asked for, and there is none (cpu)" in done.stderr
    gestures(tmp_path / "recordings", {"train": 2, "test": 1})
    write_shards("dvs128_gesture", tmp_path / "events", tmp_path / "recordings")
    events = (f"data.root={tmp_path / 'events'}", "data.dataset=dvs128_gesture", "data.size=16", "data.share=1")
    less = ("data.mixup=0", "data.augment.crop_padding=0", "recompute.policy=unit", "train.global_batch=4")
    done, _ = start("frames", "engine.graph=true", *events, *less)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "recompute.policy=unit packs frames of events by their largest number" in done.stderr
