"""Corrupted pictures, made here: the kinds of CIFAR-10-C and ImageNet-C.

What `corrupt` makes is not CIFAR-10-C. The library (imagecorruptions-imaug) has ImageNet-C's severities for every
size, and at 32 x 32 those are much stronger than the ones that CIFAR-10-C was made with; results on such pictures
cannot be compared with those of the published sets (Table 7 of the paper). From ImageNet-C, too, six kinds differ:
motion_blur and snow blur without ImageMagick, zoom_blur is cut at a corner, frost is enlarged and has a sixth picture,
pixelate enlarges without averaging, and elastic_transform has other parameters and no affine part.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from PIL import Image

from ..draws import CORRUPT
from ..errors import DataError
from ..samples import Pixels

KINDS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),  # for validation, in the sets' own terms: no BENCHMARK
)
SEVERITIES = (1, 2, 3, 4, 5)
BENCHMARK = KINDS[:15]
OF_COLOURS = ("saturate",)  # grey pictures have none
_SEEDED = ("impulse_noise", "glass_blur")  # draw from generators of their own


def corruption_rng(seed: int, kind: str, severity: int, sample_id: int) -> np.random.Generator:
    """The generator for one picture's `corrupt`: the same on any rank and in any order."""
    check(kind, severity)
    return CORRUPT.rng(seed, KINDS.index(kind), severity, sample_id)


def corrupt(image: Pixels, kind: str, severity: int, rng: np.random.Generator) -> Pixels:
    """uint8 `[C, H, W]`, C 1 or 3 -> uint8 `[C, H, W]`.

    A grey picture is corrupted as three equal channels, of which the green one is kept. Raises DataError for an
    unknown kind or severity, another shape, and saturate on grey, which has no saturation.
    """
    check(kind, severity)
    if image.dtype != np.uint8 or image.ndim != 3 or len(image) not in (1, 3):
        raise DataError(f"a picture is {image.dtype} {list(image.shape)}; give uint8 [C, H, W] with C 1 or 3")
    grey = len(image) == 1
    if grey and kind in OF_COLOURS:
        raise DataError(f"{kind} changes colours, and the pictures have 1 channel; leave it out")
    rows = np.repeat(image, 3, 0) if grey else image
    picture = Image.fromarray(np.ascontiguousarray(rows.transpose(1, 2, 0)))
    seed = int(rng.integers(2**32))
    with _numpy_random(seed), np.errstate(invalid="ignore"):
        made = np.asarray(_library()[kind](picture, severity, **({"seed": seed} if kind in _SEEDED else {})))
    if not np.isfinite(made).all():  # spatter, where no drop fell on a small picture
        return image.copy()
    changed = made.astype(np.uint8).transpose(2, 0, 1)
    return np.ascontiguousarray(changed[1:2] if grey else changed)


def check(kind: str, severity: int) -> None:
    """Raises DataError for a kind or severity that there is not, with the nearest."""
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1) or KINDS
        raise DataError(f"corruption {kind!r} is unknown; did you mean {' or '.join(near)}?")
    if severity not in SEVERITIES:
        raise DataError(f"severity is {severity}; choose 1, 2, 3, 4 or 5")


def library() -> str:
    """The library and its version, which decide pixels."""
    try:
        return f"imagecorruptions-imaug {version('imagecorruptions-imaug')}"
    except PackageNotFoundError:  # whoever makes a picture is told
        return "imagecorruptions-imaug, not installed"


@lru_cache
def _library() -> dict[str, Callable[..., object]]:
    try:
        import cv2
        from imagecorruptions import corruption_dict
    except ImportError as error:  # OpenCV's, too, where a machine without a screen lacks libGL
        raise DataError(
            f"making corruptions needs imagecorruptions ({error}); pip install 'tdformer[corruptions]', and "
            "opencv-python-headless over it where libGL is missing"
        ) from error
    cv2.setNumThreads(0)  # they do not survive the fork of a data worker
    library: dict[str, Callable[..., object]] = corruption_dict
    return library


@contextmanager
def _numpy_random(seed: int) -> Iterator[None]:
    """numpy's global generator, which the library draws from, as `seed` sets it; afterwards as it was."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
