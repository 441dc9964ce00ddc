"""A configuration file over a base: what wins, where a base is looked for, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import config as configs
from cluster.config import load
from cluster.errors import RunError

FILES = {
    "bottom.yaml": "name: bottom\nseed: 1\ntrain: {epochs: 3, betas: [0.5, 0.6]}\ndata.augment: {flip: 0.5}\n",
    "lab/middle.yaml": "base: ../bottom.yaml\nseed: 2\ntrain.epochs: 4\nmodel: {time_steps: 4}\n",
    "lab/deep/top.yaml": "# a note\nname: top\nbase: ../middle.yaml\ntrain: {betas: [0.7, 0.8]}\nmodel.segments: 2\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, with FILES."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # where a plugin's folder is added
    for name, text in FILES.items():
        write(tmp_path / name, text)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def refused(path: str, *overrides: str) -> str:
    with pytest.raises(RunError) as failure:
        load(path, overrides)
    line = str(failure.value)
    assert "\n" not in line
    return line


def test_each_file_wins_over_its_base_and_the_command_line_over_all(folder: Path) -> None:
    whole = "name: top\nseed: 9\ntrain: {epochs: 4, betas: [0.7, 0.8]}\ndata.augment.flip: 0.5\n"
    write(folder / "whole.yaml", whole + "model: {time_steps: 4, segments: 2}\n")
    assert load("lab/deep/top.yaml", ["seed=9"]) == load("whole.yaml")
    assert load("lab/middle.yaml").seed == 2


@settings(max_examples=30)
@given(keys=st.lists(st.lists(st.sampled_from(["seed", "train.epochs", "log.every_steps", "train.betas"]))))
def test_a_chain_is_its_files_laid_over_each_other(
    tmp_path_factory: pytest.TempPathFactory, keys: list[list[str]]
) -> None:
    """However many, and whatever each of them sets."""
    folder, merged = tmp_path_factory.mktemp("chain"), {"name": "one"}
    write(folder / "0.yaml", yaml.safe_dump(merged))
    for n, its in enumerate(keys, 1):
        own = {key: [n / (n + 1), 0.5] if key == "train.betas" else n for key in its}
        write(folder / f"{n}.yaml", yaml.safe_dump({"base": f"{n - 1}.yaml"} | own))
        merged |= own
    write(folder / "merged.yaml", yaml.safe_dump(merged))
    assert load(folder / f"{len(keys)}.yaml") == load(folder / "merged.yaml")


def test_a_null_and_an_empty_list_take_back_what_the_base_set(folder: Path) -> None:
    write(folder / "a.yaml", "log.figures: []\nmodel: {segments: 4, time_steps: 4}\ncheckpoint.every_minutes: 5\n")
    write(folder / "b.yaml", "base: a.yaml\nmodel: {segments: null}\ncheckpoint.every_minutes: null\n")
    config = load("b.yaml")
    assert (config.model.segments, config.model.time_steps, config.checkpoint.every_minutes) == (None, 4, None)


def test_what_is_referred_to_is_what_the_last_file_says(folder: Path) -> None:
    write(folder / "a.yaml", "name: a-${seed}\nseed: 1\n")
    write(folder / "b.yaml", "base: a.yaml\nseed: 7\n")
    assert load("b.yaml").name == "a-7"


def test_a_recipe_is_a_base_by_its_name_unless_a_file_is_called_so(folder: Path) -> None:
    write(folder / "mine.yaml", "base: imagenet/hst_10_768\nname: mine\n")
    ours = load("imagenet/hst_10_768", ["name=mine"])
    assert load("mine.yaml") == ours and ours.train.lr == 1.35e-3
    write(folder / "imagenet/hst_10_768", "seed: 4\n")
    assert load("mine.yaml") == load(None, ["name=mine", "seed=4"])
    write(folder / "of-base.yaml", "base: imagenet/_scratch\n")  # what recipes share, too
    assert load("of-base.yaml").train.global_batch == 512


def test_a_plugin_is_beside_the_file_that_names_it(folder: Path) -> None:
    write(folder / "lab/own_of_base.py", "")
    write(folder / "lab/a.yaml", "plugins: [./own_of_base.py]\n")
    write(folder / "b.yaml", "base: lab/a.yaml\nname: b\n")
    assert load("b.yaml").plugins == [str(folder / "lab/own_of_base.py")]
    write(folder / "none.yaml", "base: lab/a.yaml\nplugins: []\n")
    assert load("none.yaml").plugins == []
    write(folder / "c.yaml", "base: lab/a.yaml\nplugins: [./own_of_c.py]\n")
    assert refused("c.yaml").startswith("c.yaml: plugins has ")


def test_what_a_run_keeps_is_whole(folder: Path) -> None:
    config = load("lab/deep/top.yaml")
    write(folder / "kept.yaml", configs.to_yaml(config))
    assert "base" not in yaml.safe_load((folder / "kept.yaml").read_text())
    assert configs.stored(folder / "kept.yaml") == config


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("base: a.yaml", "a.yaml, line 1: base is a.yaml, and a.yaml builds on this file; leave one of the two out"),
        ("seed: 1\nbase: b.yaml", "c.yaml, line 1: base is a.yaml, and a.yaml builds on this file; leave one of the"),
        ("base: link.yaml", "a.yaml, line 1: base is link.yaml, and link.yaml builds on this file; leave"),
        ("\nbase: gone.yaml", "a.yaml, line 2: base is gone.yaml; gone.yaml: no such configuration file"),
        ("base: quikstart", "a.yaml, line 1: base is quikstart; quikstart: no such configuration file; recipes: quick"),
        ("base: lab", "a.yaml, line 1: base is lab; lab: cannot be read (it is not a file)"),
        ("base: empty.yaml", "a.yaml, line 1: base is empty.yaml; empty.yaml: the file is empty"),
        ("base: wrong.yaml", "wrong.yaml: train.lrr is not a setting; the nearest is train.lr"),
        (
            "base: lab/up.yaml",
            "lab/up.yaml, line 1: base is nowhere.yaml; lab/nowhere.yaml: no such configuration file",
        ),
        ("base: [bottom.yaml]", "a.yaml: base is [bottom.yaml]; expected the path of a file, or a recipe's name"),
        ("base: {a: b}", "a.yaml: base is {a: b}; expected the path of a file, or a recipe's name"),
        ("base:", "a.yaml: base is empty; expected the path of a file, or a recipe's name"),
        ("base: null", "a.yaml: base is null; expected the path of a file, or a recipe's name"),
        ('base: "a\\0b"', "a.yaml: base is a\\x00b; expected the path of a file, or a recipe's name"),
        ("base: " + "a" * 5000, "a.yaml, line 1: base is aaaa"),
        ("base: bottom.yaml\nbase: bottom.yaml", "a.yaml, line 2: base is set twice; keep one"),
        (
            "base: !!int bottom.yaml",
            "a.yaml: tag:yaml.org,2002:int is a YAML tag, and settings need none; leave it out",
        ),
        ("base: bottom.yaml\nbases: 1", "a.yaml: bases is not a setting; the nearest is "),
        ("train: {base: bottom.yaml}", "a.yaml: train.base is not a setting; the nearest is "),
    ],
)
def test_what_is_refused_in_one_line(text: str, line: str, folder: Path) -> None:
    for name, content in {
        "a.yaml": text,
        "b.yaml": "base: c.yaml",
        "c.yaml": "base: a.yaml",
        "empty.yaml": "",
        "wrong.yaml": "train.lrr: 1",
        "lab/up.yaml": "base: nowhere.yaml",
    }.items():
        write(folder / name, content)
    (folder / "link.yaml").symlink_to("a.yaml")
    assert refused("a.yaml").startswith(line)


def test_nothing_but_a_file_that_is_given_has_a_base(folder: Path) -> None:
    """A stored configuration can be a stranger's, and could name any file."""
    write(folder / "site.yaml", "base: bottom.yaml\n")
    write(folder / "run/config.yaml", "base: ../bottom.yaml\n")
    wrong = "base is of a file that is given as CONFIG"
    assert refused("bottom.yaml", "base=lab/middle.yaml").startswith(f"command line: {wrong}")
    with pytest.raises(RunError, match="site.yaml: site.base is not a setting"):
        load("bottom.yaml", site=folder / "site.yaml")
    with pytest.raises(RunError, match=f"run/config.yaml: {wrong}"):
        configs.stored(folder / "run/config.yaml")
