"""The recipes of configs/: every row of the paper has one, and each passes the checks of training and takes two steps.

The checks are those of `tdformer train`, with the recipe's own settings, on made-up data with the shape, the classes
and the kind of the real ones, and enough of it for a global batch. The steps are two by the command itself with all
that a recipe sets, its pictures' size too, but for these: the network has a width of 32, few blocks, and no weights to
begin with, the global batch is 2, and loader workers are one. Networks of the tables at their own width are compared
with the published ones in `tests/tdformer/test_pretrained.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blocks import script
from event_files import aedat2, gestures
from PIL import Image

from benchmarks import reproduction
from cluster import config as configs
from cluster.build.setup import Setup
from cluster.build.shards import write_shards
from cluster.config import Config
from cluster.config.schema import types
from cluster.run.folder import RunFolder
from cluster.train.hooks import chosen
from pipelines.raw import catalog
from pipelines.raw.arrays import ArrayDataset
from pipelines.raw.event_sets import CIFAR10_DVS_CLASSES
from pipelines.raw.recorded import EventDataset
from pipelines.raw.source import Dataset
from pipelines.store import tar_writer

ROOT = Path(__file__).parents[2]


PAGE, REPRODUCTION = script("recipes"), script("reproduction")
ROWS = list(PAGE.rows())
NAMES = [name for name in configs.recipes() if name != "default"]


@cache
def load(name: str, *words: str) -> Config:
    return configs.load(ROOT / "configs" / f"{name}.yaml", words)


def test_every_row_of_the_paper_has_a_recipe() -> None:
    """The command of each makes a run of the row's data, network, feedback, time steps and size; rows of other groups'
    models are left out."""
    paper = [row for row in reproduction.rows().values() if row["model"] is not None]
    printed = [
        f"{row['accuracy']:.2f}" + (f" +- {row['deviation']:.2f}" if "deviation" in row else "") for row in paper
    ]
    ours = [row for row in ROWS if row.table.startswith("Table") and not row.second]
    found = Counter((row.kind, row.accuracy) for row in ours)
    assert found == Counter(zip(map(REPRODUCTION.kind, paper), printed, strict=True)) and len(ours) == 106


def test_a_row_is_what_it_says() -> None:
    """Data, backbone, feedback, T and size of the run that its command makes are those in its words."""
    data = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "CIFAR10-DVS": "cifar10_dvs", "CIFAR-10-C": "cifar10"}
    for row in ROWS:
        config = load(row.recipe, *row.settings)
        words = row.what.split(", ")
        of_data = data.get(words[0], "dvs128_gesture" if words[0] == "DVS128 Gesture" else None)
        of_data = of_data or ("cifar10" if row.table == "Table 6" else "imagenet")
        assert config.data.dataset == of_data, row
        network = re.search(r"(Spikformer|SDT|HST)-\d+-\d+", row.what)
        assert network and config.model.name.startswith(network[0].lower().replace("-", "_")), row
        fed = "TDFormer" in row.what or " + V" in row.what
        assert (config.model.feedback not in (None, "none")) == fed == ((config.model.segments or 1) == 2), row
        assert (config.model.feedback == "all") == (fed and "one block" not in row.what), row
        if steps := re.search(r"T = (\d+)", row.what):
            in_two = fed and row.table == "Table 7" and steps[1] == "1"  # two passes of one step
            assert (config.model.time_steps or 4) == (2 if in_two else int(steps[1])), row
        else:
            assert config.data.size == int(re.search(r", (224|288|384)\b", row.what)[1]), row  # type: ignore[index]
        if cell := re.search(r"CM(\d) \+ V(\d)", row.what):
            assert (config.model.cm, config.model.pm) == (int(cell[1]), int(cell[2])), row
        assert bool(config.model.leaky_proj_lif) == ("neuron as published" in row.what), row
        assert ("five seeds" in row.what) == (config.seed == 42), row


def test_no_two_runs_share_a_folder() -> None:
    """Different settings have different names, of recipes and of their rows."""
    of_name: dict[str, Config] = {}
    for config in [load(name) for name in NAMES] + [load(row.recipe, *row.settings) for row in ROWS]:
        assert of_name.setdefault(config.name, config) == config, config.name


def test_the_commands_are_there() -> None:
    for row in ROWS:
        for word in row.start:
            key = word.partition("=")[0]
            assert key in types(), row
            if key == "model.weights":  # a run of another recipe
                assert Path(word.partition("=")[2]).name in {load(name).name for name in NAMES}, row
        for command in row.after:
            assert command.split()[:3] == ["tdformer", "eval", f"runs/{load(row.recipe, *row.settings).name}"], row


UNUSED = {"spikformer_4_384": 6144, "sdt_2_256": 128}
"""Parameters that the published code has and never uses, and that are not built here."""


def test_parameters_are_those_that_are_published() -> None:
    """Two decimals of millions, cut off; in the backbones' own papers rounded, which differs for two of them."""
    counted = 0
    for row in ROWS:
        if row.millions is None:
            continue
        whole = row.parameters + UNUSED.get(load(row.recipe).model.name, 0)
        printed = f"{whole / 1e6:.2f}" if row.millions in ("2.57", "29.08") else f"{whole // 10_000 / 100:.2f}"
        assert printed == row.millions, row
        counted += 1
    assert counted == 13 + 4 + 26  # ImageNet, Table 2, Table 6
    assert {row.millions for row in ROWS} == {
        *("16.47", "29.08", "64.96", "65.55", "69.09", "9.33", "9.92", "2.57", "2.69", None)
    }


