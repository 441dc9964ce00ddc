"""Pictures, whole and in boxes: what is seen, and what is refused."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.errors import DataError
from pipelines.raw.arrays import encode_png
from pipelines.views.boxes import View
from pipelines.views.pictures import _decoded, crop, decode, resized
from pipelines.views.vision import torchvision


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


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def twelve_bits(values: tuple[int, int]) -> bytes:
    """A TIFF of one row, two pixels of 12 bits, which Pillow reads and does not write."""
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    pixels = (values[0] << 12 | values[1]).to_bytes(3, "big") + b"\0"
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, 12) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


WIDE = np.array([[0, 255, 256, 0x1234, 0x8000, 0xFEFF, 0xFFFF]], np.uint16)
UPPER = [0, 0, 1, 0x12, 0x80, 0xFE, 0xFF]
RED, CLEAR = (200, 10, 30, 255), (200, 10, 30, 0)
GREY = Image.fromarray(np.array([[0, 7, 255]], np.uint8))
COLOURS = Image.fromarray(np.array([[[0, 1, 2], [200, 100, 50]]], np.uint8))


def palette() -> Image.Image:
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([200, 10, 30, 1, 2, 3])
    return picture


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(Image.fromarray(WIDE), "PNG"), UPPER),
        (saved(Image.fromarray(WIDE), "TIFF"), UPPER),
        (saved(Image.frombytes("I;16B", (7, 1), WIDE.byteswap().tobytes()), "TIFF"), UPPER),
        (b"P5 7 1 65535\n" + WIDE.byteswap().tobytes(), UPPER),
        (twelve_bits((0x123, 0xFFF)), [0x12, 0xFF]),
        (saved(Image.new("RGBA", (1, 1), RED), "PNG"), [RED[:3]]),
        (saved(Image.new("RGBA", (1, 1), CLEAR), "PNG"), [(255, 255, 255)]),
        (saved(Image.new("RGBA", (1, 1), CLEAR), "WEBP", lossless=True, exact=True), [(255, 255, 255)]),
        (saved(Image.new("RGBA", (1, 1), (200, 10, 30, 51)), "PNG"), [(244, 206, 210)]),  # a fifth of it
        (saved(Image.new("LA", (1, 1), (40, 0)), "PNG"), [255]),
        (saved(Image.new("LA", (1, 1), (40, 255)), "PNG"), [40]),
        (saved(palette(), "PNG"), [(200, 10, 30), (1, 2, 3)]),
        (saved(palette(), "PNG", transparency=0), [(255, 255, 255), (1, 2, 3)]),
        (saved(COLOURS, "PNG", transparency=(0, 1, 2)), [(255, 255, 255), (200, 100, 50)]),
        (saved(GREY, "PNG", transparency=7), [0, 255, 255]),
        (saved(Image.fromarray(WIDE), "PNG", transparency=0x1234), [*UPPER[:3], 255, *UPPER[4:]]),
        *((saved(GREY, kind), [0, 7, 255]) for kind in ("PNG", "BMP", "TIFF", "PPM")),
        *((saved(COLOURS, kind), [(0, 1, 2), (200, 100, 50)]) for kind in ("PNG", "BMP", "TIFF", "PPM")),
        (saved(COLOURS, "WEBP", lossless=True), [(0, 1, 2), (200, 100, 50)]),
        (saved(COLOURS.convert("CMYK"), "TIFF"), [(0, 1, 2), (200, 100, 50)]),
        (saved(Image.fromarray(np.array([[False, True]])), "PNG"), [0, 255]),
        (saved(GREY, "TIFF", save_all=True, append_images=[GREY.transpose(Image.Transpose.ROTATE_180)]), [0, 7, 255]),
    ],
)
def test_every_kind_of_pixel_is_what_is_seen(content: bytes, expected: list[Any]):
    """On white; upper 8 of 16 bits; the first of several frames."""
    colours = [(v, v, v) if isinstance(v, int) else v for v in expected]
    found = decode(content, 3)
    assert found.transpose(1, 2, 0).tolist() == [[list(colour) for colour in colours]]
    box = (0, 0, 1, len(expected))
    assert np.array_equal(crop(content, 3, box, 4), resized(found.transpose(1, 2, 0), box, 4))
    grey = Image.fromarray(np.array([colours], np.uint8)).convert("L")
    assert np.array_equal(decode(content, 1)[0], np.asarray(grey))


@pytest.mark.parametrize("values", [np.array([[0.5, 1]], np.float32), np.array([[0, 70_000]], np.int32)])
def test_pixels_of_which_nothing_says_what_is_white_are_refused(values: np.ndarray):
    with pytest.raises(DataError, match="has 32 bits a value, which have no agreed white; convert it to 8 or 16"):
        decode(saved(Image.fromarray(values), "TIFF"), 3)


def test_a_bomb_is_not_decoded():
    """Each is some kilobytes that would be 432 MB and more."""
    jpeg = bytearray(photograph(16, 16))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (65_000).to_bytes(2, "big") * 2
    wide = saved(Image.new("1", (12_000, 12_000)), "PNG")
    tiff = saved(Image.new("1", (12_000, 12_000)), "TIFF", compression="group4")
    assert len(wide) < 50_000 and len(tiff) < 50_000
    for content, size in ((wide, "12000 x 12000"), (tiff, "12000 x 12000"), (bytes(jpeg), "65000 x 65000")):
        for read in (lambda c: decode(c, 3), lambda c: crop(c, 3, (0, 0, 100, 100), 10)):
            with pytest.raises(DataError, match=f"has {size} pixels, more than 100,000,000"):
                read(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_the_limit_of_pixels_is_the_one_that_is_given(kind: str):
    content = photograph(30, 40, kind=kind)
    assert decode(content, 3, 1200).shape == (3, 30, 40) and crop(content, 3, (0, 0, 30, 40), 4, 1200).shape == (
        3,
        4,
        4,
    )
    for read in (lambda: decode(content, 3, 1199), lambda: crop(content, 3, (0, 0, 30, 40), 4, 1199)):
        with pytest.raises(DataError, match="has 30 x 40 pixels, more than 1,199"):
            read()
