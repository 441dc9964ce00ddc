"""The card in a header: what is of our kinds is kept as it is, and a stranger's is left out or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RunError
from cluster.run.cards import told

SEEN = {
    **{"kind": "pictures", "shape": [1, 8, 8], "mean": [0.3], "std": [1], "titles": {"a": "an a"}, "size": None},
    **{"frames": "count", "crop_ratio": 1},
}
CARD = {
    **{"classes": ["a", "b"], "input": SEEN, "dataset": "digits", "run": "mine", "step": 7, "averaged": True},
    **{"accuracy": 0.5, "config_sha256": "ab", "code": ["c0ffee+"]},
}


def test_ours_is_kept_as_it_is() -> None:
    assert told(CARD, Path("m")) == CARD


@pytest.mark.parametrize("key", CARD)
@pytest.mark.parametrize("value", [None, [1], {}, 2.5, object()])
def test_what_is_of_another_kind_is_left_out(key: str, value: object) -> None:
    ours = {"input": {}, "accuracy": 2.5}
    wanted = value if value == ours.get(key, ours) else None
    assert told(CARD | {key: value}, Path("m")) == CARD | {key: wanted}
    assert told({}, Path("m")) == dict.fromkeys(CARD)


@pytest.mark.parametrize("key", SEEN)
def test_data_that_no_model_has_seen_are_one_line(key: str) -> None:
    wrong: Any = {"titles": {"a": 3}, "shape": ["a"]}.get(key, ("a",))
    with pytest.raises(RunError, match=rf"^m: what it says of its data cannot be used \({key} ") as error:
        told(CARD | {"input": SEEN | {key: wrong}}, Path("m"))
    assert "\n" not in str(error.value)
