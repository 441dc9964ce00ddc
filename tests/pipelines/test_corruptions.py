"""Corruptions: what is made here, and the readers on files of the published formats."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import corruptions
from pipelines.corruptions import KINDS, CifarC, ImageNetC, corrupt, corruption_rng
from pipelines.errors import DataError


def waves(channels: int, height: int, width: int) -> np.ndarray:
    """A smooth colourful picture: noise shows in it, and so does blur."""
    c, y, x = np.meshgrid(np.arange(channels), np.arange(height), np.arange(width), indexing="ij")
    return (120 + 70 * np.sin(x / (2 + c)) + 50 * np.cos(y / 3 + c)).astype(np.uint8)


def error(image: np.ndarray, kind: str, severity: int, seed: int = 0) -> float:
    made = corrupt(image, kind, severity, corruption_rng(seed, kind, severity, 7))
    return float(np.abs(made.astype(int) - image).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 48, 64)])
def test_every_kind_changes_pictures_of_every_size(kind: str, shape: tuple[int, int, int]):
    if kind == "saturate" and shape[0] == 1:
        with pytest.raises(DataError, match="the pictures have 1 channel; leave it out"):
            corrupt(waves(*shape), kind, 3, corruption_rng(0, kind, 3, 0))
        return
    image = waves(*shape)
    before = image.copy()
    for severity in (1, 5):
        made = corrupt(image, kind, severity, corruption_rng(0, kind, severity, 0))
        assert (made.dtype, made.shape) == (np.uint8, shape)
        assert made.flags.c_contiguous
    assert error(image, kind, 5) > 2
    assert np.array_equal(image, before)


# Without those that draw another scene, and those whose last severities are of another sort.
ORDERED = [k for k in KINDS if k not in ("frost", "fog", "elastic_transform", "spatter", "saturate")]


@pytest.mark.parametrize("kind", ORDERED)
def test_a_higher_severity_changes_more(kind: str):
    image = waves(3, 64, 64)
    errors = [np.mean([error(image, kind, severity, seed) for seed in range(4)]) for severity in (1, 3, 5)]
    assert errors[0] < errors[1] < errors[2]


def test_large_pictures_work():
    made = corrupt(waves(3, 224, 224), "fog", 3, corruption_rng(0, "fog", 3, 0))
    assert made.shape == (3, 224, 224)


def test_draws_are_keyed_and_global_generators_stay_as_they_were():
    image = waves(3, 32, 32)
    keys = [(seed, kind, severity, i) for seed in (0, 1) for kind in KINDS for severity in (1, 4) for i in (0, 5)]
    states = random.getstate(), np.random.get_state()[1].tolist()
    forward = {key: corrupt(image, *key[1:3], corruption_rng(*key)).tobytes() for key in keys}
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    np.random.seed(1)
    assert {key: corrupt(image, *key[1:3], corruption_rng(*key)).tobytes() for key in reversed(keys)} == forward
    for kind in ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "fog", "snow"):
        assert len({content for key, content in forward.items() if key[1:3] == (kind, 4)}) == 4


def test_grey_noise_is_as_strong_as_coloured_noise():
    flat = np.full((3, 64, 64), 128, np.uint8)
    for kind in ("gaussian_noise", "speckle_noise"):
        grey, colour = (corrupt(x, kind, 2, corruption_rng(0, kind, 2, 0)).std() for x in (flat[:1], flat))
        assert abs(grey / colour - 1) < 0.1


def test_a_picture_without_a_drop_stays_as_it_is():
    image = waves(1, 16, 16)
    made = [corrupt(image, "spatter", 1, corruption_rng(0, "spatter", 1, i)) for i in range(40)]
    assert any(np.array_equal(x, image) for x in made)
    assert min(x.max() for x in made) > 0


@pytest.mark.parametrize(
    ("kind", "severity", "image", "expected"),
    [
        ("gausian_noise", 1, waves(3, 32, 32), "did you mean gaussian_noise"),
        ("fog", 0, waves(3, 32, 32), "severity is 0"),
        ("fog", 6, waves(3, 32, 32), "severity is 6"),
        ("fog", 1, waves(2, 32, 32), "give uint8"),
        ("fog", 1, waves(3, 32, 32) / 255, "give uint8"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(kind: str, severity: int, image: np.ndarray, expected: str):
    with pytest.raises(DataError, match=expected):
        corrupt(image, kind, severity, np.random.default_rng(0))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    corruptions._library.cache_clear()
    with pytest.raises(DataError, match=r"pip install 'tdformer\[corruptions\]'"):
        corrupt(waves(3, 32, 32), "fog", 1, np.random.default_rng(0))


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Two kinds in full length; the file system keeps the zeros as holes."""
    labels = np.tile(np.random.default_rng(0).integers(0, 10, 10_000, dtype=np.uint8), 5)
    np.save(tmp_path / "labels.npy", labels)
    for number, kind in enumerate(("fog", "gaussian_noise"), start=1):
        file = np.lib.format.open_memmap(tmp_path / f"{kind}.npy", "w+", np.uint8, (50_000, 32, 32, 3))
        for severity in range(5):
            file[severity * 10_000 + 3, 5, 6] = (number, severity + 1, 9)
        file.flush()
    return tmp_path


