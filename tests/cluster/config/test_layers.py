"""Files and words of the command line, laid over each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from configurations import (
    TEXTS,
    TYPES,
    message,
    read_or_refused,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import config as configs
from cluster.config import load

ODD = [
    "9" * 400,
    str(2**63),
    f"-{2**63}",
    "1e308",
    "-1e308",
    "1e400",
    "[" * 50,
    "[1, 2, 3]",
    "{a: {b: c}}",
    "\x00",
    "\ud800",
]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(sorted([*TYPES, "train", "nothing", ""])), st.sampled_from(ODD) | TEXTS)))
def test_an_override_is_read_or_refused_in_one_line(given: list[tuple[str, str]]):
    read_or_refused(None, [f"{key}={text}" for key, text in given])


def test_the_last_override_wins():
    assert load(None, ["seed=1", "seed=2"]).seed == 2


def test_overrides_win_over_the_file(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("train:\n  lr: 6e-4\n  epochs: 3\nlog.wandb: offline\nmodel:\n")
    config = load(file, ["train.epochs=5", "model.feedback=[0,2]", "model.v_reset=0", "log.wandb=off"])
    assert (config.train.lr, config.train.epochs, config.log.wandb) == (6e-4, 5, "off")
    assert config.model.options() == {"feedback": [0, 2], "v_reset": 0.0}


def test_one_setting_may_refer_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "a.yaml"
    file.write_text("name: digits\ndata:\n  root: data/${name}-${seed}\nsite.setup: [a, 'echo ${.name}', '\\${b}']\n")
    config = load(file, ["seed=3", "site.setup=[a, 'echo ${name}', '\\${b}']"])
    assert config.data.folder == Path("data/digits-3")
    assert config.site.setup == ["a", "echo digits", "${b}"]
    monkeypatch.setenv("ACCOUNT", "00123")
    monkeypatch.setenv("COUNT", "7")
    words = ["site.account=${oc.env:ACCOUNT}", "seed=${oc.env:COUNT}", "train.epochs=${seed}", "name=r-${seed}"]
    config = load(
        None,
        [*words, "data.augment.scale=[0.08, 0.9]", "train.betas=${data.augment.scale}", "site.minutes=${oc.env:COUNT}"],
    )
    assert (config.site.account, config.seed, config.train.epochs, config.name) == ("00123", 7, 7, "r-7")
    assert (config.train.betas, config.site.minutes) == ((0.08, 0.9), 7)
    assert "nothing" in message("data.root=${nothing}")
    assert "seed is ${oc.env:ACCOUNT}; expected a whole number" in message("seed=${oc.env:ACCOUNT}")
    for word in ("name=${name}", "name=${", "name=${train}", "site.setup=['${site}']", "name=${oc.env:NOT_SET}"):
        assert word.split("=")[0] in message(word)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("train.learning_rate=1", "train.lr"),
        ("train.lrate=1", "train.lr"),
        ("epochs=1", "train.epochs"),
        ("model.timesteps=4", "model.time_steps"),
        ("data.augment.crop_pading=4", "data.augment.crop_padding"),
        ("zero=1", "engine.zero_stage"),
        ("data.worker=2", "data.workers"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(given: str, nearest: str):
    assert message(given) == f"command line: {given.split('=')[0]} is not a setting; the nearest is {nearest}"


def test_an_unknown_key_in_a_file_names_the_file(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  weight_deacy: 0.1\n")
    assert message(path=file) == f"{file}: train.weight_deacy is not a setting; the nearest is train.weight_decay"


@pytest.mark.parametrize("given", ["train.lr", "=3", "train.lr=[1", "train.lr={"])
def test_overrides_that_are_none_are_refused(given: str):
    assert given in message(given)


def test_own_options_are_laid_over_each_other_one_by_one(tmp_path: Path):
    (tmp_path / "below.yaml").write_text("model: {own: {gain: 0.5, kind: plain, kept: 1}}\n")
    (tmp_path / "a.yaml").write_text("base: below.yaml\nseed: 3\nmodel.own.gain: 2\n")
    config = load(tmp_path / "a.yaml", ["model.own={kind: '7', more: [1, 2]}", "model.own.of=${seed}"])
    assert config.model.own == {"gain": 2, "kind": "7", "kept": 1, "more": [1, 2], "of": 3}
    assert load(tmp_path / "a.yaml", ["model.own.gain=null"]).model.options() == {"kind": "plain", "kept": 1}
    assert configs.differences(config, load(tmp_path / "a.yaml")) == [
        "model.own ({gain: 2, kind: 7, kept: 1, more: [1, 2], of: 3}, now {gain: 2, kind: plain, kept: 1})"
    ]
    assert configs.named(["model.own.a=1", "model.own={b: 2}", "seed=1"]) == ["seed", "model.own"]
