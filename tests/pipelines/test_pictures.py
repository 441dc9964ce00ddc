"""Pictures, whole and in boxes: what is seen, and what is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.boxes import View
from pipelines.catalog import encode_png
from pipelines.errors import DataError
from pipelines.pictures import _decoded, crop, decode, resized
from pipelines.vision import torchvision


def photograph(height: int, width: int, mode: str = "RGB", kind: str = "JPEG", **options) -> bytes:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width]
    bands = [128 + 60 * np.sin(x / (9 + 5 * c)) * np.cos(y / (7 + 4 * c)) for c in range(len(mode))]
    pixels = np.stack(bands, 2) + rng.normal(0, 5, (height, width, len(mode)))
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).squeeze(), mode)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b.astype(float)) ** 2))))


def pillow(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def planes(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).transpose(2, 0, 1).astype(int)


@pytest.mark.parametrize("box", [(0, 0, 375, 500), (10, 20, 64, 64), (100, 200, 275, 300), (3, 5, 20, 30)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_box_of_whole_pixels_is_what_pillow_cuts_out_and_resizes(kind: str, box: tuple[int, int, int, int]):
    content = photograph(375, 500, kind=kind)
    top, left, h, w = box
    expected = planes(pillow(content).crop((left, top, left + w, top + h)).resize((96, 96), Image.Resampling.BICUBIC))
    found = crop(content, 3, box, 96)
    assert found.dtype == np.uint8 and found.shape == (3, 96, 96)
    assert np.abs(found - expected).max() <= 2 and psnr(found, expected) > 52
    assert abs((found - expected).mean()) < 0.01


@pytest.mark.parametrize(("size", "decibels"), [(94, 52), (93, 38), (40, 38)])
def test_a_jpeg_is_decoded_smaller_for_a_box_of_four_times_the_size(size: int, decibels: float):
    content = photograph(375, 500)
    expected = planes(pillow(content).resize((size, size), Image.Resampling.BICUBIC))
    found = crop(content, 3, (0, 0, 375, 500), size)
    assert decibels < psnr(found, expected) < (100 if size == 94 else 52)
    assert abs((found - expected).mean()) < 0.05


@pytest.mark.parametrize("shape", [(375, 500), (601, 333), (448, 448)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_evaluation_is_that_of_torchvision(kind: str, shape: tuple[int, int]):
    """Also at its border, where the filter reaches over the edge of the box."""
    content = photograph(*shape, kind=kind)
    vision = torchvision().transforms.functional
    bicubic = vision.InterpolationMode.BICUBIC
    expected = planes(vision.center_crop(vision.resize(pillow(content), 128, bicubic), 112))
    assert np.abs(crop(content, 3, View(112).centre(*shape), 112) - expected).max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"keep_rgb": True},
        {"restart_marker_rows": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_decode_as_with_pillow_and_no_further_than_the_box(mode: str, options: dict[str, Any]):
    content = photograph(123, 150, mode, quality=95, **options)
    assert np.array_equal(decode(content, 3), planes(pillow(content)))
    whole = decode(content, 3).transpose(1, 2, 0)
    for bottom in (1, 15, 16, 17, 33, 64, 100, 122, 123):
        box = (bottom // 2, 7, bottom - bottom // 2, 90)
        assert np.array_equal(crop(content, 3, box, 90), resized(whole, box, 90))
        assert _decoded(content, 3, rows=bottom).shape == (min(123, bottom // 16 * 16 + 16), 150, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_files_become_what_is_asked(mode: str):
    content = photograph(40, 50, mode)
    assert decode(content, 3).shape == (3, 40, 50) and decode(content, 1).shape == (1, 40, 50)
    for box in ((0, 0, 40, 50), (0.5, 1.5, 30.0, 30.0), (4, 4, 30, 30)):
        for size in (8, 20):
            assert crop(content, 3, box, size).shape == (3, size, size)
            assert psnr(crop(content, 3, box, size), resized(decode(content, 3).transpose(1, 2, 0), box, size)) > 25


def use(content: bytes) -> None:
    for read in (
        lambda: decode(content, 3),
        lambda: crop(content, 3, (0, 0, 64, 64), 32),
        lambda: crop(content, 3, (10, 10, 50, 50), 32),
        lambda: crop(content, 3, (0.5, 0.5, 63.0, 63.0), 32),
        lambda: crop(content, 3, (0, 0, 64, 64), 8),
    ):
        with pytest.raises(DataError, match="does not decode as a picture"):
            read()


def test_what_is_no_picture_is_refused():
    png, jpeg = encode_png(np.zeros((1, 8, 8), np.uint8)), photograph(64, 64)
    assert decode(png, 1).shape == (1, 8, 8)
    for content in (b"", b"text", b"\xff\xd8", png[:40], png[:20] + b"\xff" * 20 + png[40:], jpeg[:500]):
        use(content)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_that_ends_too_early_is_refused(options: dict[str, Any]):
    """Cut, or with zeros for its end, which Pillow takes for pixels."""
    whole = photograph(64, 64, **options)
    for content in (whole[: len(whole) // 2], whole[:-2], whole[:-200] + bytes(200)):
        use(content)


def test_bytes_too_many_do_no_harm():
    """libjpeg warns of them; a few of ImageNet's files have some (github.com/apache/mxnet/issues/1522)."""
    whole = photograph(64, 64)
    content = whole[:-2] + b"12345678" + whole[-2:]
    assert np.array_equal(decode(content, 3), decode(whole, 3))
    for box in ((0, 0, 64, 64), (0, 0, 20, 20), (0.5, 0.5, 60.0, 60.0)):
        assert np.array_equal(crop(content, 3, box, 32), crop(whole, 3, box, 32))
