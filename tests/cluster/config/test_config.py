"""Configurations: the documented default is the default, what cannot work is refused by name."""

from __future__ import annotations

import json
import os
import pwd
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import tdformer
from cluster import config as configs
from cluster.config import Config, load, values
from cluster.config.schema import FIRST_WEIGHTS, types
from cluster.errors import RunError
from pipelines.remote import is_remote
from tdformer.backbones import families

CONFIGS = Path(__file__).parents[3] / "configs"
FILES = sorted(p for p in CONFIGS.rglob("*.yaml") if p.name[0] != "_" and p.parent.name != "studies")


def name_of(path: Path) -> str:
    """As a recipe is called."""
    return str(path.relative_to(CONFIGS).with_suffix(""))


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


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_file_loads_and_begins_with_its_command(path: Path):
    assert path.read_text().splitlines()[0].startswith(f"# tdformer train configs/{name_of(path)}.yaml")
    config = load(path)
    assert path.stem == "default" or config.name == path.stem
    assert configs.resolve(config, 2).micro_batch * 2 == config.train.global_batch


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_is_shown_loads_as_the_same(path: Path, tmp_path: Path):
    config = load(path, ["train.betas=[0.5,0.25]", "model.feedback=[1,0]", "train.norm_batch=8"])
    (tmp_path / "shown.yaml").write_text(configs.to_yaml(config))
    assert load(tmp_path / "shown.yaml") == config


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


# What YAML 1.1 reads as another thing, and what is special to YAML, to OmegaConf or to a terminal.
NUMBERS = [
    *("007", "00123", "010", "0x10", "0o17", "0b1", "1_000", "1e3", "1.e+3", ".5", "+1", "-0", "12:00:00", "1:30"),
    *("190:20:30", "1-12", "2026-01-02", "2026-01-02T03:04:05Z", ".inf", "-.inf", "inf", "nan", ".NaN", "1,000"),
]
WORDS = [
    *(
        "true",
        "True",
        "yes",
        "Yes",
        "no",
        "NO",
        "on",
        "Off",
        "y",
        "n",
        "=",
        "<<",
        "???",
        "é",
        "日本",
        "🙂",
        "-",
        "?",
        ":",
    ),
    *(
        ",",
        "[",
        "]",
        "{",
        "}",
        "#",
        "&",
        "*",
        "!",
        "|",
        ">",
        "'",
        '"',
        "%",
        "@",
        "`",
        "[a]",
        "{a: 1}",
        "[0,1]",
        "a#b",
        "#a",
    ),
    *(
        "*a",
        "&a",
        "!a",
        "!!str",
        "%TAG",
        "@a",
        "`a",
        "${HOME}",
        "${oc.env:HOME}",
        r"\${x}",
        r"\\${x}",
        "$${",
        "${",
        "$HOME",
    ),
    *("\\", r"\n", "a\\", "---", "..."),
]
NULL = ["", "~", "null", "Null", "NULL"]
SPACED = [
    " ",
    "a: b",
    "a :b",
    "a #b",
    " a ",
    "a\nb",
    "a\r\nb\n",
    "\ta",
    "'a' b",
    '"a" b',
    "'a",
    "a\x85\u2028b",
]
SPACED += ["\ufeffa", "\x1b[0m", "pipe:aws s3 cp s3://b/{} - # x", "export A='b: ${C:-d}'", "a" * 300, "a b " * 60]
LOOKS_LIKE = NUMBERS + WORDS + NULL + SPACED
TEXTS = st.sampled_from(LOOKS_LIKE) | st.text().filter(lambda text: "\0" not in text)
TYPES = types()
TEXT_SETTINGS = sorted(
    key
    for key, (kind, limits) in TYPES.items()
    if kind in ("str", "str | None") and not {"choices", "registry"} & limits.keys()
)
TEXT_LISTS = sorted(
    key
    for key, (kind, limits) in TYPES.items()
    if kind in ("list[str]", "list[str] | None") and "registry" not in limits
)


def quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', width=10**6).rstrip("\n")


