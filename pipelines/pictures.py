"""Pictures: what a file's bytes hold, whole or a box of it at another size."""

from __future__ import annotations

import io
import math

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from .boxes import Box
from .errors import DataError

Pixels = NDArray[np.uint8]


def decode(content: bytes, channels: int) -> Pixels:
    """PNG or JPEG -> uint8 `[C, H, W]`, C 1 or 3. Raises DataError when it does not decode."""
    return _decoded(content, channels)[0].transpose(2, 0, 1)


def crop(content: bytes, channels: int, box: Box, size: int, context: bool = False) -> Pixels:
    """A box of a PNG or JPEG at size x size, bicubic with antialiasing -> uint8 `[C, H, W]`, C 1 or 3.

    The box is cut out and then resized, as torchvision's RandomResizedCrop does. With context, the filter sees the
    pixels around it, as where the whole picture is resized and then cropped.

    Raises DataError when it does not decode. A JPEG's box that is at least four times its new size is decoded at 1/4 or
    1/8, which costs less.
    """
    top, left, height, width = box
    pixels, whole = _decoded(content, channels, min(height, width) / size)
    y, x = pixels.shape[0] / whole[0], pixels.shape[1] / whole[1]
    # A sum may be a rounding beyond the edge.
    bottom, right = min((top + height) * y, pixels.shape[0]), min((left + width) * x, pixels.shape[1])
    top, left = top * y, left * x
    if not context:
        first, start = math.floor(top), math.floor(left)
        pixels = pixels[first : math.ceil(bottom), start : math.ceil(right)]
        top, bottom, left, right = top - first, bottom - first, left - start, right - start
        if (top, left, bottom, right) == (0, 0, *pixels.shape[:2]):
            return _resized(pixels, size)
    seen = Image.fromarray(pixels.squeeze()).resize((size, size), Image.Resampling.BICUBIC, (left, top, right, bottom))
    return _planes(np.asarray(seen))


def _resized(pixels: Pixels, size: int) -> Pixels:
    """uint8 `[H, W, C]` -> uint8 `[C, size, size]`. Within a grey value of Pillow where bicubic does not overshoot, in
    a quarter of the time, but for whole pixels only."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    return F.interpolate(image, (size, size), mode="bicubic", antialias=True)[0].contiguous().numpy()


_MODES = {1: "L", 3: "RGB"}


def _decoded(content: bytes, channels: int, scale: float = 1) -> tuple[Pixels, tuple[int, int]]:
    """uint8 `[H, W, C]` and the height and width of the whole picture. scale: of its box over what that is brought to.

    simplejpeg, the faster one, decodes grey and colour JPEGs, and finds those that end too early; Pillow takes the
    rest: PNG, CMYK, and what libjpeg warns of without harm (some files of ImageNet have bytes too many).
    """
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(content)
        if space == "Gray" or (channels == 3 and space in ("YCbCr", "RGB")):
            less = 1 if scale < 4 else min(8, 2 ** math.floor(math.log2(scale)))
            pixels = simplejpeg.decode_jpeg(
                content,
                {1: "GRAY", 3: "RGB"}[channels],
                min_height=math.ceil(height / less),
                min_width=math.ceil(width / less),
            )
            return pixels, (height, width)
    except ValueError as error:
        if "Premature end" in str(error):  # Pillow would take zeros for pixels
            raise DataError(_REFUSED.format("it ends too early")) from error
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            pixels = np.asarray(picture.convert(_MODES[channels]))
    except Exception as error:  # half a dozen kinds for damaged bytes, struct.error among them
        raise DataError(_REFUSED.format(type(error).__name__)) from error
    return pixels.reshape(*pixels.shape[:2], channels), pixels.shape[:2]


_REFUSED = "does not decode as a picture ({})"


def _planes(pixels: Pixels) -> Pixels:
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
