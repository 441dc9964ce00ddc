"""Which hooks a run has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from cluster.config import Config, load
from cluster.errors import RunError
from cluster.train.hooks import HOOKS, Hook, chosen
from cluster.train.hooks.chosen import Hooks

ALWAYS = ["alarms", "firing", "clock", "speed"]


def names(*words: str) -> list[str]:
    return [hook.name for hook in chosen(load(None, list(words))).hooks]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two hooks more, for one test."""
    monkeypatch.setattr(HOOKS, "_entries", dict(HOOKS._entries))

    @HOOKS.register("asked")
    class Asked(Hook):
        pass

    @HOOKS.register("always")
    class Always(Hook):
        @classmethod
        def wanted(cls, config: Config) -> bool:
            return config.seed == 7

    yield


def test_settings_turn_ours_on() -> None:
    assert names() == ALWAYS
    assert names("train.ema_decay=0.9") == ["alarms", "ema", "firing", "clock", "speed"]
    assert names("log.tensorboard=true", "log.wandb=offline") == [*ALWAYS, "tensorboard", "wandb"]


def test_others_come_by_name_or_by_what_they_want_before_those_that_watch(registered: None) -> None:
    assert names("train.hooks=[asked]") == ["alarms", "firing", "asked", "clock", "speed"]
    assert names("seed=7") == ["alarms", "firing", "always", "clock", "speed"]
    assert names("seed=7", "train.hooks=[asked, always, asked]") == [
        "alarms",
        "firing",
        "always",
        "asked",
        "clock",
        "speed",
    ]


def test_an_unknown_one_is_refused(registered: None) -> None:
    with pytest.raises(RunError, match="train.hooks is askd; choose .*; did you mean asked"):
        names("train.hooks=[askd]")


def test_what_a_hook_keeps_must_have_a_file_of_its_own(registered: None) -> None:
    HOOKS.register("model", Hook)
    with pytest.raises(RunError, match="hook 'model'.*give it another name"):
        names("train.hooks=[model]")


def test_two_slots_of_one_name_are_refused() -> None:
    class Loud(Hook):
        def slots(self, world: int) -> Mapping[str, int]:
            return {"seconds": 1}

    loud = Loud(Config())
    loud.name = "loud"
    with pytest.raises(RunError, match="the hooks alarms and loud both have a slot 'seconds'; rename one"):
        Hooks([*chosen(Config()).hooks, loud]).slots(2)


def test_all_hooks_end_also_where_one_fails() -> None:
    ended = []

    class Fails(Hook):
        def end(self, summary: dict[str, Any] | None) -> None:
            raise RunError("no space")

    class Ends(Hook):
        def end(self, summary: dict[str, Any] | None) -> None:
            ended.append(summary)

    with pytest.raises(RunError, match="no space"):
        Hooks([Fails(Config()), Ends(Config())]).end({"step": 1})
    assert ended == [{"step": 1}]
