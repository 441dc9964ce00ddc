"""The recipes that come with us: each loads, and is found by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from configurations import (
    FILES,
    message,
    name_of,
)

from cluster import config as configs
from cluster.config import load


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_file_loads_and_begins_with_its_command(path: Path):
    assert path.read_text().splitlines()[0].startswith(f"# tdformer train configs/{name_of(path)}.yaml")
    config = load(path)
    assert path.stem == "default" or config.name == path.stem
    assert configs.resolve(config, 2).micro_batch * 2 == config.train.global_batch


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_recipe_is_found_by_its_name_from_any_folder(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    name = name_of(path)
    assert load(name, ["seed=3"]) == load(path, ["seed=3"])
    (tmp_path / name).mkdir(parents=True)  # such as a run's
    assert load(name) == load(path)
    (tmp_path / name).rmdir()
    (tmp_path / name).write_text("name: mine")  # the user's file of just that name wins
    assert load(name).name == "mine"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("quikstart", "quickstart"),
        ("quickstart.yaml", "quickstart"),
        ("configs/digit.yaml", "digits"),
        ("cifar", "cifar/..., cifar10_dvs"),
        ("imagenet", "imagenet/..."),
        ("hst_10_512", "imagenet/hst_10_512, imagenet/hst_10_512_leaky, imagenet/hst_10_768"),
        ("imagenet/hst_10_521", "imagenet/hst_10_512, imagenet/hst_10_768, imagenet/hst_10_384"),
        (
            "none",
            "cifar10_dvs, default, digits, dvs128_gesture, quickstart, ablation/..., cifar/..., dvs/..., imagenet/...",
        ),
    ],
)
def test_a_file_that_is_not_there_names_the_recipes_like_it(
    given: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert message(path=Path(given)) == f"{given}: no such configuration file; recipes: {named}"
