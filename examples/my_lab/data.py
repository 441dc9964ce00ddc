"""A kind of sample, sounds as spectrograms over time, and a data set of it: tones that are low or high."""

import io
from dataclasses import dataclass

import numpy as np

import pipelines


class Spectrograms(pipelines.Kind):
    """int8 `[T, C, H, W]`, in a shard as .npy."""

    name = "spectrograms"
    frames = True

    def measure(self, content, channels, max_pixels):
        return decode(content).shape[1:]

    def view(self, data, settings):
        return FirstSteps(settings.time_steps, data.shape[1:])

    def augmentation(self, data, settings):
        return louder


@dataclass(frozen=True)
class FirstSteps:
    time_steps: int
    grid: tuple[int, int]

    def bytes(self, channels):
        return self.time_steps * channels * self.grid[0] * self.grid[1]

    def see(self, data, i, epoch):
        return data.decoded(i, decode)[: self.time_steps]


def decode(content):
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise pipelines.DataError("does not decode as a spectrogram") from error


def louder(sample, epoch, i):
    """Some samples, other ones each epoch: a function of the epoch and the sample alone."""
    return sample * np.int8(1 + (epoch + i) % 2)


@dataclass(frozen=True)
class Tones(pipelines.Dataset):
    kind: str = "spectrograms"

    def _open(self, split, source):
        return Split(64 if split == "train" else 32)


@dataclass(frozen=True)
class Split:
    size: int
    class_names = ("low", "high")

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        sound = np.random.default_rng(i).integers(0, 3, (4, 3, 8, 8), np.int8)
        sound[:, :, 4 * (i % 2) : 4 * (i % 2) + 4] += 4  # the rows of a class
        file = io.BytesIO()
        np.save(file, sound)
        return pipelines.Sample(f"{i:08d}", file.getvalue(), "npy", i % 2)

    def mark(self, i):
        return str(i)


pipelines.KINDS.register(Spectrograms())
pipelines.DATASETS.register(Tones("tones", (3, 8, 8), (0.0,) * 3, (1.0,) * 3))
