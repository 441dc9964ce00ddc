"""No step waits for its device but one that logs or is saved: what came of it is known one step later, on a GPU, which
may be emulated (`tests/emulated.py`). Where that code runs on the CPU, each number that the host reads is counted."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from event_files import gestures
from forked import Command, apart
from same_run import assert_equal
from tape import READ
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cluster.build.shards import write_shards
from cluster.config import load
from cluster.run.folder import RunFolder
from pipelines import delivery
from pipelines.loader import Batch

WORDS = (
    "model.name=quickstart",
    "model.time_steps=2",
    "data.dataset=digits",
    "data.augment.crop_padding=1",
    "train.global_batch=8",
    "train.micro_batch=4",
    "train.threads=1",
    "log.every_steps=3",
)
FED_BACK = ("model.segments=2", "model.feedback=all")
CASES = {
    "none": ("train.clip_grad=0.5",),
    "unit": (*FED_BACK, "recompute.policy=unit", "train.precision=bf16", "train.clip_grad=0.5", "train.ema_decay=0.9"),
    "block": ("recompute.policy=block", "train.precision=bf16", "train.optimizer=sgd"),
    "time": (*FED_BACK, "recompute.policy=time", "train.precision=fp16", "train.ema_decay=0.9"),
    "lamb": ("train.optimizer=lamb",),
    "plif": ("model.neuron=plif", "model.name=sdt_2_256", "model.width=32", "recompute.policy=unit"),
}


WAITS = {"lamb": 1}
"""In each step: LAMB cannot leave out a step by itself, so the norm is waited for."""


class Reads(TorchDispatchMode):
    """Counts where the host looks at a tensor of the device's."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        if str(func._overloadpacket) in READ:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def reads() -> Iterator[list[str]]:
    """What is no operator on a CPU counts, too."""
    with pytest.MonkeyPatch.context() as monkey, Reads() as counted:
        for name in ("tolist", "numpy", "cpu"):
            real = getattr(Tensor, name)

            def told(tensor: Tensor, *given: Any, real: Callable[..., Any] = real, name: str = name) -> Any:
                counted.found.append(name)
                return real(tensor, *given)

            monkey.setattr(Tensor, name, told)
        yield counted.found


class Copies:
    """A way to a device that is this memory."""

    def send(self, batches: list[Batch]) -> list[Batch]:
        return [delivery._each(batch, Tensor.clone) for batch in batches]

    def take(self, batches: list[Batch]) -> None:
        pass


MIXED = {"as they are": (), "cut": ("data.cutmix=1",), "mixed": ("data.mixup=0.5",)}
OF_FRAMES = ("data.dataset=dvs128_gesture", "data.size=16", *FED_BACK, "recompute.policy=unit", *WORDS[-2:])


def frames_step_by_step(folder: Path, shards: Path) -> None:
    """By how frames are mixed, without a lane and with one: what is read in the second step, how wide the first unit
    keeps its input in each segment, and the weights' sums."""
    from cluster.build.setup import Setup
    from cluster.signals import Notice
    from cluster.train import engine, feed, loop
    from cluster.train.watchdog import Watchdog
    from tdformer import kernels, packing, unit

    torch.set_num_threads(1)
    os.environ["TDFORMER_KERNELS"] = "reference"
    kernels._packer = lambda x: kernels.reference
    device = engine.init_distributed(0, 1, dist.FileStore(str(folder / "meet"), 1), wanted="cpu")
    loop.runs_ahead = engine.runs_ahead = lambda device: True
    feed.Feed.send_next = lambda self: None  # or the next step's would be looked at on the host meanwhile
    told: dict[str, list[object]] = {}
    for number, ((name, words), ahead) in enumerate((case, ahead) for case in MIXED.items() for ahead in (False, True)):
        feed.lane = lambda device, ahead=ahead: Copies() if ahead else None
        words = (*WORDS[:2], *OF_FRAMES, "train.global_batch=8", "train.micro_batch=8", *words)
        config = load(None, [*words, f"data.root={shards}", f"runs_dir={folder / str(number)}"])
        run = RunFolder(config.run_path)
        run.path.mkdir(parents=True)
        trainer = loop.Trainer(Setup.to_train(config, 1), run, device, Notice(), Watchdog(10), True)
        trainer.engine.train()
        widths: list[int] = []

        def packed(x: Tensor, widths: list[int] = widths) -> tuple[Tensor, packing.Layout]:
            data, layout = packing.pack(x)
            if x.shape[2] == 2:
                widths.append(layout.bits)
            return data, layout

        for batches, _ in trainer.feed.batches(trainer.state.cursor):
            with reads() as found, patch.object(unit, "pack", packed):
                trainer.step(batches, 0.0)
        sums = [float(p.double().sum()) for p in trainer.engine.module.parameters()]
        told.setdefault(name, []).append((len(found), widths[-2:], sums))
    (folder / "told.json").write_text(json.dumps(told))
    os._exit(0)


