"""What a value reads as: numbers, switches, times, paths and texts."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import Any

import pytest
from configurations import (
    LOOKS_LIKE,
    NULL,
    TEXT_LISTS,
    TEXT_SETTINGS,
    TEXTS,
    TYPES,
    message,
    possible,
    quoted,
    referring,
)
from hypothesis import example, given
from hypothesis import strategies as st

from cluster import config as configs
from cluster.config import load, values
from cluster.errors import RunError


@given(text=TEXTS, key=st.sampled_from(TEXT_SETTINGS), many=st.sampled_from(TEXT_LISTS))
@example(text="00123", key="site.account", many="site.setup")
@example(text="007", key="name", many="site.srun")
def test_a_text_is_what_was_typed(tmp_path_factory: Any, text: str, key: str, many: str):
    if not possible(key, text) or not possible(many, text):
        return
    file, written = tmp_path_factory.getbasetemp() / "texts.yaml", quoted(referring(text))
    file.write_text(f"{key}: {written}\n{many}: [{written}]\n")
    config = load(file)
    assert (configs.flat(config)[key], configs.flat(config)[many]) == (text, [text])
    words = [f"{key}={written}", f"{many}=[{written}]"]
    assert load(None, words) == config
    if text not in NULL and text[0] not in "'\"":
        words[0] = f"{key}={referring(text)}"  # nothing need be quoted
        assert load(None, words) == config


@pytest.mark.parametrize("text", [t for t in LOOKS_LIKE if re.fullmatch(r"[\w.+:-]+", t) and t not in ("-", ":")])
def test_a_text_that_looks_like_another_thing_needs_no_quotes_in_a_file(text: str, tmp_path: Path):
    if text.lower() == "null":
        return
    (tmp_path / "site.yaml").write_text(
        f"account: {text}\nqos: {text} # comment\nsetup: [{text}, {text}]\nsrun:\n- {text}\n"
    )
    site = load(None, (), tmp_path / "site.yaml").site
    assert (site.account, site.qos, site.setup, site.srun) == (text, text, [text, text], [text])


@pytest.mark.parametrize("text", NULL)
def test_null_is_null_unless_quoted(text: str, tmp_path: Path):
    (tmp_path / "a.yaml").write_text(
        f"site: {{account: '{text}'}}\nmodel.tau: {text}\ndata.augment:\n  rand_augment: {text}\n"
    )
    config = load(tmp_path / "a.yaml", [f"site.qos={text}", f'site.partition="{text}"'])
    assert (config.model.tau, config.data.augment.rand_augment, config.site.qos) == (None, None, None)
    assert (config.site.account, config.site.partition) == (text, text)


@pytest.mark.parametrize("key", ["train.epochs", "train.lr"])
@pytest.mark.parametrize(
    ("text", "whole", "number"),
    [
        ("1", 1, 1.0),
        ("+12", 12, 12.0),
        ("'3'", 3, 3.0),
        ("1_000", 1000, 1000.0),
        ("0x10", 16, 16.0),
        ("0o17", 15, 15.0),
        ("1e-3", None, 1e-3),
        ("1E3", None, 1000.0),
        ("1e1", None, 10.0),
        (".5", None, 0.5),
        ("2.5", None, 2.5),
        ("2.0", None, 2.0),
        ("1_0.5", None, 10.5),
        *(
            (text, None, None)
            for text in ("010", "007.5", "12:00:00", "1:30", "1.5:2", "0x1p3", "1,5", "yes", "on", "null")
        ),
        *((text, None, None) for text in ("2026-01-02", "١", "1e", "[1]", "", "1 2", "=", "0x", "1__0")),
    ],
)
def test_a_number_is_what_python_reads(key: str, text: str, whole: int | None, number: float | None, tmp_path: Path):
    expected = whole if key == "train.epochs" else number
    (tmp_path / "a.yaml").write_text(f"{key}: {text}\ntrain.min_lr: 0\n")
    for path, words in ((tmp_path / "a.yaml", []), (None, [f"{key}={text}", "train.min_lr=0"])):
        if expected is None:
            assert f"{key} is {text[:70] or 'empty'}" in message(*words, path=path)
        else:
            read = configs.flat(load(path, words))[key]
            assert (read, type(read)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("yes", True), ("on", True), ("no", False), ("OFF", False)]
)
def test_a_switch_is_on_or_off(text: str, value: bool):
    assert load(None, [f"model.detach_reset={text}"]).model.detach_reset is value


@pytest.mark.parametrize("text", ["1", "0", "y", "truth", "[true]"])
def test_what_is_no_switch_is_refused(text: str):
    assert message(f"model.detach_reset={text}") == (
        f"command line: model.detach_reset is {text}; expected true or false or null"
    )


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("0:01", 1),
        ("90:30", 91),
        ("1:30", 2),
        ("12:00:00", 720),
        ("00:00:01", 1),
        ("100:00:00", 6000),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("1-00:00:00", 1440),
        ("2-03:04:05", 3065),
        ("7-0", 10080),
        *(
            (text, None)
            for text in (
                "1.5",
                "12h",
                "1:2:3:4",
                "1-2:3:4:5",
                "-5",
                "1-",
                "infinite",
                "1e3",
                "1_000",
                "null",
                "",
            )
        ),
    ],
)
def test_a_time_is_minutes_or_as_sbatch_takes_it(text: str, minutes: int | None, tmp_path: Path):
    (tmp_path / "site.yaml").write_text(f"minutes: {text}\n")
    for words, site in (([f"site.minutes={text}"], None), ([], tmp_path / "site.yaml")):
        if minutes is not None:
            config = load(None, words, site)
            assert config.site.minutes == minutes
            assert f"\n  minutes: {minutes}\n" in configs.to_yaml(config)
            continue
        with pytest.raises(RunError) as refused:
            load(None, words, site)
        assert f"site.minutes is {text or 'empty'}; expected minutes, or a time as sbatch takes it" in str(
            refused.value
        )
    assert "site.minutes is 0; it must be at least 1" in message("site.minutes=0:00")


def test_a_path_may_begin_with_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    me = pwd.getpwuid(os.getuid())
    keys = sorted(key for key, (_, limits) in TYPES.items() if limits.get("form") is values.FOLDER)
    assert keys == ["data.cache", "data.root", "data.source", "model.weights", "runs_dir"]
    for key in keys:
        for written, meant in (
            ("~/a b/~c", f"{tmp_path}/a b/~c"),
            (f"~{me.pw_name}/x", f"{me.pw_dir}/x"),
            ("./~", "./~"),
        ):
            assert configs.flat(load(None, [f"{key}={written}"]))[key] == meant
        assert f"{key} is ~nobody-of-this-name/x; expected a path" in message(f"{key}=~nobody-of-this-name/x")
        assert f"{key} is ~; expected a path" in message(f"{key}=~")
    for url in ("http://host/~me/data", "pipe:cat ~/x/{}"):
        assert load(None, [f"data.root={url}", "data.window=8"]).data.root == url


def test_so_may_every_word_of_the_command_line(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "mine.yaml").write_text("name: 007\nsite.minutes: 12:00:00\n")
    done = cli("config", "show", "~/mine.yaml", "site.account=00123")
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("name: '007'", "  minutes: 720", "  account: '00123'"):
        assert line in done.stdout.splitlines()
    done = cli("config", "show", "data.root=http://host//x/./y/", "data.window=8")
    assert "  root: http://host//x/./y/" in done.stdout.splitlines()
    done = cli("launch", "~/mine.yaml", "--site=~/none.yaml")
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path}/home/none.yaml: no such configuration file\n")


@given(st.floats(1e-300, 1e300), st.integers(0, 2**62))
def test_numbers_keep_every_digit(tmp_path_factory: Any, lr: float, seed: int):
    path = tmp_path_factory.getbasetemp() / "digits.yaml"
    config = load(None, [f"train.lr={lr!r}", f"seed={seed}", "train.min_lr=0"])
    path.write_text(configs.to_yaml(config))
    shown = load(path)
    assert config.train.lr == shown.train.lr == lr
    assert shown.seed == seed


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train.lr=fast", "train.lr is fast; expected a number"),
        ("train.lr=", "train.lr is empty; expected a number"),
        ("train.lr=true", "train.lr is true; expected a number"),
        ("train.lr={a: 1}", "train.lr is {a: 1}; expected a number"),
        ("train.epochs=1.5", "train.epochs is 1.5; expected a whole number"),
        ("model.segments=two", "model.segments is two; expected a whole number or null"),
        ("model.detach_reset=maybe", "model.detach_reset is maybe; expected true or false or null"),
        ("train.betas=[0.9]", "train.betas is [0.9]; expected a list of two numbers"),
        ("model.clamp=1", "model.clamp is 1; expected a list of two numbers or null"),
        ("train.alphas=[a, b]", "train.alphas is [a, b]; expected a list of numbers or null"),
        ("model.feedback=[x]", "model.feedback is [x]; expected text, a list of whole numbers or null"),
        ("name=null", "name is null; expected text"),
        ("name=", "name is empty; expected text"),
        ("site.setup=module load cuda", "site.setup is module load cuda; expected a list of texts"),
        ("site.setup=[a, null]", "site.setup is [a, null]; expected a list of texts"),
        ("model.feedback=[[0]]", "model.feedback is [[0]]; expected text, a list of whole numbers or null"),
        ("train=3", "train is a section; set one of its keys, like train.epochs"),
    ],
)
def test_wrong_types_are_refused(given: str, expected: str):
    assert message(given) == "command line: " + expected