def test_cifar_c_is_read_by_kind_and_severity(cifar: Path):
    data = CifarC(cifar)
    assert data.kinds == ("gaussian_noise", "fog")  # in the order of KINDS
    for number, kind in enumerate(("fog", "gaussian_noise"), start=1):
        for severity in range(1, 6):
            images, labels = data.read(kind, severity)
            assert (images.shape, images.dtype, isinstance(images, np.memmap)) == ((10_000, 3, 32, 32), np.uint8, True)
            assert images[3, :, 5, 6].tolist() == [number, severity, 9]
            assert images[3].sum() == number + severity + 9
            assert np.array_equal(labels, np.load(cifar / "labels.npy")[:10_000])
            assert labels.dtype == np.int64


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


DAMAGE = {
    "missing": (Path.unlink, "fog.npy is missing"),
    "cut": (truncate, "not a whole npy file"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole npy file"),
    "garbage": (lambda path: path.write_bytes(b"\x80\x04garbage" * 9), "not a whole npy file"),
    "pickled": (lambda path: np.save(path, np.array([{}], object), allow_pickle=True), "not a whole npy file"),
    "short": (lambda path: np.save(path, np.zeros((10, 32, 32, 3), np.uint8)), "instead of uint8 [50000, 32, 32, 3]"),
    "float": (lambda path: np.save(path, np.zeros((10, 32, 32, 3))), "is float64"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cifar_c_file_is_named(cifar: Path, damage: str):
    spoil, expected = DAMAGE[damage]
    data = CifarC(cifar)
    spoil(cifar / "fog.npy")
    with pytest.raises(DataError) as failure:
        data.read("fog", 1)
    line = str(failure.value)
    assert expected in line
    assert str(cifar / "fog.npy") in line
    assert "unpack its archive again" in line
    assert "\n" not in line


def test_what_is_no_cifar_c_folder_is_refused(cifar: Path, tmp_path: Path):
    with pytest.raises(DataError, match="labels.npy is missing"):
        CifarC(tmp_path / "nowhere")
    with pytest.raises(DataError, match="did you mean fog"):
        CifarC(cifar).read("fogg", 1)
    with pytest.raises(DataError, match="snow.npy is missing"):
        CifarC(cifar).read("snow", 1)
    labels = np.load(cifar / "labels.npy")
    np.save(cifar / "labels.npy", (labels + np.arange(50_000) // 10_000).astype(np.uint8))
    with pytest.raises(DataError, match="other labels for other severities"):
        CifarC(cifar)
    np.save(cifar / "labels.npy", labels)
    for kind in ("fog", "gaussian_noise"):
        (cifar / f"{kind}.npy").unlink()
    with pytest.raises(DataError, match="no file like gaussian_noise.npy"):
        CifarC(cifar)


def pictures(folder: Path, count: int = 50) -> None:
    folder.mkdir(parents=True)
    first = folder / "ILSVRC2012_val_00000000.JPEG"
    Image.fromarray(waves(3, 16, 16).transpose(1, 2, 0)).save(first, "JPEG")
    for i in range(1, count):
        (folder / f"ILSVRC2012_val_{i:08d}.JPEG").hardlink_to(first)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    for kind, severity in (("fog", 1), ("fog", 2), ("snow", 2)):
        for wnid in ("n02", "n01", "n03"):
            pictures(tmp_path / kind / str(severity) / wnid)
    return tmp_path


def test_imagenet_c_is_read_by_kind_and_severity(imagenet: Path):
    data = ImageNetC(imagenet, ["n03", "n01", "n02"])
    assert data.kinds == ("snow", "fog")
    found = list(data.read("fog", 2))
    assert len(found) == 150
    assert [(path.parent.name, label) for path, label in found[::50]] == [("n03", 0), ("n01", 1), ("n02", 2)]
    assert found[49][0] == imagenet / "fog" / "2" / "n03" / "ILSVRC2012_val_00000049.JPEG"
    with Image.open(found[0][0]) as picture:
        assert picture.size == (16, 16)


def test_without_names_imagenet_c_has_its_thousand_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ImageNetC, "A_CLASS", 1)
    for i in range(1000):
        pictures(tmp_path / "fog" / "1" / f"n{i:08d}", 1)
    found = list(ImageNetC(tmp_path).read("fog", 1))
    assert [label for _, label in found] == list(range(1000))
    assert [path.parent.name for path, _ in found] == [f"n{i:08d}" for i in range(1000)]


def test_an_imagenet_c_that_is_not_whole_is_refused(imagenet: Path):
    names = ["n01", "n02", "n03"]
    with pytest.raises(DataError, match=r"no folder like gaussian_noise; unpack"):
        ImageNetC(imagenet / "fog")
    with pytest.raises(DataError, match=r"fog/1 has 3 classes instead of 1000; .* or give the wnids"):
        ImageNetC(imagenet).read("fog", 1)
    with pytest.raises(DataError, match=r"snow/1 is missing; unpack"):
        ImageNetC(imagenet, names).read("snow", 1)
    with pytest.raises(DataError, match=r"fog/1/n04 is missing"):
        ImageNetC(imagenet, [*names, "n04"]).read("fog", 1)
    with pytest.raises(DataError, match=r"fog/1/n03 is none of the 2 classes"):
        ImageNetC(imagenet, names[:2]).read("fog", 1)
    with pytest.raises(DataError, match="severity is 7"):
        ImageNetC(imagenet, names).read("fog", 7)
    next((imagenet / "fog" / "1" / "n02").iterdir()).unlink()
    with pytest.raises(DataError, match=r"fog/1/n02 has 49 pictures instead of 50; unpack"):
        ImageNetC(imagenet, names).read("fog", 1)