def test_the_page_is_what_the_files_say() -> None:
    assert f"\n{PAGE.tables()}\n" == PAGE.TABLES.search(PAGE.PAGE.read_text())[0], "python .ci/docs/recipes.py"


# --------------------------------------------------------------------------------------------- checks and first steps


def pictures(folder: Path, count: int) -> None:
    """A source as ImageNet's folders: a photograph, of one of several sizes, in each of `count` classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(count):
            place = folder / split / f"n{i:08d}"
            place.mkdir(parents=True)
            pixels = rng.integers(0, 256, (30 + i % 7, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.JPEG")


def recordings(folder: Path) -> None:
    """CIFAR10-DVS with ten recordings of each class, of which one is for the test."""
    rng = np.random.default_rng(0)
    for short in CIFAR10_DVS_CLASSES:
        (folder / short).mkdir(parents=True)
        for i in range(10):
            x, y = rng.integers(0, 128, (2, 64)).tolist()
            events = list(zip(range(0, 6400, 100), x, y, rng.integers(0, 2, 64).tolist(), strict=True))
            (folder / short / f"cifar10_{short}_{i}.aedat").write_bytes(aedat2(events))


def fewer(name: str, count: int) -> Dataset:
    """A data set of which each split is cut to `count` samples; CIFAR's are made up."""
    known = catalog.get(name)
    if isinstance(known, EventDataset):
        whole = known.listing
        return replace(known, listing=lambda split, source: whole(split, source)[:count])
    assert isinstance(known, ArrayDataset)
    images = np.random.default_rng(0).integers(0, 256, (count, *known.shape), np.uint8)
    labels = np.arange(count) % len(known.class_names)
    return replace(known, load=lambda split, source: (images, labels))


def opened(folder: Path, count: int) -> dict[str, Setup]:
    """Every data set that recipes have, as shards of `count` samples for each split or fewer, ImageNet with as many
    classes."""
    pictures(folder / "of_imagenet", count)
    write_shards("imagenet", folder / "imagenet", folder / "of_imagenet")
    recordings(folder / "of_cifar10_dvs")
    gestures(folder / "of_dvs128_gesture", {"train": 4, "test": 1}, count=40)
    for name in ("cifar10", "cifar100", "cifar10_dvs", "dvs128_gesture"):
        source = folder / f"of_{name}"
        for split in ("train", "test"):
            tar_writer.write(fewer(name, count), split, folder / name, source=source if source.exists() else None)
    return {
        name: Setup.to_train(configs.load(None, [f"data.dataset={name}", f"data.root={folder / name}"]), 1)
        for name in ("imagenet", "cifar10", "cifar100", "cifar10_dvs", "dvs128_gesture")
    }


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Setup]:
    """Enough samples for the largest global batch of each, and ImageNet's 1,000 classes."""
    return opened(tmp_path_factory.mktemp("many"), 1000)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shards are of two steps' samples of each."""
    folder = tmp_path_factory.mktemp("few")
    opened(folder, 4)
    return folder


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("digits", "quickstart")])
def test_a_recipe_passes_the_checks_of_training(name: str, many: dict[str, Setup]) -> None:
    """On one process, and on the 8 of a node for ImageNet, whose share of a batch is a whole number of norm batches."""
    config = load(name)
    data = many[config.data.dataset]
    for world in (1, 8) if config.data.dataset == "imagenet" else (1,):
        setup = Setup(config, world, data.samples, data.test)
        configs.resolve(config, world)
        setup.check()
        assert setup.plan.norm_ranks == 1, "BatchNorm's statistics would be exchanged on the hardware that is named"
    chosen(config)
    assert setup.outline.config["num_classes"] == {"imagenet": 1000, "cifar100": 100, "dvs128_gesture": 11}.get(
        config.data.dataset, 10
    )


SMALLER = {
    "hst_2": {"width": 32, "heads": 2},
    "hst_4": {"width": 32, "heads": 2, "depths": [1, 1, 1]},
    "hst_10": {"width": 32, "heads": 2, "depths": [1, 1, 2]},
    "spikformer": {"width": 32, "heads": 2, "depths": [2]},
    "sdt": {"width": 32, "depths": [2]},
}
"""Sizes in which two steps are taken, for the beginning of a network's name."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("digits", "quickstart")])
def test_a_recipe_takes_two_steps(name: str, few: Path, tmp_path: Path, cli: Any) -> None:
    config = load(name)
    dataset, sizes = config.data.dataset, next(s for start, s in SMALLER.items() if config.model.name.startswith(start))
    words = ["train.epochs=1", "train.global_batch=2", "train.norm_batch=null", "train.warmup_epochs=0.5"]
    words += [f"model.{key}={value}".replace(" ", "") for key, value in sizes.items()]
    words += ["train.threads=1", "log.every_steps=1", "log.curves=false", "name=run"]
    words += ["data.workers=1"] * (config.data.workers > 0)
    done = cli("train", name, f"data.root={few / dataset}", *words, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = RunFolder(tmp_path / "runs" / "run").metrics.read()
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows if "loss" in row)
    assert 0 <= rows[-1]["eval_accuracy"] <= 1
