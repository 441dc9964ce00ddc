"""The published corrupted sets in their own formats, small, and read as the samples of an evaluation."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.errors import DataError
from pipelines.loader import eval_loader
from pipelines.raw import catalog
from pipelines.samples import Samples
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset
from pipelines.views.boxes import View
from pipelines.views.corrupted import Made, published
from pipelines.views.corruptions import KINDS, corrupt, corruption_rng

WNIDS = ("n03", "n01", "n02")
LABELS = np.arange(30, dtype=np.uint8) % 10


def noise(tmp_path: Path, name: str, shape: tuple[int, int, int], classes: int) -> TarDataset:
    """A test set of noise as shards, 3 a class."""
    images = np.random.default_rng(0).integers(0, 256, (3 * classes, *shape), np.uint8)
    labels = np.arange(3 * classes) % classes
    dataset = replace(
        catalog.get("cifar10"),
        name=name,
        shape=shape,
        class_names=tuple(f"{i:03d}" for i in range(classes)),
        load=lambda split, source: (images, labels),
        mean=(0.5,) * shape[0],
        std=(0.2,) * shape[0],
    )
    return TarDataset(shards.write(dataset, "test", tmp_path / name))


@pytest.fixture
def clean(tmp_path: Path) -> TarDataset:
    return noise(tmp_path, "clean", (3, 32, 32), 10)


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Two kinds of noise, severity 1 first."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    rng = np.random.default_rng(1)
    np.save(folder / "labels.npy", np.tile(LABELS, 5))
    for kind in ("fog", "gaussian_noise"):
        np.save(folder / f"{kind}.npy", rng.integers(0, 256, (150, 32, 32, 3), np.uint8))
    return folder


def batches(data: Samples, view: View | None = None, world: int = 1) -> tuple[torch.Tensor, list[int], list[int]]:
    """Pictures, labels and ids of all ranks together."""
    found = [
        batch
        for rank in range(world)
        for batch in eval_loader(data, rank=rank, world=world, batch_size=8, workers=rank % 2, view=view)
    ]
    labels, ids = (torch.cat([getattr(b, key) for b in found]).tolist() for key in ("labels", "ids"))
    return torch.cat([b.images for b in found]), labels, ids


@pytest.mark.parametrize("world", [1, 4])
def test_cifar_c_is_evaluated_on_every_sample_once(cifar: Path, clean: TarDataset, world: int):
    data = published(cifar, clean)
    assert data.kinds == ("gaussian_noise", "fog") and not data.cropped  # in the order of KINDS
    for kind, severity in (("fog", 1), ("gaussian_noise", 5)):
        samples = data.read(kind, severity)
        expected = np.load(cifar / f"{kind}.npy")[30 * (severity - 1) : 30 * severity].transpose(0, 3, 1, 2)
        images, labels, ids = batches(samples, world=world)
        assert sorted(ids) == list(range(30)) and len(samples) == 30
        assert labels == LABELS[ids].tolist()
        assert np.array_equal(images, expected[ids])
        assert (samples.mean, samples.std, samples.class_names) == (clean.mean, clean.std, clean.class_names)
    assert samples.digest != data.read("fog", 5).digest != clean.digest


def test_cifar_c_is_seen_as_the_clean_pictures_are(cifar: Path, clean: TarDataset):
    """A run that brings its pictures to another size: the same box of them."""
    np.save(
        cifar / "fog.npy", np.tile(np.stack([clean.image(i) for i in range(30)]).transpose(0, 2, 3, 1), (5, 1, 1, 1))
    )
    view = View(24, crop_ratio=0.8)
    assert torch.equal(batches(published(cifar, clean).read("fog", 2), view)[0], batches(clean, view)[0])


def test_nothing_of_cifar_c_is_unpickled(cifar: Path, clean: TarDataset):
    np.save(cifar / "labels.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="labels.npy is not a whole npy file .*; unpack its archive again"):
        published(cifar, clean)


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("name", "spoil", "expected"),
    [
        ("fog", truncate, "fog.npy is not a whole npy file"),
        ("fog", lambda p: p.write_bytes(b""), "fog.npy is not a whole npy file"),
        ("fog", lambda p: p.write_bytes(b"\x80\x04garbage" * 9), "fog.npy is not a whole npy file"),
        (
            "fog",
            lambda p: np.save(p, np.zeros((30, 32, 32, 3), np.uint8)),
            "fog.npy is [30, 32, 32, 3], not [150, H, W",
        ),
        ("fog", lambda p: np.save(p, np.zeros((150, 32, 32, 3))), "fog.npy is float64, not uint8"),
        ("labels", Path.unlink, "labels.npy is missing; unpack its archive again"),
        ("labels", lambda p: np.save(p, np.zeros(149, np.uint8)), "labels.npy is [149], not labels for 5 severities"),
        ("labels", lambda p: np.save(p, np.arange(150, dtype=np.uint8)), "other labels for other severities"),
        ("labels", lambda p: np.save(p, np.zeros(150, np.uint8)), "labels.npy has 1 classes, the run 10; name the set"),
    ],
)
def test_a_cifar_c_that_does_not_fit_is_one_line(cifar: Path, clean: TarDataset, name: str, spoil, expected: str):
    spoil(cifar / f"{name}.npy")
    with pytest.raises(DataError, match=re.escape(expected)) as failure:
        published(cifar, clean)
    assert str(cifar) in str(failure.value) and "\n" not in str(failure.value)


def test_what_a_set_has_not_is_refused(cifar: Path, clean: TarDataset, tmp_path: Path):
    data = published(cifar, clean)
    with pytest.raises(DataError, match="did you mean fog"):
        data.read("fogg", 1)
    with pytest.raises(DataError, match="CIFAR-10-C has no snow, only gaussian_noise, fog"):
        data.read("snow", 1)
    with pytest.raises(DataError, match="severity is 6"):
        data.read("fog", 6)
    for kind in data.kinds:
        (cifar / f"{kind}.npy").unlink()
    with pytest.raises(DataError, match="no file like gaussian_noise.npy"):
        published(cifar, clean)
    with pytest.raises(DataError, match="neither files like gaussian_noise.npy nor folders like gaussian_noise"):
        published(tmp_path, clean)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 24, 24)])
def test_pictures_of_another_shape_are_refused(cifar: Path, tmp_path: Path, shape: tuple[int, int, int]):
    other = noise(tmp_path, "other", shape, 10)
    expected = f"has pictures [3, 32, 32], the run {list(shape)}; name the set"
    with pytest.raises(DataError, match=re.escape(expected)):
        published(cifar, other).read("fog", 1)


@pytest.fixture
def photographs(tmp_path: Path) -> TarDataset:
    """A test set of folders whose classes are WNIDs, not in the order of their pictures in the set."""
    for split in ("train", "val"):
        for i, wnid in enumerate(WNIDS):
            folder = tmp_path / "source" / split / wnid
            folder.mkdir(parents=True)
            Image.new("RGB", (40 + i, 30)).save(folder / f"{wnid}.JPEG")
    return TarDataset(shards.write(catalog.get("imagenet"), "test", tmp_path / "out", source=tmp_path / "source"))


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Two kinds as unpacked: KIND/SEVERITY/WNID, 50 pictures of 32 x 32 a class, whose colour is its class's."""
    folder = tmp_path / "ImageNet-C"
    for kind in ("fog", "snow"):
        for severity in range(1, 6):
            for wnid in WNIDS:
                place = folder / kind / str(severity) / wnid
                place.mkdir(parents=True)
                first = place / "ILSVRC2012_val_00000000.JPEG"
                pixels = np.full((32, 32, 3), 50 * int(wnid[1:]) + severity, np.uint8)
                pixels[0] = 255  # an edge that a centre crop would cut
                Image.fromarray(pixels).save(first, "JPEG", quality=100)
                for i in range(1, 50):
                    (place / f"ILSVRC2012_val_{i:08d}.JPEG").hardlink_to(first)
    return folder


