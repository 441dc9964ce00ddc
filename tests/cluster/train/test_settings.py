"""Every setting that decides numbers, set to another value than its default, reaches the step.

What a step should meet is worked out here from the settings, by the parts of `tdformer` and `pipelines` alone, and
compared with what a run's model and optimizer met. A setting is looked at when its default would give something else,
and each must be: one that is added later too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import gestures
from observed import Observed, observe
from PIL import Image
from torch import Tensor

import tdformer
from cluster.build.shards import write_shards
from cluster.config import NEUTRAL, Config, flat, load, resolve
from cluster.config.schema import FIRST_WEIGHTS
from cluster.errors import RunError
from cluster.jobs import processes
from cluster.run import checkpoint
from cluster.train.engine import deepspeed_config
from pipelines.errors import DataError
from pipelines.loader import time_first, to_device
from pipelines.order import Cursor, epoch_order
from pipelines.samples import Seen
from pipelines.store.tars import TarDataset
from pipelines.views.augment import Augment
from pipelines.views.boxes import View
from pipelines.views.frames import OPERATIONS, EventAugment, FrameView
from pipelines.views.mix import mix, soft_targets
from tdformer.norm import norm_batch

PICTURES = """\
name: pictures
seed: 3
model:
  {num_classes: 5, time_steps: 2, segments: 2, feedback: all, cm: 2, pm: 2, mixer: add, clamp: [0.5, 3.0],
   neuron: plif, tau: 1.5, threshold: 0.6, v_reset: soft, surrogate: arctan, alpha: 2.0, detach_reset: false,
   segment_norm: shared, leaky_proj_lif: true, border_dtype: bf16, width: 48, depths: [1, 2, 1], heads: 2,
   mlp_ratio: 2.5}
data:
  {dataset: folder, size: 16, crop_ratio: 0.6, window: 2, share: 0.9, mixup: 0.4, cutmix: 0.7,
   augment: {scale: [0.3, 0.6], ratio: [0.9, 1.5], crop_padding: 2, flip: 0.5, rand_augment: rand-m9-n1-mstd0.5,
     rand_augment_ops: [Invert, Rotate], color_jitter: 0.5, erasing: 0.5, erasing_mode: pixel}}
train:
  {epochs: 3, global_batch: 8, micro_batch: 4, norm_batch: 4, lr: 0.01, min_lr: 0.001, warmup_epochs: 1.5,
   weight_decay: 0.1, betas: [0.8, 0.99], eps: 1.0e-6, layer_decay: 0.7, label_smoothing: 0.2, clip_grad: 0.01,
   ema_decay: 0.8, alphas: [0.3, 0.7], tf32: true, eval_every_epochs: 2, threads: 1}
