"""Samples that are not here: known by the facts of their data set, and read by nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.build.shards import write_shards
from cluster.config import Config, load
from cluster.errors import RunError
from cluster.plan.absent import Absent, setup_of
from pipelines.errors import DataError
from pipelines.raw import catalog


def config(root: Path, *words: str) -> Config:
    return load(None, [f"data.root={root}", "data.dataset=digits", "train.global_batch=10", *words])


def test_what_is_known_of_a_data_set_stands_for_it(tmp_path: Path) -> None:
    setup, known = setup_of(config(tmp_path), 1), catalog.get("digits")
    assert (len(setup.samples), setup.samples.classes, setup.samples.shape) == (known.counts[0], 10, known.shape)
    assert setup.test is not None and len(setup.test) == known.counts[1]
    assert setup.samples.labels.shape == setup.samples.shard_of.shape == (known.counts[0],)
    assert setup.samples.folder == tmp_path / "train" and setup.test.folder == tmp_path / "test"
    assert len(setup_of(config(tmp_path, "data.share=0.1"), 1).samples) == round(0.1 * known.counts[0])
    assert len(setup_of(config(tmp_path), 1, images=77).samples) == 77


def test_nobody_reads_them(tmp_path: Path) -> None:
    absent = Absent(config(tmp_path), "train", 20, 3)
    assert (len(absent), absent.classes, absent.class_names) == (20, 3, ["0", "1", "2"])
    for read in (
        lambda: absent.image(0),
        lambda: absent.size(0),
        lambda: absent.crop(0, (0.0, 0.0, 1.0, 1.0), 8),
        lambda: absent.following([], None),
    ):
        with pytest.raises(DataError, match="train is not there to be read; tdformer shard writes it$"):
            read()


def test_what_nobody_can_know_is_asked_for(tmp_path: Path) -> None:
    """Of anybody's own folder."""
    words = ("data.dataset=folder", "data.size=32")
    with pytest.raises(RunError, match="^how many images folder has is not known .*; give it with --images N$"):
        setup_of(config(tmp_path, *words), 1)
    with pytest.raises(RunError, match="^how many classes folder has is not known .* with model.num_classes=N$"):
        setup_of(config(tmp_path, *words), 1, images=100)
    setup = setup_of(config(tmp_path, *words, "model.num_classes=7"), 1, images=100)
    assert (len(setup.samples), setup.samples.classes) == (100, 7)


def test_shards_that_are_here_are_opened(tmp_path: Path) -> None:
    write_shards("digits", tmp_path)
    setup = setup_of(config(tmp_path), 1)
    assert setup.samples.image(0).shape == (1, 8, 8)
    with pytest.raises(RunError, match="--images is for data that are not there, and .* has shards; leave it out"):
        setup_of(config(tmp_path), 1, images=10)
