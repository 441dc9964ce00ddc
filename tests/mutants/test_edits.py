"""The list of mistakes has not rotted: each place is there once, and so is each test that must fail."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from edits import EDITS, places, where

TREE = Path(__file__).parents[2]


def test_every_place_is_there_once_and_every_test_too() -> None:
    assert len({edit.name for edit in EDITS}) == len(EDITS) > 50
    found = {edit.name: len(places(TREE, edit.old)) for edit in EDITS}
    assert {name: count for name, count in found.items() if count != 1} == {}
    for test in {test for edit in EDITS for test in edit.tests}:
        assert where(TREE, test)
    for edit in EDITS:
        (path,) = places(TREE, edit.old)
        changed = path.read_text().replace(edit.old, edit.new)
        compile(changed, path, "exec")
        assert edit.tests and changed != path.read_text()