checkpoint: {keep: 1}
log: {every_steps: 2}
"""
EVENTS = """\
name: events
seed: 5
model: {name: sdt_2_256, time_steps: 2, v_reset: -0.1}
data: {dataset: dvs128_gesture, size: 16, frames: time, augment: {flip: 0.5, events: true}}
train: {global_batch: 4, micro_batch: 4, norm_batch: 2, schedule: constant, threads: 1}
"""
PARTS = (
    *("backbone.embeds.0", "backbone.stages.0.0", "backbone.embeds.1", "backbone.stages.1.0", "backbone.stages.1.1"),
    *("backbone.embeds.2", "backbone.stages.2.0", "head"),
)
"""Of the model that is trained on pictures, from these to the classes."""
REFUSED = {"data.dataset": "cifar10", "data.format": "ffcv", "model.in_channels": 1, "model.image_size": 20}
"""Another value than the data's is an error."""
ZERO = ("engine.reduce", "train.precision")
"""Looked at in a run with ZeRO; bf16 takes long on a CPU."""
BEGINNING = ("model.weights_sha256", "model.weights_head", "train.freeze")
"""Of runs that begin with weights: looked at in test_fine_tuning and test_first_weights."""
SCALING = ("train.loss_scale", "train.growth_interval")
"""Of fp16 alone: looked at in test_scale."""
NAMING = ("train.optimizer", "train.hooks", "plugins", "model.own")
"""They name code, or its options: looked at in test_optimizers, test_chosen, test_plugins and test_extend."""
IN_EVENTS = ("model.name", "data.frames", "data.augment.events", "train.norm_batch", "train.schedule")
"""Looked at in the run on events, all others in the one on pictures."""
DECIDING = sorted(flat(Config()).keys() - NEUTRAL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of photographs of many sizes, and of recordings."""
    folder, rng = tmp_path_factory.mktemp("settings"), np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 3)):
        for name in ("dark", "bright"):
            (folder / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(20, 40, 2)
                coarse = rng.integers(0, 150, (4, 5, 3)) + 100 * (name == "bright")
                picture = Image.fromarray(coarse.astype(np.uint8)).resize((int(width), int(height)))
                picture.save(folder / "photos" / split / name / f"{i}.png")
    write_shards("folder", folder / "pictures", folder / "photos", samples_per_shard=3)
    gestures(folder / "recordings", {"train": 2, "test": 1})
    write_shards("dvs128_gesture", folder / "events", folder / "recordings")
    return folder


def configured(place: Path, text: str, *words: str) -> Config:
    kind = "pictures" if text is PICTURES else "events"
    file = place / f"{kind}.yaml"
    file.write_text(text)
    return load(file, [f"runs_dir={place / 'runs'}", f"data.root={place / kind}", *words])


@pytest.fixture(scope="module")
def run(place: Path) -> Callable[[str], Observed]:
    """By its name."""
    return functools.cache(lambda name: observe(configured(place, {"pictures": PICTURES, "events": EVENTS}[name])))


@dataclass
class Expected:
    """What a run with `settings` should show where `seen` is right about the weights before each step."""

    settings: Mapping[str, Any]
    seen: Observed

    def __post_init__(self) -> None:
        root = Path(self.settings["data.root"])
        self.data, self.test = TarDataset(root / "train"), TarDataset(root / "test")
        if self.settings["data.share"] < 1:
            self.data.keep(self.settings["data.share"])
        self.batch = self.settings["train.global_batch"]
        self.micro = self.settings["train.micro_batch"]
        self.epoch_steps = len(self.data) // self.batch
        self.steps = self.settings["train.epochs"] * self.epoch_steps

    def model(self) -> tdformer.TDFormer:
        given = {key: value for key, value in self.settings.items() if key.startswith("model.") and value is not None}
        options = {key.removeprefix("model."): value for key, value in given.items()}
        options = {key: value for key, value in options.items() if key not in (*FIRST_WEIGHTS, "own")}
        if options.get("v_reset") == "soft":
            options["v_reset"] = None
        size = self.settings["data.size"]
        torch.manual_seed(self.settings["seed"])
        fitted = {"num_classes": self.data.classes, "in_channels": self.data.shape[0], "image_size": [size, size]}
        model = tdformer.create_model(**fitted | options)
        norm_batch(model, self.settings["train.norm_batch"] or self.micro)
        return model.train()

    def view(self) -> Seen:
        s, size = self.settings, self.settings["data.size"]
        if self.data.shape[0] == 2:
            return FrameView(self.model().time_steps, s["data.frames"], (size, size))
        box = (s["data.augment.scale"], s["data.augment.ratio"], s["data.crop_ratio"])
        return View(size, *box, seed=s["seed"])

    def augmentation(self) -> Any:
        s = {key.removeprefix("data.augment."): value for key, value in self.settings.items()}
        if self.data.shape[0] == 2:
            return EventAugment(s["flip"], seed=s["seed"], operations=OPERATIONS if s["events"] else ("identity",))
        names = ("crop_padding", "flip", "erasing", "erasing_mode", "rand_augment", "color_jitter", "seed")
        given = {name: s[name] for name in names}
        operations = tuple(s["rand_augment_ops"]) if s["rand_augment_ops"] else None
        return Augment(rand_augment_ops=operations, mean=tuple(self.data.mean), std=tuple(self.data.std), **given)

    def inputs(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Images and targets of each micro-batch."""
        s, epoch, cpu = self.settings, step // self.epoch_steps, torch.device("cpu")
        start = Cursor(s["seed"], epoch, 0, self.batch, self.data.digest)
        first = step % self.epoch_steps * self.batch
        ids = epoch_order(start, self.data.shard_of, s["data.window"])[first : first + self.batch]
        view, augment, found = self.view(), self.augmentation(), []
        classes = s["model.num_classes"] or self.data.classes
        for position in range(0, self.batch, self.micro):
            part = ids[position : position + self.micro]
            pixels = np.stack([augment(view.see(self.data, int(i), epoch), epoch, int(i)) for i in part])
            images = to_device(torch.from_numpy(pixels), self.data.mean, self.data.std, cpu)
            labels = torch.from_numpy(self.data.labels[part].astype(np.int64))
            targets = soft_targets(labels, classes, s["train.label_smoothing"])
            where = {"epoch": epoch, "step": step % self.epoch_steps, "position": position}
            mixed = mix(images, targets, mixup=s["data.mixup"], cutmix=s["data.cutmix"], seed=s["seed"], **where)
            found.append((time_first(mixed[0]), mixed[1]))
        return found

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of a micro-batch; the default weights grow with the segment."""
        n = len(logits)
        alphas = self.settings["train.alphas"] or [2 * (i + 1) / (n * (n + 1)) for i in range(n)]
        terms = zip(alphas, logits, strict=True)
        entropy = torch.nn.functional.cross_entropy
        return torch.stack([a * entropy(of, targets) for a, of in terms]).sum() / (self.batch // self.micro)

    def rate(self, step: int) -> float:
        s = self.settings
        warm = round(s["train.warmup_epochs"] * self.epoch_steps)
        if step < warm:
            return s["train.lr"] * (step + 1) / warm
        if s["train.schedule"] == "constant":
            return float(s["train.lr"])
        share = (1 + math.cos(math.pi * (step - warm) / (self.steps - warm))) / 2
        return s["train.min_lr"] + (s["train.lr"] - s["train.min_lr"]) * share

    def group(self, step: int, name: str, dimensions: int) -> dict[str, Any]:
        """How AdamW should take a parameter."""
        s, decay = self.settings, self.settings["train.layer_decay"]
        part = next((i for i, part in enumerate(PARTS) if name.startswith(f"{part}.")), 0)
        return {
            "lr": pytest.approx(self.rate(step) * decay ** (len(PARTS) - 1 - part), rel=1e-9),
            "weight_decay": s["train.weight_decay"] if dimensions > 1 else 0,
            "betas": tuple(s["train.betas"]),
            "eps": s["train.eps"],
        }

    # What is compared.

    def check_weights(self) -> None:
        begun = self.model().state_dict()
        assert_equal(begun, self.seen.steps[0].before)

    def check_steps(self) -> None:
        assert len(self.seen.steps) == self.steps
        assert all(one.tf32 == self.settings["train.tf32"] for step in self.seen.steps for one in step.passes)

    def check_step(self, number: int) -> None:
        """Inputs, loss, forward and backward pass, and clipping."""
        step, model = self.seen.steps[number], self.model()
        model.load_state_dict(step.before)
        inputs = self.inputs(number)
        assert len(inputs) == len(step.passes)
        for (images, targets), one in zip(inputs, step.passes, strict=True):
            assert torch.equal(images, one.images)
            logits = model(images)
            assert torch.equal(logits, one.logits)
            assert one.gradient is not None
            own = one.logits.clone().requires_grad_()
            self.loss(own, targets).backward()
            torch.testing.assert_close(one.gradient, own.grad, rtol=1e-4, atol=1e-7)
            logits.backward(one.gradient)
        gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
        total = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        limit = self.settings["train.clip_grad"]
        scale = min(1.0, limit / float(total)) if limit else 1.0
        torch.testing.assert_close(step.gradients, {n: g * scale for n, g in gradients.items()}, rtol=1e-3, atol=1e-7)

    def check_groups(self) -> None:
        for number, step in enumerate(self.seen.steps):
            for name, found in step.group.items():
                expected = self.group(number, name, step.after[name].dim())
                assert {key: found[key] for key in expected} == expected, (number, name)

    def check_average(self) -> None:
        (newest,) = checkpoint.complete(self.seen.folder.checkpoints)
        found, decay = checkpoint.load(newest)[0].get("ema"), self.settings["train.ema_decay"]
        assert (found is not None) == bool(decay)
        if found is None:
            return
        for name in self.seen.steps[0].after:
            average = self.seen.steps[0].before[name]
            for step in self.seen.steps:
                average = decay * average + (1 - decay) * step.after[name]
            torch.testing.assert_close(found[name], average, rtol=1e-4, atol=1e-6)

    def check_rows(self) -> None:
        rows, epochs = self.seen.rows, self.settings["train.epochs"]
        every, often = self.settings["log.every_steps"], self.settings["train.eval_every_epochs"]
        assert [r["step"] for r in rows if "loss" in r] == [n for n in range(1, self.steps + 1) if n % every == 0]
        due = [n for n in range(1, epochs + 1) if n % often == 0 or n == epochs]
        assert [r["epoch"] for r in rows if "eval_loss" in r] == due

    def check_evaluation(self) -> None:
        view, first = self.view(), self.seen.evaluated[0]
        count = first.images.shape[first.images.dim() - 4]
        pixels = torch.from_numpy(np.stack([view.see(self.test, i, None) for i in range(count)]))
        images = to_device(pixels, self.test.mean, self.test.std, torch.device("cpu"))
        assert torch.equal(time_first(images), first.images)

    def differences(self) -> Iterator[str]:
        """What is not as expected, in words; what is cheap to look at first."""
        last = max(0, min(self.steps, len(self.seen.steps)) - 1)
        checks: dict[str, Any] = {
            "number of steps": self.check_steps,
            "parameter groups": self.check_groups,
            "rows": self.check_rows,
            "weights at the start": self.check_weights,
            "evaluation": self.check_evaluation,
            **{f"step {number}": functools.partial(self.check_step, number) for number in sorted({0, last})},
            "average": self.check_average,
        }
        for name, check in checks.items():
            try:
                check()
            except CANNOT as error:
                yield f"{name}: {type(error).__name__}: {error}"


CANNOT = (AssertionError, DataError, tdformer.ModelError, RuntimeError, TypeError, ZeroDivisionError)
"""Raised where something differs, or where it cannot even be made."""


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("name", ["pictures", "events"])
def test_a_run_meets_what_its_settings_say(run: Callable[[str], Observed], name: str) -> None:
    seen = run(name)
    assert list(Expected(flat(seen.config), seen).differences()) == []
    for logits in seen.steps[0].passes[0].logits:  # of a segment
        assert (logits - logits.mean(0)).abs().max() > 0.01  # images are told apart


def test_the_default_of_every_setting_would_be_seen(run: Callable[[str], Observed]) -> None:
    defaults = flat(Config())
    for key in DECIDING:
        if key in (*REFUSED, *ZERO, *SCALING, *NAMING, *BEGINNING):
            continue
        seen = run("events" if key in IN_EVENTS else "pictures")
        settings = flat(seen.config)
        assert settings[key] != defaults[key], f"{key}: set it to another value than its default, and look at it"
        other = Expected(settings | {key: defaults[key]}, seen)
        assert any(other.differences()), f"{key}: nothing that is looked at depends on it"


@pytest.mark.parametrize("key", REFUSED)
def test_what_the_data_decide_is_refused(place: Path, key: str) -> None:
    config = configured(place, PICTURES, f"{key}={REFUSED[key]}", "name=refused")
    with pytest.raises((RunError, DataError), match="cifar10|beton|in_channels|image_size"):
        processes.start(config, 1)


def test_what_zero_reduces_in_and_clips_at(place: Path, run: Callable[[str], Observed]) -> None:
    words = ("engine.zero_stage=1", "engine.reduce=bf16", "train.precision=bf16", "train.clip_grad=0.5")
    seen = observe(configured(place, EVENTS, *words, "model.neuron=plif", "name=zero"))
    assert seen.engine["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}  # DeepSpeed's own choice of layers
    assert seen.engine["gradient_clipping"] == 0.5
    assert {one.dtype for one in (*seen.steps[0].passes, seen.evaluated[0])} == {torch.bfloat16}
    plain = run("pictures")  # without ZeRO
    assert plain.engine["gradient_clipping"] == 0 and "torch_autocast" not in plain.engine
    assert plain.steps[0].passes[0].dtype == torch.float32
    inexact = observe(configured(place, EVENTS, *words[2:4], "name=inexact"))
    assert inexact.engine["torch_autocast"]["lower_precision_safe_modules"] == []


def test_what_zero_does_not_shard_is_refused(place: Path) -> None:
    config = configured(place, EVENTS, "model.neuron=plif", "engine.zero_stage=3")
    model = tdformer.create_model(config.model.name, neuron="plif")
    with pytest.raises(RunError, match="set engine.zero_stage=2, or model.neuron=lif"):
        deepspeed_config(config, resolve(config, 1), model)