def test_frames_are_looked_at_where_they_are_not_waited_for(tmp_path: Path) -> None:
    """On the host, before they are sent; packed and computed with as if they had been looked at on the device."""
    gestures(tmp_path / "source", {"train": 4, "test": 1})
    write_shards("dvs128_gesture", tmp_path / "shards", tmp_path / "source")
    apart(frames_step_by_step, tmp_path, tmp_path / "shards")
    told = json.loads((tmp_path / "told.json").read_text())
    for name in MIXED:
        (read, widths, sums), (ahead, widths_ahead, sums_ahead) = told[name]
        assert sums == sums_ahead and len(widths) == 2, name
        assert all((width == 0) == (name == "mixed") for width in widths) and widths_ahead == [max(widths)] * 2, name
        looks = 2 * (2 if name == "mixed" else 3)
        assert read - ahead >= looks and ahead == told["as they are"][1][0], (name, read, ahead)


RUNS = """\
import itertools, math, os, signal
import tdformer
from cluster.cli import main
from cluster.train import engine, loop

engine.runs_ahead = lambda device: True  # the optimizer leaves out a step by itself
loop.runs_ahead = lambda device: os.environ["LATER"] == "1"
forward, step, passes = tdformer.TDFormer.forward, loop.Trainer.step, itertools.count(1)

def poisoned(model, images):
    logits = forward(model, images)
    if not model.training or images.is_meta:
        return logits
    return logits * (math.inf if model.poisoned else 1)

def noted(trainer, *given):
    number = trainer.state.step + 1
    trainer.engine.module.poisoned = number in (4, 5, 9)
    if number == int(os.environ.get("KILLED", 0)):
        trainer.saved()
        os.kill(os.getpid(), signal.SIGKILL)
    if number == int(os.environ.get("LEFT", 0)):
        os.kill(os.getpid(), signal.SIGTERM)
    return step(trainer, *given)

tdformer.TDFormer.forward, loop.Trainer.step = poisoned, noted
main()
"""
RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS, augment: {crop_padding: 1}, mixup: 0.2}
train: {epochs: 2, global_batch: 8, micro_batch: 4, clip_grad: 0.5, ema_decay: 0.9, threads: 1}
checkpoint: {every_steps: 5, every_minutes: null, keep: 4}
log: {curves: false, every_steps: 3}
"""


@pytest.fixture(scope="module")
def start(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("later")
    (folder / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))

    def start(runs: str, *words: str, **environment: int) -> tuple[int, Path]:
        env = os.environ | {name: str(value) for name, value in environment.items()}
        command = Command(
            "train", folder / "recipe.yaml", f"runs_dir={folder / runs}", *words, cwd=folder, env=env, program=RUNS
        )
        print(*command.communicate())
        assert command.returncode is not None
        return command.returncode, folder / runs

    return start


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_is_the_same_however_late_the_host_knows(start: Callable[..., tuple[int, Path]], precision: str) -> None:
    """With steps that are left out, two of them in a row; in fp32 also a kill, and a signal between two rows."""
    words = (f"train.precision={precision}",)
    names = count()
    at_once = start(f"{precision}-{next(names)}", *words, LATER=0)
    later = start(f"{precision}-{next(names)}", *words, LATER=1)
    assert at_once[0] == later[0] == 0
    assert_equal(at_once[1], later[1])
    rows = RunFolder(later[1] / "run").metrics.read("step")
    assert [row["step"] for row in rows if "lr" in row] == list(range(3, 17, 3))
    skipped = next(row for row in rows if row["step"] == 6)["skipped"]
    assert skipped == 2 if precision == "fp32" else skipped > 2  # of fp16 also those that lower the scale
    if precision == "fp16":
        return
    broken = f"{precision}-{next(names)}"
    assert start(broken, *words, LATER=1, KILLED=8)[0] == -9
    code, runs = start(broken, *words, LATER=1, LEFT=13)
    assert code == 128 + 15 and RunFolder(runs / "run").saved_step() == 14  # that it came is known a step later
    assert start(broken, *words, LATER=1)[0] == 0
    assert_equal(at_once[1], runs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_reads_nothing_of_a_gpu_but_the_numbers_of_the_one_before(few_digits: Path, tmp_path: Path) -> None:
    """Those it has once the first forward pass is on its way, before weights are updated; of two micro-batches. CUDA
    itself says where the host waits."""
    apart(on_gpu, tmp_path, few_digits)
    told = json.loads((tmp_path / "told.json").read_text())
    micro_batches = ["forward", "update", "forward", "update"]
    later = ["forward", "numbers", "update", "forward", "update"]
    for name in CASES:
        orders, waits = zip(*told[name], strict=True)
        assert list(orders) == [micro_batches, later, [*later, "numbers"], micro_batches, later], name
        assert waits[3:] == (WAITS.get(name, 0),) * 2, name  # the first ones copy constants, the third one logs


def on_gpu(folder: Path, shards: Path) -> None:
    """Of each case, in which order five steps come to what, of which the third logs; and how often they wait."""
    from cluster.build.setup import Setup
    from cluster.signals import Notice
    from cluster.train import engine, loop
    from cluster.train.reading import Reading
    from cluster.train.watchdog import Watchdog

    device = engine.init_distributed(0, 1, dist.FileStore(str(folder / "meet"), 1), wanted="cuda")
    wait, update, order = Reading.wait, engine.update, []
    told: dict[str, list[tuple[list[str], int]]] = {name: [] for name in CASES}

    def waited(reading: Reading) -> list[float]:
        order.append("numbers")
        return wait(reading)

    def updated(*given: Any) -> Any:
        order.append("update")
        return update(*given)

    for number, (name, words) in enumerate(CASES.items()):
        config = load(None, [*WORDS, *words, f"data.root={shards}", f"runs_dir={folder / str(number)}"])
        run = RunFolder(config.run_path)
        run.path.mkdir(parents=True)
        trainer = loop.Trainer(Setup.to_train(config, 1), run, device, Notice(), Watchdog(10), True)
        trainer.engine.train()
        trainer.engine.module.register_forward_hook(lambda *_: order.append("forward"))
        for batches, _ in trainer.feed.batches(trainer.state.cursor):
            torch.cuda.set_sync_debug_mode("warn")
            with (
                warnings.catch_warnings(record=True, action="always") as said,
                patch.object(Reading, "wait", waited),
                patch.object(engine, "update", updated),
            ):
                trainer.step(batches, 0.0)
            torch.cuda.set_sync_debug_mode("default")
            told[name].append((order.copy(), sum("synchronizing CUDA operation" in str(one.message) for one in said)))
            order.clear()
            if trainer.state.step == 5:
                break
    (folder / "told.json").write_text(json.dumps(told))
    os._exit(0)
