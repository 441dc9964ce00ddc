"""Kinds of samples: what is for each, and one that a file elsewhere adds, with a data set of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines import EVENTS, KINDS, PICTURES, AugmentSettings, DataError, Settings, open_split
from pipelines.kinds import unnamed
from pipelines.settings import OF_A_KIND
from pipelines.store import index
from pipelines.store.tars import TarDataset
from pipelines.views.boxes import View

ROOT = Path(__file__).parents[2]
LAB = '''
"""Sounds as spectrograms over time, int8 with three channels."""
import io
from dataclasses import dataclass
import numpy as np
import pipelines

class Spectrograms(pipelines.Kind):
    name = "spectrograms"
    settings = frozenset({"augment.flip"})

    def measure(self, content, channels, max_pixels):
        found = decode(content).shape
        if found[1] != channels:
            raise pipelines.DataError(f"has {found[1]} channels instead of {channels}")
        return found[1:]

    def view(self, data, settings):
        return Steps(settings.time_steps, data.shape[1:])

    def augmentation(self, data, settings):
        return louder

def louder(sample, epoch, i):
    return sample + np.int8(epoch)

@dataclass(frozen=True)
class Steps:
    time_steps: int
    grid: tuple

    def bytes(self, channels):
        return self.time_steps * channels * self.grid[0] * self.grid[1]

    def see(self, data, i, epoch):
        return data.decoded(i, decode)[: self.time_steps]

def decode(content):
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise pipelines.DataError("does not decode as a spectrogram") from error

@dataclass(frozen=True)
class Tones(pipelines.Dataset):
    kind: str = "spectrograms"

    def _open(self, split, source):
        return Read()

class Read:
    class_names = ("low", "high")

    def __len__(self):
        return 12

    def __getitem__(self, i):
        buffer = io.BytesIO()
        np.save(buffer, np.full((5, 3, 4, 6), i, np.int8))
        return pipelines.Sample(f"{i:08d}", buffer.getvalue(), "npy", i % 2)

    def mark(self, i):
        return str(i)

pipelines.KINDS.register(Spectrograms())
pipelines.DATASETS.register(Tones("tones", (3, 4, 6), (0.0,) * 3, (1.0,) * 3))
'''
USE = """
import sys
import torch
import lab
import pipelines
from pathlib import Path
folder = pipelines.write(pipelines.DATASETS.get("tones"), "train", Path("out"))
data = pipelines.open_split(folder)
settings = pipelines.Settings(time_steps=2)
view, augment = data.kind.view(data, settings), data.kind.augmentation(data, settings)
cursor = pipelines.Cursor(0, 3, 0, 6, data.digest)
steps = pipelines.train_loader(data, cursor, pipelines.Share(6), augment=augment, workers=1, view=view)
batches = [batch for step in steps for batch in step]
torch.save([(batch.images, batch.labels, batch.ids) for batch in batches], "read.pt")
frames = pipelines.time_first(pipelines.to_device(batches[0].images, data.mean, data.std, torch.device("cpu")))
print(data.kind.name, list(frames.shape), frames.dtype)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module that adds a kind and a data set, and what a program that imports it did."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lab.py").write_text(LAB)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{folder}"}
    done = subprocess.run([sys.executable, "-c", USE], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "spectrograms [2, 6, 3, 4, 6] torch.float32"
    return folder


def test_a_kind_of_ones_own_comes_to_batches(lab: Path):
    batches = torch.load(lab / "read.pt")
    assert sorted(torch.cat([ids for _, _, ids in batches]).tolist()) == list(range(12))
    for images, labels, ids in batches:
        assert images.dtype == torch.int8 and images.shape == (6, 2, 3, 4, 6)
        assert torch.equal(labels, ids % 2)
        assert (images == (ids + 3).view(6, 1, 1, 1, 1)).all()  # the augmentation adds the epoch


def test_shards_of_a_kind_that_is_not_known_here_are_refused(lab: Path):
    with pytest.raises(DataError, match="has samples of kind 'spectrograms', which nothing here reads; name") as error:
        open_split(lab / "out/train")
    assert "\n" not in str(error.value)


def test_a_kind_is_written_only_where_channels_do_not_tell(lab: Path, written: Path):
    assert json.loads((lab / "out/train" / index.INDEX).read_text())["kind"] == "spectrograms"
    assert "kind" not in json.loads((written / index.INDEX).read_text())  # or every digest would change
    assert TarDataset(written).kind is PICTURES is unnamed(1) is unnamed(3)
    assert unnamed(2) is EVENTS


def test_each_setting_of_a_kind_is_for_one_or_both():
    assert {"pictures", "events"} <= set(KINDS.names())
    assert PICTURES.settings | EVENTS.settings == OF_A_KIND
    assert PICTURES.settings & EVENTS.settings == {"augment.flip"}


def test_the_view_of_pictures_has_each_setting(written: Path):
    data = TarDataset(written)
    assert PICTURES.view(data, Settings()) is None
    asked = Settings(24, 0.9, seed=7, augment=AugmentSettings(scale=(0.5, 0.6), ratio=(0.7, 0.8)))
    assert PICTURES.view(data, asked) == View(24, (0.5, 0.6), (0.7, 0.8), 0.9, 7)
    data.shape = (1, 0, 0)
    with pytest.raises(DataError, match="the pictures in .* have many sizes; set data.size, such as data.size=224"):
        PICTURES.view(data, Settings())


def test_the_augmentation_of_pictures_has_each_setting(written: Path):
    data = TarDataset(written)
    asked = AugmentSettings(crop_padding=2, flip=0.25, erasing=0.5, erasing_mode="const")
    made = PICTURES.augmentation(data, Settings(seed=9, augment=asked))
    for key in ("crop_padding", "flip", "erasing", "erasing_mode"):
        assert getattr(made, key) == getattr(asked, key)
    assert (made.seed, made.mean, made.std) == (9, tuple(data.mean), tuple(data.std))
    with pytest.raises(DataError, match="color_jitter work on colours, and the pictures in .* are grey"):
        PICTURES.augmentation(data, Settings(augment=replace(asked, color_jitter=0.4)))
