"""Pictures, whole and in boxes: what is seen, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.catalog import encode_png
from pipelines.errors import DataError
from pipelines.pictures import crop, decode


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


@pytest.mark.parametrize("box", [(0, 0, 375, 500), (10, 20, 64, 64), (100, 200, 275, 300), (3, 5, 20, 30)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_box_is_what_pillow_sees_there(kind: str, box: tuple[int, int, int, int]):
    content = photograph(375, 500, kind=kind)
    top, left, h, w = box
    part = Image.open(io.BytesIO(content)).crop((left, top, left + w, top + h))
    expected = np.asarray(part.resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    found = crop(content, 3, box, 64)
    assert found.dtype == np.uint8 and found.shape == (3, 64, 64)
    if kind == "PNG":
        assert np.abs(found[:, 2:-2, 2:-2].astype(int) - expected[:, 2:-2, 2:-2]).max() <= 2
    assert psnr(found, expected) > 33


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_files_become_what_is_asked(mode: str):
    content = photograph(40, 50, mode)
    assert decode(content, 3).shape == (3, 40, 50) and decode(content, 1).shape == (1, 40, 50)
    assert crop(content, 3, (0, 0, 40, 50), 8).shape == (3, 8, 8)


def test_what_is_no_picture_is_refused():
    png, jpeg = encode_png(np.zeros((1, 8, 8), np.uint8)), photograph(64, 64)
    assert decode(png, 1).shape == (1, 8, 8)
    for content in (b"", b"text", png[:40], png[:20] + b"\xff" * 20 + png[40:], jpeg[:500], jpeg[: len(jpeg) // 2]):
        for use in (lambda c: decode(c, 3), lambda c: crop(c, 3, (0, 0, 8, 8), 4)):
            with pytest.raises(DataError, match="does not decode as a picture"):
                use(content)
