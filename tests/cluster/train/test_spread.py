"""A recipe's numbers do not depend on how its global batch is spread: over ranks, micro-batches and ZeRO stages."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Ranks
from PIL import Image
from torch import Tensor

from cluster.build.shards import write_shards
from cluster.config import Config, load, resolve
from cluster.errors import RunError
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from cluster.train.evaluate import evaluate_run

RECIPE = """\
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, mixup: 0.2, augment: {crop_padding: 1}}
train: {epochs: 1, global_batch: 128, lr: 0.001, threads: 1}
checkpoint: {every_steps: 1, keep: 20}
log: {curves: false, every_steps: 1}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread")
    write_shards("digits", folder / "shards")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def first_step(place: Path, norm: int, world: int, micro: int, stage: int) -> tuple[float, float, dict[str, Tensor]]:
    """Loss and gradient norm of a run's first step, and the running statistics after it; there the run is killed."""
    name = f"{norm}-{world}-{micro}-{stage}"
    words = [f"runs_dir={place}/runs", f"data.root={place}/shards", f"name={name}", f"engine.zero_stage={stage}"]
    config = load(place / "recipe.yaml", [*words, f"train.norm_batch={norm}", f"train.micro_batch={micro}"])
    with Ranks(config, world) as ranks:
        saved, deadline = ranks.folder.checkpoints / "step-00000001", time.monotonic() + 200
        while not saved.exists():
            assert ranks.end(0.05) == [None] * world and time.monotonic() < deadline, name
    row, (parts, _) = ranks.folder.metrics.read()[0], checkpoint.load(saved)
    return row["loss"], row["grad_norm"], {k: v for k, v in parts["model"].items() if "running" in k}


SPREADS = [
    (32, [(1, 32, 0), (2, 64, 1), (4, 16, 2), (8, 16, 3)]),
    (128, [(2, 0, 0), (8, 0, 1)]),
]
"""A norm batch; processes, micro-batch, ZeRO stage."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("norm", "spreads"), SPREADS)
def test_loss_gradient_and_statistics_agree(place: Path, norm: int, spreads: list[tuple[int, int, int]]) -> None:
    loss, gradient, statistics = first_step(place, norm, 1, 128, 0)
    assert any(not torch.allclose(v, torch.ones_like(v), atol=0.01) for k, v in statistics.items() if "var" in k)
    for spread in spreads:
        found, norm_found, others = first_step(place, norm, *spread)
        assert found == pytest.approx(loss, rel=1e-5), spread
        assert norm_found == pytest.approx(gradient, rel=1e-4), spread
        for key, value in statistics.items():
            torch.testing.assert_close(others[key], value, rtol=1e-5, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def config(*words: str) -> Config:
    return load(None, ["train.global_batch=96", *words])


@pytest.mark.parametrize(
    ("words", "world", "micro", "ranks"),
    [
        ([], 1, 96, 1),
        ([], 4, 24, 4),
        (["train.norm_batch=48"], 3, 16, 3),
        (["train.norm_batch=48"], 1, 96, 1),
        (["train.norm_batch=8"], 12, 8, 1),
        (["train.micro_batch=24"], 4, 24, 1),
        (["train.micro_batch=24", "train.norm_batch=48"], 4, 24, 2),
    ],
)
def test_the_micro_batch_keeps_the_norm_batch(words: list[str], world: int, micro: int, ranks: int) -> None:
    plan = resolve(config(*words), world)
    assert (plan.micro_batch, plan.norm_ranks) == (micro, ranks)
    assert plan.norm_batch == (48 if "train.norm_batch=48" in words else plan.norm_batch)


def test_some_micro_batch_does_on_any_number_of_processes() -> None:
    asked, divisors = config(), [n for n in range(1, 97) if 96 % n == 0]
    for norm in divisors:
        for world in divisors:
            asked.train.norm_batch = norm
            plan = resolve(asked, world)
            assert world * plan.accumulation * plan.micro_batch == 96
            assert plan.micro_batch % norm == 0 or plan.micro_batch * plan.norm_ranks == norm
            assert world % plan.norm_ranks == 0


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(RunError, match="norm_batch=48: .* set train.micro_batch=96"):
        resolve(config("train.norm_batch=48", "train.micro_batch=24"), 1)
    with pytest.raises(RunError, match="train.norm_batch=36 does not divide train.global_batch=96"):
        config("train.norm_batch=36")
    with pytest.raises(RunError, match="engine.reduce=bf16 goes with train.precision=bf16 and engine.zero_stage 1"):
        resolve(config("engine.reduce=bf16", "train.precision=bf16"), 1)


def test_evaluation_at_zero_3_ends_where_ranks_have_unequally_many_samples(tmp_path: Path) -> None:
    """3 samples on 4 ranks: one rank has none, and a forward pass gathers weights from all."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for i in range(count):
            place = tmp_path / "pictures" / split / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(place / f"{i}.png")
    write_shards("folder", tmp_path / "shards", tmp_path / "pictures")
    words = [f"runs_dir={tmp_path}/runs", "data.dataset=folder", f"data.root={tmp_path}/shards", "data.size=16"]
    # Weights of less than 100,000 elements are kept whole by DeepSpeed; this model has larger ones.
    words += ["model.name=hst_2_256", "model.time_steps=1", "model.segments=1", "train.global_batch=8"]
    words += ["engine.zero_stage=3", "engine.timeout_minutes=1"]
    with Ranks(load(None, words), 4) as ranks:
        assert ranks.end(100) == [0] * 4
    (again,) = evaluate_run(ranks.folder.path)
    row = ranks.folder.metrics.read()[-1]
    assert again["samples"] == 3 and again["accuracy"] == row["eval_accuracy"]
    assert again["loss"] == pytest.approx(row["eval_loss"], rel=1e-5)


def test_the_norm_batch_is_fixed_at_a_runs_first_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "run")
    first, other = config("train.micro_batch=24"), config("train.micro_batch=12")
    folder.settle(first)
    folder.open(first)
    assert folder.config() == first and first.train.norm_batch == 24
    folder.settle(other)
    assert other.train.norm_batch == 12  # nothing is saved: it may begin anew
    (folder.checkpoints / "step-00000001").mkdir()
    other.train.norm_batch = None
    folder.settle(other)
    folder.check(other)
    assert (other.train.micro_batch, other.train.norm_batch) == (12, 24)
    with pytest.raises(RunError, match=r"other settings: train.norm_batch \(24, now 12\)"):
        folder.check(config("train.norm_batch=12"))
    kept = folder.config_file.read_text().replace("norm_batch: 24", "sync_batchnorm: 'on'")  # as versions before did
    folder.config_file.write_text(kept)
    before = config("train.micro_batch=24")
    folder.settle(before)
    folder.open(before)
    assert "goes on with statistics over 24 images (train.norm_batch)" in capsys.readouterr().out
    with pytest.raises(RunError, match="train.sync_batchnorm is no setting any more; train.norm_batch says"):
        config("train.sync_batchnorm=on")