def referring(text: str) -> str:
    """`text` where `${` is escaped, as OmegaConf reads it."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def test_the_text_settings_are_these():
    assert [
        *("data.augment.rand_augment", "data.cache", "data.dataset", "data.root", "data.source", "log.wandb_project"),
        *("model.name", "model.weights", "model.weights_sha256", "name", "runs_dir"),
        *("site.account", "site.constraint", "site.gpu", "site.mail", "site.mail_on", "site.partition"),
        *("site.python", "site.qos"),
    ] == TEXT_SETTINGS
    lists = ["data.augment.rand_augment_ops", "plugins", "site.sbatch", "site.setup", "site.srun", "train.freeze"]
    assert lists == TEXT_LISTS


def possible(key: str, text: str) -> bool:
    """Whether `check` lets it be."""
    if TYPES[key][1].get("form") is not None and text.startswith("~"):
        return False  # a home folder
    if key == "plugins":
        return False  # there is none of that name
    refused = {
        "name": text in ("", ".", "..") or "/" in text,
        "data.root": is_remote(text),
        "model.weights_sha256": True,  # 64 digits
        "site.sbatch": text.startswith("-"),
    }
    one_line = key in ("name", "runs_dir") or (key.startswith("site.") and key != "site.setup")
    return not refused.get(key, False) and not (one_line and "\n" in text)


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


@settings(max_examples=30)
@given(given=st.lists(TEXTS, min_size=len(TEXT_SETTINGS) + 1, max_size=len(TEXT_SETTINGS) + 1))
def test_what_is_written_reads_as_the_same(tmp_path_factory: Any, given: list[str]):
    """By what goes on with it, by another start, and by what keeps it as JSON."""
    kept = {k: v for k, v in zip(TEXT_SETTINGS, given, strict=False) if possible(k, v)}
    kept_many = {k: [v for v in (given[-1], given[0]) if possible(k, v)] for k in TEXT_LISTS}
    config = configs.stored(Path("m.pt.json"), (), kept | kept_many)
    assert configs.flat(config) == configs.flat(Config()) | kept | kept_many
    file = tmp_path_factory.getbasetemp() / "written.yaml"
    file.write_text(configs.to_yaml(config))
    assert load(file) == configs.stored(file) == config
    assert configs.stored(Path("m.pt.json"), (), json.loads(json.dumps(configs.flat(config)))) == config


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


def test_what_a_run_kept_before_reads_as_the_same(tmp_path: Path):
    """Configurations of runs were written by OmegaConf."""

    @settings(max_examples=30)
    @given(text=TEXTS.filter(lambda text: "${" not in text and text != "???"), number=st.floats(1e-9, 0.5))
    def check(text: str, number: float) -> None:
        config = Config()
        config.model.name, config.log.wandb_project, config.site.setup = text, text, [text]
        config.data.augment.flip, config.train.betas = number, (number, 0.5)
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))))
        assert configs.stored(tmp_path / "config.yaml") == config

    check()


def test_nothing_that_was_stored_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET", "hunter2")
    (tmp_path / "a.yaml").write_text("name: a\nsite.mail: ${oc.env:SECRET}\nsite.qos: \\${x}\nseed: ${train.epochs}\n")
    assert "seed is ${train.epochs}; expected a whole number" in _refused(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("name: a\nsite.mail: ${oc.env:SECRET}\nsite.qos: \\${x}\n")
    kept = configs.stored(tmp_path / "a.yaml", ["site.account=${oc.env:SECRET}"])
    assert (kept.site.mail, kept.site.qos, kept.site.account) == ("${oc.env:SECRET}", "${x}", "hunter2")
    assert configs.stored(Path("m.pt.json"), (), {"site.mail": "${oc.env:SECRET}"}).site.mail == "${oc.env:SECRET}"
    for odd in (
        [],
        3,
        "text",
        {"name": {"a": 1}},
        {"name": "\ud800"},
        {"nothing": 1},
        {"seed": [[1]]},
        {"a": {"b": []}},
    ):
        with pytest.raises(RunError, match="m.pt.json: "):
            configs.stored(Path("m.pt.json"), (), odd)
    assert load(tmp_path / "a.yaml", ["site.qos=b"]).site.mail == "hunter2"


def _refused(path: Path) -> str:
    with pytest.raises(RunError) as failure:
        configs.stored(path)
    return str(failure.value)


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
    _read_or_refused(None, [f"{key}={text}" for key, text in given])


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path_factory: Any, data: st.DataObject):
    content = bytearray(data.draw(st.sampled_from(FILES)).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.sampled_from([0, 1, 1, 1, 20]))
        content[start : start + length] = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"\n", b": ", b"\t", b"&a ", b"*a"])
        )
    file = tmp_path_factory.getbasetemp() / "damaged.yaml"
    file.write_bytes(content)
    _read_or_refused(file, [])


def _read_or_refused(path: Path | None, words: list[str]) -> None:
    try:
        config = load(path, words)
    except RunError as e:
        assert str(e) and len(str(e)) < 2000
        assert "\n" not in str(e)
    else:
        assert configs.stored(Path("m.pt.json"), (), configs.flat(config)) == config


def test_the_last_override_wins():
    assert load(None, ["seed=1", "seed=2"]).seed == 2


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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("train.epochs=0", "at least 1"),
        ("train.lr=0", "above 0"),
        ("train.lr=.nan", "finite"),
        ("train.lr=.inf", "finite"),
        ("train.betas=[0.9, 1.0]", "below 1"),
        ("data.augment.flip=1.5", "at most 1"),
        ("train.precision=fp8", "choose fp32, bf16 or fp16"),
        ("train.loss_scale=0.5", "at least 1"),
        ("train.loss_scale=1e40", "at most"),
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
        (b"seed: 1\nseed: 2\n", "line 2: seed is set twice"),
        (b"train.lr: 1\ntrain:\n  lr: 2\n", "line 3: train.lr is set twice"),
        (b"train: {lr: 1}\nlog: {}\ntrain: {epochs: 2}\n", "line 3: train is set twice"),
        (b"- a\n", "a mapping"),
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"seed: 1\n---\nseed: 2\n", "line 2: not valid YAML"),
        (b"train:\n\tlr: 1\n", "line 2: not valid YAML"),
        (b"seed: \x07\n", "not valid YAML"),
        (b"\xff\xfe\xfa", "byte 0 is not UTF-8"),
        ("name: é\n".encode("latin-1"), "byte 6 is not UTF-8"),
        ("seed: 1\n".encode("utf-16"), "is not UTF-8"),
        (b"1: 2\n", "1 is not a setting"),
        (b"? [a]\n: 1\n", "[a] is not a setting"),
        (b'name: "a\\0b"\n', "name is"),
        (b'name: "\\ud800"\n', "name is"),
        (b"[" * 5_000, "nested too deeply"),
        (b"#" * 2**20 + b"\n", "1,048,577 bytes are no configuration"),
        (b"name: !!python/object/apply:os.system [touch ran]\n", "is a YAML tag"),
        (b"train: !!python/object/new:os.system {lr: 1}\n", "is a YAML tag"),
        (b"site.setup: [!!python/name:os.system x]\n", "is a YAML tag"),
        (b"seed: !!int 7\n", "is a YAML tag"),
        (b"!!python/name:os.system seed: 7\n", "is a YAML tag"),
        (b"site:\n  setup: &a [*a]\n", "site.setup is [[[["),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path: Path, content: bytes, expected: str):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    line = message(path=file)
    assert str(file) in line
    assert expected in line


def test_what_is_no_file_is_refused(tmp_path: Path):
    assert message(path=tmp_path / "none.yaml").endswith("no such configuration file")
    assert "it is not a file" in message(path=tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "it is not a file" in message(path=tmp_path / "pipe")
    assert "cannot be read" in message(path=tmp_path / "a\0b")


def test_aliases_that_would_fill_the_memory_cost_nothing(tmp_path: Path):
    lines = ["site:", "  setup: &a0 [x, x]", *(f"  a{i}: &a{i} [{f'*a{i - 1}, ' * 10}]" for i in range(1, 30))]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))
    assert "site.a1 is not a setting" in message(path=tmp_path / "laughs.yaml")
    nested = "[" + ", ".join(["&a [x, x]", *(f"&{'b' * i} [*{'b' * (i - 1) or 'a'}, *a]" for i in range(1, 30))]) + "]"
    (tmp_path / "laughs.yaml").write_text(f"site.setup: {nested}")
    line = message(path=tmp_path / "laughs.yaml")
    assert "expected a list of texts" in line and len(line) < 300


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
        found |= _keys(value, f"{prefix}{key}.") if value and isinstance(value, dict) else {prefix + key}
    return found


# ------------------------------------------------------------------------------------------------- an open section

OWN = st.dictionaries(
    st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda key: key not in configs.flat(Config().model)),
    st.recursive(
        st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
        lambda value: st.lists(value, max_size=3),
        max_leaves=1,
    ),
    max_size=4,
)


@settings(max_examples=15)
@given(own=OWN)
@example(own={"a": "1e3", "b": "0o17", "c": ["007", 1, 1.0, True, "on"], "d": "${name}", "e": []})
def test_a_backbone_s_own_options_are_read_as_they_look_and_written_so(tmp_path_factory: Any, own: dict[str, Any]):
    if "recompute" in own or any("\0" in str(value) for value in own.values()):
        return
    written = configs.stored(Path("m.json"), (), {"model.own": own})
    assert written.model.own == own and written.model.options() == own
    assert [*map(type, written.model.own.values())] == [*map(type, own.values())]
    file = tmp_path_factory.getbasetemp() / "own.yaml"
    file.write_text(configs.to_yaml(written))
    assert load(file) == configs.stored(file) == written
    assert configs.stored(Path("m.json"), (), json.loads(json.dumps(configs.flat(written)))) == written


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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("model.own=3", "command line: model.own is a section; set one of its keys, like model.own.OPTION"),
        ("model.own.a.b=3", "command line: model.own.a.b is not a setting; the nearest is model.own"),
        (
            "model.own.a={b: 1}",
            "command line: model.own.a is {b: 1}; expected a number, a text, true or false, or a list ",
        ),
        ("model.own.a=inf", "model.own.a is inf; it must be finite"),
        ("model.own.tau=3", "model.own.tau is no option of a backbone; write model.tau, if that is meant"),
        ("model.width=0", "model.width is 0; it must be at least 1"),
        ("model.depths=[1,0]", "model.depths is [1, 0]; it must be at least 1"),
        ("model.mlp_ratio=0", "model.mlp_ratio is 0.0; it must be above 0"),
    ],
)
def test_own_options_and_sizes_that_cannot_be(given: str, expected: str):
    assert message(given).startswith(expected)
