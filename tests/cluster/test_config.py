"""Configurations: the documented default is the default, what cannot work is refused by name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import tdformer
from cluster import config as configs
from cluster.config import Config, load
from cluster.errors import RunError

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


def message(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(RunError) as failure:
        load(path, overrides)
    line = str(failure.value)
    assert "\n" not in line
    return line


def test_the_documented_default_is_the_default():
    assert load(CONFIGS / "default.yaml") == Config()
    written = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    assert _keys(written) == set(configs.flat(Config()))


def test_model_options_are_those_of_create_model():
    parameters = inspect.signature(tdformer.create_model).parameters
    options = {k.removeprefix("model.") for k in configs.flat(Config()) if k.startswith("model.")}
    assert options | {"recompute"} == set(parameters)
    text = (CONFIGS / "default.yaml").read_text()
    for name, parameter in parameters.items():
        if parameter.default in (None, inspect.Parameter.empty) or name == "recompute":
            continue
        documented = re.search(rf"^  {name}: null .*?\[((?:\[.*?\]|[^\[\]])*)\]$", text, re.M)
        assert documented, name
        default = parameter.default
        assert yaml.safe_load(documented[1]) == (list(default) if isinstance(default, tuple) else default), name


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_each_file_loads_and_begins_with_its_command(path: Path):
    assert path.read_text().splitlines()[0] == f"# tdformer train configs/{path.name}"
    config = load(path)
    assert path.stem == "default" or config.name == path.stem
    assert configs.resolve(config, 2).micro_batch * 2 == config.train.global_batch


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_what_is_shown_loads_as_the_same(path: Path, tmp_path: Path):
    config = load(path, ["train.betas=[0.5,0.25]", "model.feedback=[1,0]", "train.norm_batch=16"])
    (tmp_path / "shown.yaml").write_text(configs.to_yaml(config))
    assert load(tmp_path / "shown.yaml") == config


@given(st.floats(1e-300, 1e300), st.integers(0, 2**62))
def test_numbers_keep_every_digit(tmp_path_factory: Any, lr: float, seed: int):
    path = tmp_path_factory.getbasetemp() / "digits.yaml"
    config = load(None, [f"train.lr={lr!r}", f"seed={seed}", "train.min_lr=0"])
    path.write_text(configs.to_yaml(config))
    shown = load(path)
    assert config.train.lr == shown.train.lr == lr
    assert shown.seed == seed


def test_overrides_win_over_the_file(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("train:\n  lr: 6e-4\n  epochs: 3\nlog.wandb: offline\nmodel:\n")
    config = load(file, ["train.epochs=5", "model.feedback=[0,2]", "model.v_reset=0", "log.wandb=off"])
    assert (config.train.lr, config.train.epochs, config.log.wandb) == (6e-4, 5, "off")
    assert config.model.options() == {"feedback": [0, 2], "v_reset": 0.0}


def test_soft_reset_is_no_reset_potential():
    assert load(None, ["model.v_reset=soft"]).model.options() == {"v_reset": None}


def test_one_setting_may_refer_to_another(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("name: digits\ndata:\n  root: data/${name}-${seed}\n")
    assert load(file, ["seed=3"]).data.folder == Path("data/digits-3")
    assert "nothing" in message("data.root=${nothing}")


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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train.lr=fast", "train.lr is fast; expected a number"),
        ("train.lr=", "train.lr is null; expected a number"),
        ("train.lr=true", "train.lr is true; expected a number"),
        ("train.lr={a: 1}", "train.lr is {a: 1}; expected a number"),
        ("train.epochs=1.5", "train.epochs is 1.5; expected a whole number"),
        ("model.segments=two", "model.segments is two; expected a whole number or null"),
        ("model.detach_reset=maybe", "model.detach_reset is maybe; expected true or false or null"),
        ("train.betas=[0.9]", "train.betas is [0.9]; expected a list of two numbers"),
        ("model.clamp=1", "model.clamp is 1; expected a list of two numbers or null"),
        ("train.alphas=[a, b]", "train.alphas is [a, b]; expected a list of numbers or null"),
        ("model.feedback=[x]", "model.feedback is [x]; expected text, a list of whole numbers or null"),
        ("name=true", "name is true; expected text"),
        ("train=3", "train is a section; set one of its keys, like train.epochs"),
    ],
)
def test_wrong_types_are_refused(given: str, expected: str):
    assert message(given) == "command line: " + expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train.epochs=0", "at least 1"),
        ("train.lr=0", "above 0"),
        ("train.lr=.nan", "finite"),
        ("train.lr=.inf", "finite"),
        ("train.betas=[0.9, 1.0]", "below 1"),
        ("data.augment.flip=1.5", "at most 1"),
        ("train.precision=fp16", "choose fp32 or bf16"),
        ("model.feedback=frist", "did you mean first?"),
        ("model.feedback=[0,-1]", "at least 0"),
        ("model.feedback=[1,1]", "twice"),
        ("model.cm=4", "choose 1, 2 or 3"),
        ("model.clamp=[1,0]", "lower bound"),
        ("model.v_reset=hard", "give a number or soft"),
        ("model.image_size=[1,2,3]", "height"),
        ("engine.zero_stage=4", "choose 0, 1, 2 or 3"),
        ("name=a/b", "plain file name"),
        ("name=..", "plain file name"),
        ("train.min_lr=1", "above train.lr"),
        ("train.warmup_epochs=2", "exceeds train.epochs=1"),
        ("train.alphas=[0.5,0.6]", "sum to 1"),
        ("train.micro_batch=3", "does not divide 128 images"),
        ("seed=-1", "at least 0"),
    ],
)
def test_values_that_cannot_work_are_refused(given: str, expected: str):
    line = message(given)
    assert expected in line
    assert given.split("=")[0] in line


def test_settings_that_cannot_work_together_are_refused():
    assert "choose 1, 2 or 4" in message("model.time_steps=4", "model.segments=3")
    assert "2 entries" in message("model.segments=3", "train.alphas=[0.5,0.5]")
    assert "is odd" in message("data.mixup=0.8", "train.micro_batch=1")
    assert "is odd" in message("data.cutmix=1", "train.global_batch=5")


@pytest.mark.parametrize("given", ["train.lr", "=3", "train.lr=[1", "train.lr={"])
def test_overrides_that_are_none_are_refused(given: str):
    assert given in message(given)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"train: [1\nlog: 2", "line 2: not valid YAML"),
        (b"seed: 1\nseed: 2\n", "line 2: not valid YAML"),
        (b"- a\n", "a mapping"),
        (b"\xff\xfe\xfa", "cannot be read"),
        (b"1: 2\n", "1 is not a setting"),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path: Path, content: bytes, expected: str):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    line = message(path=file)
    assert str(file) in line
    assert expected in line


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    assert message(path=tmp_path / "none.yaml").endswith("no such configuration file")
    assert "cannot be read" in message(path=tmp_path)


@given(st.integers(1, 96), st.integers(0, 12), st.integers(1, 6))
def test_the_batch_is_split_exactly_or_refused(batch: int, micro: int, world: int):
    divides = batch % world == 0 and (micro == 0 or batch % (world * micro) == 0)
    try:
        config = load(None, [f"train.global_batch={batch}", f"train.micro_batch={micro}"])
        plan = configs.resolve(config, world)
    except RunError as e:
        assert not divides
        assert "train.global_batch" in str(e)
    else:
        assert divides
        assert plan.world * plan.accumulation * plan.micro_batch == plan.global_batch == batch
        assert plan.accumulation == 1 or plan.micro_batch == micro


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(RunError, match="exceeds the 127 training images"):
        configs.resolve(Config(), 1, dataset_size=127)
    assert configs.resolve(Config(), 1, dataset_size=128).micro_batch == 128


def test_what_may_differ_when_a_run_goes_on():
    moved = load(None, ["data.root=/elsewhere", "data.workers=2", "train.processes=2", "checkpoint.keep=5"])
    assert configs.differences(Config(), moved) == []
    other = load(None, ["train.lr=0.002", "model.feedback=[0]", "log.every_steps=1"])
    assert configs.differences(Config(), other) == [
        "model.feedback (null, now [0])",
        "train.lr (0.001, now 0.002)",
        "log.every_steps (10, now 1)",
    ]
    assert set(configs.flat(Config())) > configs.NEUTRAL


def _keys(tree: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        found |= _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found
