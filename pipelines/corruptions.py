"""Corrupted pictures: the published sets CIFAR-10-C and ImageNet-C, and the same kinds made here.

What `corrupt` makes is not CIFAR-10-C. The library (imagecorruptions-imaug) has ImageNet-C's severities for every
size, and at 32 x 32 those are much stronger than the ones that CIFAR-10-C was made with; results on such pictures
cannot be compared with those of the published sets (Table 7 of the paper). From ImageNet-C, too, six kinds differ:
motion_blur and snow blur without ImageMagick, zoom_blur is cut at a corner, frost is enlarged and has a sixth picture,
pixelate enlarges without averaging, and elastic_transform has other parameters and no affine part.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import DataError
from .order import keyed_rng

Pixels = NDArray[np.uint8]

KINDS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),  # for validation, in the sets' own terms
)
SEVERITIES = (1, 2, 3, 4, 5)
AGAIN = "unpack its archive again"
_DOMAIN = 0x636F7272  # keeps these draws apart from those of training
_SEEDED = ("impulse_noise", "glass_blur")  # draw from generators of their own


def corruption_rng(seed: int, kind: str, severity: int, sample_id: int) -> np.random.Generator:
    """The generator for one picture's `corrupt`: the same on any rank and in any order."""
    check(kind, severity)
    return keyed_rng(_DOMAIN, seed, KINDS.index(kind), severity, sample_id)


def corrupt(image: Pixels, kind: str, severity: int, rng: np.random.Generator) -> Pixels:
    """uint8 `[C, H, W]`, C 1 or 3 -> uint8 `[C, H, W]`.

    A grey picture is corrupted as three equal channels, of which the green one is kept. Raises DataError for an
    unknown kind or severity, another shape, and saturate on grey, which has no saturation.
    """
    check(kind, severity)
    if image.dtype != np.uint8 or image.ndim != 3 or len(image) not in (1, 3):
        raise DataError(f"a picture is {image.dtype} {list(image.shape)}; give uint8 [C, H, W] with C 1 or 3")
    grey = len(image) == 1
    if grey and kind == "saturate":
        raise DataError("saturate changes colours, and the pictures have 1 channel; leave it out")
    rows = np.repeat(image, 3, 0) if grey else image
    picture = Image.fromarray(np.ascontiguousarray(rows.transpose(1, 2, 0)))
    seed = int(rng.integers(2**32))
    with _numpy_random(seed), np.errstate(invalid="ignore"):
        made = np.asarray(_library()[kind](picture, severity, **({"seed": seed} if kind in _SEEDED else {})))
    if not np.isfinite(made).all():  # spatter, where no drop fell on a small picture
        return image.copy()
    changed = made.astype(np.uint8).transpose(2, 0, 1)
    return np.ascontiguousarray(changed[1:2] if grey else changed)


class CifarC:
    """CIFAR-10-C or CIFAR-100-C: a folder of KIND.npy and labels.npy. Raises DataError where it is not whole."""

    COUNT = 10_000

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        labels = self._load("labels", (len(SEVERITIES) * self.COUNT,))
        self.labels = labels[: self.COUNT].astype(np.int64)
        if (labels.reshape(len(SEVERITIES), -1) != self.labels).any():
            raise DataError(f"{self.folder / 'labels.npy'} has other labels for other severities; {AGAIN}")
        self.kinds = tuple(kind for kind in KINDS if (self.folder / f"{kind}.npy").exists())
        if not self.kinds:
            raise DataError(f"{self.folder} has no file like {KINDS[0]}.npy; name the folder of the unpacked archive")

    def read(self, kind: str, severity: int) -> tuple[Pixels, NDArray[np.int64]]:
        """Pictures uint8 `[10000, 3, 32, 32]`, read from the file as they are used, and labels `[10000]`."""
        check(kind, severity)
        first = (severity - 1) * self.COUNT
        images = self._load(kind, (len(SEVERITIES) * self.COUNT, 32, 32, 3))
        return images[first : first + self.COUNT].transpose(0, 3, 1, 2), self.labels

    def _load(self, name: str, shape: tuple[int, ...]) -> Pixels:
        path = self.folder / f"{name}.npy"
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # never unpickles
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing; {AGAIN}") from error
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is not a whole npy file ({str(error).splitlines()[0]}); {AGAIN}") from error
        if array.dtype != np.uint8 or array.shape != shape:
            raise DataError(f"{path} is {array.dtype} {list(array.shape)} instead of uint8 {list(shape)}; {AGAIN}")
        return array


class ImageNetC:
    """ImageNet-C: KIND/SEVERITY/WNID/*.JPEG, 50 pictures a class.

    wnids: the classes in the order of the labels; None: ImageNet's 1,000, sorted. Raises DataError.
    """

    CLASSES, A_CLASS = 1000, 50

    def __init__(self, folder: str | Path, wnids: Sequence[str] | None = None) -> None:
        self.folder, self.wnids = Path(folder), None if wnids is None else tuple(wnids)
        self.kinds = tuple(kind for kind in KINDS if (self.folder / kind).is_dir())
        if not self.kinds:
            raise DataError(
                f"{self.folder} has no folder like {KINDS[0]}; unpack the archives of ImageNet-C side by side in it"
            )

    def read(self, kind: str, severity: int) -> Iterator[tuple[Path, int]]:
        """(file, label) of every picture, sorted by class and name; counted before the first is handed out."""
        check(kind, severity)
        place = self.folder / kind / str(severity)
        if not place.is_dir():
            raise DataError(f"{place} is missing; {AGAIN}")
        found = tuple(sorted(path.name for path in place.iterdir() if path.is_dir()))
        if self.wnids is None and len(found) != self.CLASSES:
            raise DataError(f"{place} has {len(found)} classes instead of {self.CLASSES}; {AGAIN}, or give the wnids")
        wnids = self.wnids or found
        if missing := sorted(set(wnids) - set(found)):
            raise DataError(f"{place / missing[0]} is missing; {AGAIN}")
        if unknown := sorted(set(found) - set(wnids)):
            raise DataError(f"{place / unknown[0]} is none of the {len(wnids)} classes; give its wnid, or remove it")
        pictures = [(path, label) for label, wnid in enumerate(wnids) for path in self._class(place / wnid)]
        return iter(pictures)

    def _class(self, folder: Path) -> list[Path]:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".JPEG")
        if len(files) != self.A_CLASS:
            raise DataError(f"{folder} has {len(files)} pictures instead of {self.A_CLASS}; {AGAIN}")
        return files


def check(kind: str, severity: int) -> None:
    """Raises DataError for a kind or severity that there is not, with the nearest."""
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1) or KINDS
        raise DataError(f"corruption {kind!r} is unknown; did you mean {' or '.join(near)}?")
    if severity not in SEVERITIES:
        raise DataError(f"severity is {severity}; choose 1, 2, 3, 4 or 5")


@lru_cache
def _library() -> dict[str, Any]:
    try:
        import cv2
        from imagecorruptions import corruption_dict
    except ImportError as error:  # OpenCV's, too, where a machine without a screen lacks libGL
        raise DataError(
            f"making corruptions needs imagecorruptions ({error}); pip install 'tdformer[corruptions]', and "
            "opencv-python-headless over it where libGL is missing"
        ) from error
    cv2.setNumThreads(0)  # they do not survive the fork of a data worker
    return corruption_dict


@contextmanager
def _numpy_random(seed: int) -> Iterator[None]:
    """numpy's global generator, which the library draws from, as `seed` sets it; afterwards as it was."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
