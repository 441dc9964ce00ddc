"""Settings that are given to train and launch: each has an effect, or is refused by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.build import shards as prepares
from cluster.config import Config, flat, load, named
from cluster.config.overrides import for_preparation, for_training, while_running
from cluster.config.schema import is_open
from cluster.errors import RunError
from pipelines.errors import DataError
from pipelines.raw import catalog, fashion_mnist

FED = ["model.segments=2", "model.feedback=all"]
REMOTE = ["data.root=http://localhost/x", "data.window=2"]
# The settings that need another one, an example, and the words that give it an effect.
NEEDS: dict[str, list[str]] = {
    "model.feedback=all": ["model.segments=2"],
    "model.cm=2": FED,
    "model.pm=2": FED,
    "model.mixer=add": FED,
    "model.clamp=[0,2]": FED,
    "model.segment_norm=shared": ["model.segments=2"],
    "model.border_dtype=bf16": ["model.segments=2"],
    "model.weights_head=new": ["model.weights=runs/x"],
    "data.crop_ratio=0.5": ["data.size=32"],
    "data.augment.scale=[0.5,1.0]": ["data.size=32"],
    "data.augment.ratio=[0.9,1.1]": ["data.size=32"],
    "data.augment.erasing_mode=pixel": ["data.augment.erasing=0.5"],
    "data.augment.rand_augment_ops=[Invert]": ["data.augment.rand_augment=rand-m9"],
    "data.skips=3": ["data.on_error=skip"],
    "data.cache=x": REMOTE,
    "data.cache_gb=9": REMOTE,
    "data.fetch.tries=2": REMOTE,
    "data.fetch.pause=2": REMOTE,
    "data.fetch.timeout=2": REMOTE,
    "train.loss_scale=1024": ["train.precision=fp16"],
    "train.growth_interval=9": ["train.precision=fp16"],
    "recompute.borders=2": ["recompute.policy=unit"],
    "log.wandb_project=x": ["log.wandb=offline"],
}
SITE = [f"site.{key}" for key in flat(Config().site)]


def key(word: str) -> str:
    return word.partition("=")[0]


def check(words: list[str], launched: bool = False, slurm: bool = False) -> None:
    for_training(load(None, words), words, launched, slurm)


@pytest.mark.parametrize("word", NEEDS)
def test_a_setting_that_needs_another_is_refused_without_it(word: str) -> None:
    with pytest.raises(RunError, match=f"^{key(word)} changes nothing here: ") as error:
        check([word])
    assert "\n" not in str(error.value)
    check([*NEEDS[word], word])


def test_what_else_is_refused_is_of_another_command() -> None:
    config = Config()
    refused = set()
    for name in flat(config):
        try:
            for_training(config, [f"{name}={{a: x}}" if is_open(name) else f"{name}=x"])
        except RunError as error:
            assert str(error).startswith(f"{name} changes nothing here: ")
            refused.add(name)
    # by default no block is fed back
    assert refused == {*map(key, NEEDS), "data.source", *SITE} - {"model.feedback"}


def test_a_launch_takes_the_site_s_settings_on_slurm_alone() -> None:
    words = ["site.minutes=90"]
    check(words, launched=True, slurm=True)
    for launched in (False, True):
        with pytest.raises(RunError, match="site.minutes changes nothing here: it is for Slurm"):
            check(words, launched)
    with pytest.raises(RunError, match="site.mail_on changes nothing here: set site.mail too"):
        check(["site.mail_on=END"], launched=True, slurm=True)
    check(["train.processes=2"])
    with pytest.raises(RunError, match="train.processes changes nothing here: give --processes-per-node"):
        check(["train.processes=2"], launched=True)


def test_a_section_given_as_a_whole_names_what_it_sets() -> None:
    words = ["model={segments: 2, clamp: [0, 2]}"]
    assert named(words) == ["model.segments", "model.clamp"]


def test_a_run_that_is_a_job_keeps_its_settings() -> None:
    run, same = Path("runs/a"), load(None, ["runs_dir=elsewhere"])
    while_running(Config(), same, run, "17")
    with pytest.raises(RunError, match="runs/a is job 17 already, and runs without site.minutes=90; tdformer stop"):
        while_running(Config(), load(None, ["site.minutes=90"]), run, "17")


def test_prepare_takes_where_data_lie_and_its_substitute_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    taken = set()
    for name in flat(config):
        try:
            for_preparation([f"{name}={{a: x}}" if is_open(name) else f"{name}=x"])
            taken.add(name)
        except RunError as error:
            assert str(error).startswith(f"{name} is not of where the data lie")
    assert taken == {
        "plugins",
        *(f"data.{k}" for k in ("dataset", "root", "source", "format", "window", "cache", "cache_gb")),
        *(f"data.fetch.{k}" for k in ("tries", "pause", "timeout")),
    }
    monkeypatch.setattr(fashion_mnist, "FOLDER", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    recipe = Path(__file__).parents[3] / "configs" / "quickstart.yaml"
    with pytest.raises(DataError, match="is missing"):  # asked for by name: nothing else will do
        prepares.prepare(recipe, ["data.dataset=fashion_mnist", "data.root=here"])
    assert prepares.prepare(recipe, ["data.root=here"]).name == "digits.yaml"
    assert (tmp_path / "here/test/index.json").exists() and not (tmp_path / "data").exists()


def test_digits_take_no_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the digits come with scikit-learn"):
        catalog.get("digits").open("train", tmp_path)
