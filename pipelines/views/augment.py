"""Augmentation whose draws are keyed by (seed, epoch, sample id): the same on any rank and in any worker.

The published ImageNet recipe (QKFormer's) is a random box (boxes.py), flip 0.5, rand_augment "rand-m9-mstd0.5-inc1"
and erasing 0.25 in mode "pixel". Its CIFAR recipe is flip 0.5, "rand-m9-n1-mstd0.4-inc1", erasing 0.25 in mode "const"
and mixup 0.5, without crops; Spikformer's is the same with the operations SPIKFORMER_OPS.
"""

from __future__ import annotations

import importlib
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

from ..draws import AUGMENT
from ..errors import DataError
from ..samples import Pixels
from .erase import NOTHING, Erasing, Place
from .slides import faster
from .vision import torchvision

SPIKFORMER_OPS = ("Equalize", "Rotate", "ShearX", "TranslateXRel", "TranslateYRel")


@dataclass(frozen=True)
class Augment:
    """In this order: crop, flip, RandAugment, colour jitter, erasing.

    crop_padding: pixels of zero padding before a random crop back to size. flip, erasing: probabilities.
    rand_augment: a recipe as timm writes it; rand_augment_ops: timm's names of the operations it draws from, None for
    its own. color_jitter: brightness, contrast and saturation times 1 +- this, one after the other in random order.
    erasing_mode: "black" blanks 2 to 20 % of the picture; "const" and "pixel" are timm's, 2 to 33 % with the mean
    colour or with noise. timm adds noise after normalising, so there it has no bounds; here it ends at 0 and 255.
    mean, std: of each channel of the data, scaled to 0..1.

    Raises DataError where a setting cannot work.
    """

    crop_padding: int = 0
    flip: float = 0.0
    erasing: float = 0.0
    seed: int = 0
    rand_augment: str | None = None
    rand_augment_ops: tuple[str, ...] | None = None
    color_jitter: float = 0.0
    erasing_mode: str = "black"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _ = self.eraser
        if (self.rand_augment or self.erasing_mode != "black") and not (self.mean and len(self.mean) == len(self.std)):
            raise DataError("rand_augment and erasing_mode fill with the mean colour; give mean and std of the data")
        if self.rand_augment:
            self._rand_augment(224)  # a mistake in the recipe shows here and not in a worker

    @cached_property
    def eraser(self) -> Erasing:
        return Erasing(self.erasing_mode, self.mean, self.std)

    def __call__(self, image: Pixels, epoch: int, sample_id: int) -> Pixels:
        """uint8 `[C, H, W]` -> uint8 `[C, H, W]`. Raises DataError for colour operations on a grey picture."""
        image, place = self._until_erased(image, epoch, sample_id)
        if place is not None:
            image = image.copy("K")
            self.eraser.write(image, place)
        return image

    def begin(self, image: Pixels, epoch: int, sample_id: int) -> tuple[Pixels, NDArray[np.int64]]:
        """The same but for erasing, and what `finish` erases, `[7]`."""
        image, place = self._until_erased(image, epoch, sample_id)
        return image, NOTHING if place is None else place.row(self.eraser.noise)

    def finish(self, images: Tensor, drawn: Tensor) -> None:
        """Erase in a batch on its device what `begin` gave of each sample, `[B, 7]`."""
        if images.is_cuda:
            from .erase_gpu import write_all

            write_all(images, drawn, self.eraser)
        else:
            self.eraser.write_all(images, drawn)

    def finishes_on(self, device: torch.device) -> bool:
        """Whether `finish` has something to do, and can on this device: a GPU needs Triton. A class made of this one
        may do other things when it is called, which `begin` would leave out."""
        able = device.type == "cpu" or (device.type == "cuda" and find_spec("triton") is not None)
        return type(self) is Augment and self.erasing > 0 and able

    def _until_erased(self, image: Pixels, epoch: int, sample_id: int) -> tuple[Pixels, Place | None]:
        colour = self.rand_augment or self.color_jitter
        if not (self.crop_padding or self.flip or self.erasing or colour):
            return image, None
        if colour and len(image) != 3:
            raise DataError(
                f"rand_augment and color_jitter work on colours, but the pictures have {len(image)} channel(s); "
                "set data.augment.rand_augment=null and data.augment.color_jitter=0"
            )
        rng = AUGMENT.rng(self.seed, epoch, sample_id)
        down, right, flipped, erased, *box = rng.random(8)
        _, height, width = image.shape
        if self.crop_padding:
            p = self.crop_padding
            top, left = (int(draw * (2 * p + 1)) for draw in (down, right))
            padded = np.pad(image, ((0, 0), (p, p), (p, p)))
            image = padded[:, top : top + height, left : left + width]
        if flipped < self.flip:
            image = _mirrored(image)
        if colour:
            image = self._coloured(image, rng)
        return image, self.eraser.place(height, width, box, rng) if erased < self.erasing else None

    def _coloured(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        before = picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        if self.rand_augment:
            recipe = self._rand_augment(min(picture.size))
            weights = recipe.choice_weights
            chosen = rng.choice(len(recipe.ops), recipe.num_layers, replace=weights is None, p=weights)
            with _python_random(int(rng.integers(2**32))):
                for i in chosen:
                    picture = recipe.ops[i](picture)
        if self.color_jitter:
            low, high = max(0.0, 1 - self.color_jitter), 1 + self.color_jitter
            enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            order, factors = rng.permutation(3), rng.uniform(low, high, 3)
            for i in order:
                picture = enhancers[i](picture).enhance(float(factors[i]))
        return image if picture is before else np.asarray(picture).transpose(2, 0, 1)

    def _rand_augment(self, size: int) -> Any:
        fill = tuple(min(255, round(255 * m)) for m in self.mean)
        return _parsed(self.rand_augment or "", self.rand_augment_ops, fill, size)


def _mirrored(image: Pixels) -> Pixels:
    """A copy that lies in memory as the picture does, by torch: numpy takes ten times as long where colours lie side
    by side."""
    source = image if image.flags.writeable else image.copy("K")  # torch would warn
    return torch.from_numpy(source).flip(2).numpy()


def auto_augment() -> ModuleType:
    """timm's module of that name. Raises DataError, naming what to install, where it is missing.

    timm imports wandb where it is installed, for a log of its own: that takes time in each process that reads, and
    leaves two folders among the system's temporary files. So there is none meanwhile.
    """
    torchvision()  # timm needs it
    loaded = "wandb" in sys.modules
    if not loaded:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # to import it is an ImportError then
    try:
        return importlib.import_module("timm.data.auto_augment")
    except ImportError as error:
        raise DataError("rand_augment needs timm; pip install 'tdformer[augment]'") from error
    finally:
        if not loaded:
            del sys.modules["wandb"]


@lru_cache
def _parsed(recipe: str, ops: tuple[str, ...] | None, fill: tuple[int, ...], size: int) -> Any:
    """timm's RandAugment, for its operations; size: the shorter side of a picture."""
    options = {"translate_const": int(size * 0.45), "img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
    try:
        if not re.fullmatch(r"rand(-(m|n|p|mstd|mmax|inc)[\d.]+|-t(weights|3aw?))*", recipe):
            raise ValueError("unknown part")  # timm passes over some
        made = auto_augment().rand_augment_transform(recipe, options, transforms=list(ops) if ops else None)
    except (AssertionError, ValueError, KeyError) as error:
        raise DataError(
            f"timm does not know rand_augment={recipe}{' of ' + ', '.join(ops) if ops else ''} ({error!r}); "
            "write it like rand-m9-mstd0.5-inc1"
        ) from error
    for op in made.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = partial(_posterize, op.aug_fn)
        op.aug_fn = faster(op.name, op.aug_fn)
    return made


def _posterize(how: Callable[..., Image.Image], picture: Image.Image, bits: int, **options: object) -> Image.Image:
    """timm keeps no bit where a magnitude is drawn at its end; Pillow made that black, and refuses it from 13 on."""
    return how(picture, bits, **options) if bits else Image.new(picture.mode, picture.size)


@contextmanager
def _python_random(seed: int) -> Iterator[None]:
    """Python's global generator, which timm's operations draw from, as `seed` sets it; afterwards as it was."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
