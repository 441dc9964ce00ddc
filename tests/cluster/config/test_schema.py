"""Every setting: its default is the documented one, and models have the options of create_model."""

from __future__ import annotations

import re
from typing import Any

import yaml
from configurations import (
    CONFIGS,
    TEXT_LISTS,
    TEXT_SETTINGS,
)

import tdformer
from cluster import config as configs
from cluster.config import Config, load
from cluster.config.schema import FIRST_WEIGHTS
from tdformer.backbones import families


def test_the_documented_default_is_the_default():
    assert load(CONFIGS / "default.yaml") == Config()
    written = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    assert _keys(written) == set(configs.flat(Config()))


def test_model_options_are_those_of_create_model():
    usual = vars(tdformer.ModelOptions())
    options = {k.removeprefix("model.") for k in configs.flat(Config()) if k.startswith("model.")} - {*FIRST_WEIGHTS}
    of_backbones = {option for family in families() for option in family.options}
    assert options - of_backbones | {"recompute"} == {*usual, "name", "own"} and of_backbones <= options
    text = (CONFIGS / "default.yaml").read_text()
    for name, default in usual.items():
        if default is None or name == "recompute":
            continue
        documented = re.search(rf"^  {name}: null .*?\[((?:\[.*?\]|[^\[\]])*)\]$", text, re.M)
        assert documented, name
        assert yaml.safe_load(documented[1]) == (list(default) if isinstance(default, tuple) else default), name


def test_the_text_settings_are_these():
    assert [
        *("data.augment.rand_augment", "data.cache", "data.dataset", "data.root", "data.source", "log.wandb_project"),
        *("model.name", "model.weights", "model.weights_sha256", "name", "runs_dir"),
        *("site.account", "site.constraint", "site.gpu", "site.mail", "site.mail_on", "site.partition"),
        *("site.python", "site.qos"),
    ] == TEXT_SETTINGS
    lists = ["data.augment.rand_augment_ops", "plugins", "site.sbatch", "site.setup", "site.srun", "train.freeze"]
    assert lists == TEXT_LISTS


def _keys(tree: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        found |= _keys(value, f"{prefix}{key}.") if value and isinstance(value, dict) else {prefix + key}
    return found
