"""Lists of class names: equal, in another order, or of another data set."""

from __future__ import annotations

from itertools import permutations

import pytest

from pipelines.classes import mapping
from pipelines.errors import DataError

ANIMALS = ["ant", "cat", "dog"]


def test_equal_lists_need_no_map() -> None:
    assert mapping(ANIMALS, list(ANIMALS), "train", "test") is None


@pytest.mark.parametrize("found", [list(p) for p in permutations(ANIMALS) if list(p) != ANIMALS], ids="-".join)
def test_labels_in_another_order_are_mapped_by_name(found: list[str]) -> None:
    turned = mapping(ANIMALS, found, "train", "test")
    assert turned is not None
    assert [ANIMALS[i] for i in turned] == found


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["ant", "zcat", "dog"], "'cat' is missing, 'zcat' is extra (3 classes, 3 wanted)"),
        (["cat", "dog"], "'ant' is missing (2 classes, 3 wanted)"),
        (["ant", "bee", "cat", "dog", "eel"], "'bee' is extra (5 classes, 3 wanted)"),
        (["ant", "cat", "dog", "cat"], "'cat' is extra (4 classes, 3 wanted)"),
        (["ant", "cat", "cat"], "'dog' is missing, 'cat' is extra (3 classes, 3 wanted)"),
        ([], "'ant' is missing (0 classes, 3 wanted)"),
    ],
    ids=["renamed", "fewer", "more", "twice", "twice-for-one", "none"],
)
def test_other_names_are_refused_with_the_first_difference(found: list[str], words: str) -> None:
    with pytest.raises(DataError) as error:
        mapping(ANIMALS, found, "data/train", "data/test")
    assert str(error.value).startswith(f"data/test has other classes than data/train: {words}")