def test_imagenet_c_is_evaluated_on_every_sample_once(imagenet: Path, photographs: TarDataset):
    data = published(imagenet, photographs)
    assert data.kinds == ("snow", "fog") and data.cropped
    samples = data.read("snow", 3)
    assert photographs.class_names == sorted(WNIDS) and samples.shape == (3, 32, 32)
    images, labels, ids = batches(samples, View(32, crop_ratio=1), world=3)
    assert sorted(ids) == list(range(150)) and np.bincount(labels).tolist() == [50, 50, 50]
    shown = images[:, :, 8:].float().mean((1, 2, 3))
    assert torch.allclose(shown, torch.tensor([50.0 * (1 + label) + 3 for label in labels]), atol=2)
    assert images[:, :, 0].min() > 200  # the whole picture
    assert batches(samples, View(48, crop_ratio=1))[0].shape == (150, 3, 48, 48)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda f: (f / "fog" / "4").rename(f / "fog" / "9"), "fog/4 is missing; unpack its archive again"),
        (lambda f: (f / "fog" / "4" / "n02").rename(f / "n02"), "has 2 classes, the run 3: n02 is only in the run"),
        (lambda f: (f / "fog" / "4" / "n04").mkdir(), "has 4 classes, the run 3: n04 is only in the set"),
        (
            lambda f: next((f / "fog" / "1" / "n02").iterdir()).unlink(),
            "fog/1/n02 has 49 pictures instead of 50; unpack its archive again",
        ),
    ],
)
def test_an_imagenet_c_that_does_not_fit_is_one_line(imagenet: Path, photographs: TarDataset, spoil, expected: str):
    spoil(imagenet)
    with pytest.raises(DataError, match=re.escape(expected)) as failure:
        published(imagenet, photographs).read("fog", 1)
    assert str(imagenet) in str(failure.value) and "\n" not in str(failure.value)


def test_a_damaged_picture_is_named(imagenet: Path, photographs: TarDataset):
    place = imagenet / "fog" / "2" / "n02"
    for name, content in (("10", b"no picture"), ("11", None)):
        path = place / f"ILSVRC2012_val_000000{name}.JPEG"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        else:
            Image.new("RGB", (20, 30)).save(path)
    samples = published(imagenet, photographs).read("fog", 2)
    with pytest.raises(
        DataError, match="n02/ILSVRC2012_val_00000010.JPEG does not decode .*; unpack its archive again"
    ):
        samples.image(60)
    with pytest.raises(DataError, match="val_00000011.JPEG is 30 x 20, the first one is 32 x 32; unpack"):
        samples.crop(61, (0, 0, 20, 20), 16)


def test_what_is_made_is_keyed_by_the_sample(clean: TarDataset):
    made = Made(clean, seed=3)
    assert made.kinds == KINDS
    for view in (None, View(24)):
        images, labels, ids = batches(made.read("shot_noise", 2), view, world=3)
        clear, *_ = batches(clean, view)
        expected = [corrupt(clear[i].numpy(), "shot_noise", 2, corruption_rng(3, "shot_noise", 2, i)) for i in ids]
        assert np.array_equal(images, np.stack(expected)) and labels == clean.labels[ids].tolist()
