"""Pictures: what a file's bytes hold, whole or a box of it at another size."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from ..errors import DataError
from ..samples import Box, Pixels

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")
"""Pillow's names of what is read; PPM is PGM and PBM too. Of several frames the first."""
MAX_PIXELS = 100_000_000
"""Height x width that is decoded where nothing else is said: 300 MB in colour. A file can be a thousandth of that."""


def decode(content: bytes, channels: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """A picture in one of FORMATS -> uint8 `[C, H, W]`, C 1 or 3. Of 16 bits the upper 8 are taken; what is transparent
    lies on white. Raises DataError when it does not decode, or is of more pixels, which its header tells."""
    return _decoded(content, channels, max_pixels=max_pixels).transpose(2, 0, 1)


def crop(content: bytes, channels: int, box: Box, size: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """A box of such a picture at size x size -> uint8 `[C, size, size]`, C 1 or 3, as `resized` brings it there.

    Raises DataError as `decode` does. A JPEG's box of at least four times its new size is decoded at 1/4 or 1/8,
    which costs less.
    """
    top, left, height, width = box
    scale = min(height, width) / size
    less = 1 if scale < 4 or not content.startswith(_JPEG) else min(8, 2 ** int(math.log2(scale)))
    if less > 1:
        pixels = _decoded(content, channels, less, max_pixels=max_pixels)
        return resized(pixels, (top / less, left / less, height / less, width / less), size)
    rows = int(top + height) if _whole(box) else None
    return resized(_decoded(content, channels, rows=rows, max_pixels=max_pixels), box, size)


def resized(pixels: Pixels, box: Box, size: int) -> Pixels:
    """A box of uint8 `[H, W, C]` at size x size, bicubic with antialiasing -> uint8 `[C, size, size]`.

    A box of int is cut out and resized by torch, as torchvision does for RandomResizedCrop. One of float, as in
    evaluation, is resized by Pillow in four times the time; its filter sees what lies around the box, as where the
    whole picture is resized and then cropped. More of `pixels` is not touched.
    """
    top, left, height, width = box
    if _whole(box):
        part = np.array(pixels[int(top) : int(top + height), int(left) : int(left + width)])  # a copy that lies close
        image = torch.from_numpy(part).unsqueeze(0).permute(0, 3, 1, 2)  # in this order torch sees channels_last
        return F.interpolate(image, (size, size), mode="bicubic", antialias=True)[0].numpy()
    bottom, right = min(top + height, pixels.shape[0]), min(left + width, pixels.shape[1])  # a sum rounds
    around = math.ceil(2 * max(1, height / size, width / size))
    y, x = max(0, math.floor(top) - around), max(0, math.floor(left) - around)
    part = pixels[y : math.ceil(bottom) + around, x : math.ceil(right) + around]
    picture = Image.fromarray(part[..., 0] if part.shape[2] == 1 else part)
    seen = np.asarray(
        picture.resize((size, size), Image.Resampling.BICUBIC, (left - x, top - y, right - x, bottom - y))
    )
    return seen.reshape(size, size, -1).transpose(2, 0, 1)


_JPEG = b"\xff\xd8"
_COLOURS = {1: ("L", "GRAY"), 3: ("RGB", "RGB")}
"""What Pillow and simplejpeg call them."""


def _whole(box: Box) -> bool:
    return all(isinstance(edge, int) for edge in box)


def _decoded(
    content: bytes, channels: int, less: int = 1, rows: int | None = None, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """uint8 `[H, W, C]`. Of a JPEG at 1 / less of its size, less 1, 2, 4 or 8, and its first `rows` rows or some more.

    simplejpeg, the faster one, decodes grey and colour JPEGs, and finds those that end too early; Pillow takes the
    rest: other formats, CMYK, and what libjpeg warns of (a few files of ImageNet have bytes too many).
    """
    mode, space = _COLOURS[channels]
    try:
        height, width, stored, _ = simplejpeg.decode_jpeg_header(content)
        _check(height, width, max_pixels)
        if stored == "Gray" or (channels == 3 and stored in ("YCbCr", "RGB")):
            if rows is not None and (frame := _frame(content)) and (first := rows // 16 * 16 + 16) < height:
                return _first_rows(content, frame, space, (first, width))
            smallest = {"min_height": math.ceil(height / less), "min_width": math.ceil(width / less)}
            whole: Pixels = simplejpeg.decode_jpeg(content, space, **smallest)
            return whole
    except ValueError as error:
        if "Premature end" in str(error):  # Pillow would take zeros for pixels
            raise DataError("does not decode as a picture (it ends too early)") from error
    try:
        with _opened(content) as picture:
            _check(picture.height, picture.width, max_pixels)
            if less > 1:
                picture.draft(mode, (picture.width // less, picture.height // less))
            pixels = np.asarray(_plain(picture).convert(mode))
    except DataError:
        raise
    except Exception as error:  # half a dozen kinds for damaged bytes, struct.error among them
        raise DataError(f"does not decode as a picture ({type(error).__name__})") from error
    return pixels.reshape(*pixels.shape[:2], channels)


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Only its header is read. Pillow's own limit on pixels, which is the whole process's, is left out for ours."""
    kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            yield picture
    finally:
        Image.MAX_IMAGE_PIXELS = kept


def _check(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise DataError(f"has {height} x {width} pixels, more than {max_pixels:,}")


def _plain(picture: Image.Image) -> Image.Image:
    """Without what Pillow's own conversion would clip or show: values of 16 bits, colours that are transparent. Raises
    DataError for 32 bits a value, of which nothing says what is white."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        values = np.asarray(picture).astype(np.int32)
        bits = picture.tag_v2[BITSPERSAMPLE][0] if isinstance(picture, TiffImageFile) else 16  # a TIFF has 12 as well
        grey = (values >> bits - 8).astype(np.uint8)  # as Pillow reads 16 bits of a colour
        if "transparency" in picture.info:
            grey[values == picture.info["transparency"]] = 255
        return Image.fromarray(grey)
    if picture.mode in ("I", "F"):
        raise DataError("has 32 bits a value, which have no agreed white; convert it to 8 or 16")
    if picture.has_transparency_data:
        below = Image.new("RGBA", picture.size, "white")
        below.alpha_composite(picture.convert("RGBA"))
        return below
    return picture


def _first_rows(content: bytes, frame: int, space: str, shape: tuple[int, int]) -> Pixels:
    """uint8 `[H, W, C]` of a JPEG that has more rows: decoding ends there, because the header that it sees says so.

    H must be a multiple of 16, or the last rows lack a neighbour's colour. Raises ValueError when it does not decode.
    """
    shorter = bytearray(content)
    shorter[frame + 5 : frame + 7] = shape[0].to_bytes(2, "big")
    pixels = np.empty((*shape, 1 if space == "GRAY" else 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(shorter, space, buffer=pixels)
    except ValueError as error:
        if "extraneous bytes" not in str(error):  # those of the rows left out
            raise
    return pixels


def _frame(content: bytes) -> int | None:
    """Where a JPEG's frame header begins (ITU-T T.81, B.2.2): marker, length, precision, height. None: not found."""
    place = 2
    while place + 7 < len(content) and content[place] == 0xFF:
        if content[place + 1] in (0xC0, 0xC1, 0xC2):
            return place
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return None
