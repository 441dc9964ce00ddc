"""A configuration is read as it was written, by a user, an earlier version, or a run that kept it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from configurations import (
    FILES,
    TEXT_LISTS,
    TEXT_SETTINGS,
    TEXTS,
    name_of,
    possible,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cluster import config as configs
from cluster.config import Config, load
from cluster.errors import RunError


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_is_shown_loads_as_the_same(path: Path, tmp_path: Path):
    config = load(path, ["train.betas=[0.5,0.25]", "model.feedback=[1,0]", "train.norm_batch=8"])
    (tmp_path / "shown.yaml").write_text(configs.to_yaml(config))
    assert load(tmp_path / "shown.yaml") == config


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


def test_soft_reset_is_no_reset_potential():
    assert load(None, ["model.v_reset=soft"]).model.options() == {"v_reset": None}


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
