"""A folder without a split: what is held back is a function of each file's name alone."""

from __future__ import annotations

import io
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import DataError
from pipelines.raw import catalog
from pipelines.raw.split import held_back

NAMES = np.array([f"{i:05d}.jpg".encode() for i in range(5000)])


def test_a_class_has_its_share_and_a_larger_share_holds_the_same_and_more() -> None:
    counts = [int(held_back(name, NAMES, 0.1).sum()) for name in ("cat", "dog", "owl")]
    assert all(abs(count - 500) < 4 * (5000 * 0.1 * 0.9) ** 0.5 for count in counts) and len(set(counts)) > 1
    small, large = held_back("cat", NAMES, 0.1), held_back("cat", NAMES, 0.3)
    assert (large >= small).all() and large.sum() > small.sum()


def test_a_name_decides_for_itself_on_any_machine() -> None:
    """These very files: another function would move pictures between the sets of somebody's run."""
    assert np.flatnonzero(held_back("cat", NAMES[:60], 0.1)).tolist() == [26, 39, 40, 44, 48, 59]
    mixed = np.random.default_rng(0).permutation(len(NAMES))
    assert (held_back("cat", NAMES[mixed], 0.1) == held_back("cat", NAMES, 0.1)[mixed]).all()
    assert (held_back("cat", NAMES[::3], 0.1) == held_back("cat", NAMES, 0.1)[::3]).all()
    words = [f"é{i}.jpg" for i in range(200)]
    one, two = (np.array([unicodedata.normalize(form, w).encode() for w in words]) for form in ("NFC", "NFD"))
    assert (held_back("cat", one, 0.5) == held_back("cat", two, 0.5)).all()
    odd = np.array([b"\xff%d.jpg" % i for i in range(100)])
    assert 20 < held_back("cat", odd, 0.5).sum() < 80


@pytest.fixture
def source(tmp_path: Path) -> Path:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(60):
            (tmp_path / "pets" / name / f"{i}.png").write_bytes(content.getvalue())
    return tmp_path / "pets"


@pytest.mark.parametrize("below", [False, True])
def test_the_two_parts_are_all_files_each_once(source: Path, tmp_path: Path, below: bool) -> None:
    if below:
        source.rename(tmp_path / "train")
        source.mkdir()
        (tmp_path / "train").rename(source / "train")
    known = replace(catalog.get("folder"), val_share=0.2)
    train, test = (known.open(split, source) for split in ("train", "test"))
    names = [{part[i].name for i in range(len(part))} for part in (train, test)]
    assert names[0] | names[1] == {str(p) for p in source.rglob("*.png")} and not names[0] & names[1]
    assert train.class_names == test.class_names == ("cat", "dog") and 10 < len(test) < 40


@pytest.mark.parametrize(
    ("change", "share", "said"),
    [
        (lambda s: (s / "val").mkdir(), 0.1, "is split already, val is to test on; leave --val-share out"),
        (lambda s: None, 1e-9, "none of its 120 files is held back; a larger --val-share"),
        (lambda s: None, 1 - 1e-9, "cat, .*dog: all of it would be held back; a smaller --val-share"),
        (lambda s: (s / "empty").mkdir(), 0.1, "empty: nothing to read"),
        (lambda s: s.rename(s.parent / "deep" / "pets"), 0.1, "no such folder|cannot be read"),
    ],
)
def test_what_cannot_be_divided_is_one_line(source: Path, change: Any, share: float, said: str) -> None:
    (source.parent / "deep").mkdir()
    change(source)
    with pytest.raises(DataError, match=said) as error:
        replace(catalog.get("folder"), val_share=share).open("train", source)
    assert "\n" not in str(error.value)


def test_pictures_without_folders_are_told_so(source: Path) -> None:
    with pytest.raises(DataError, match="has no folders, one for each class"):
        replace(catalog.get("folder"), val_share=0.1).open("train", source / "cat")
