"""How large a network of a family is: width, depths, heads and MLP ratio, of which a name is one point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from math import ceil, floor, isfinite
from typing import Protocol, Self, runtime_checkable

from ..errors import ModelError
from .base import Sizes


@dataclass(frozen=True)
class Size:
    """width: channels of the last stage; depths: blocks of each stage; heads: of attention; mlp_ratio: hidden channels
    of the perceptrons over the width. None: the family has no such choice."""

    width: int | None = None
    depths: tuple[int, ...] | None = None
    heads: int | None = None
    mlp_ratio: float | None = None

    def options(self) -> dict[str, object]:
        """As options of `create_model`."""
        return asdict(self) | {"depths": None if self.depths is None else list(self.depths)}


OPTIONS = tuple(field.name for field in fields(Size))
"""The options of `create_model` that are of the size."""


@runtime_checkable
class Resizable(Protocol):
    """Sizes of a backbone that can be others: those of a family whose size is an axis."""

    @property
    def size(self) -> Size:
        """The point that they are."""

    def resized(self, size: Size) -> Self:
        """The sizes of the same backbone at another point, in which what `size` does not say is as here. Raises
        ModelError for one that there cannot be."""


def of(sizes: Sizes) -> Size:
    """The point that a backbone's sizes are; of a family without such a choice, none."""
    return sizes.size if isinstance(sizes, Resizable) else Size()


def at(sizes: Sizes, given: Mapping[str, object], name: str) -> tuple[Sizes, Size]:
    """The sizes of the model `name` with those `given` by option, and their size; None: the name's own. Raises
    ModelError for what is no size, or none of this family."""
    own = of(sizes)
    asked = {option: value for option, value in given.items() if value is not None}
    for option in asked:
        if getattr(own, option) is None:
            raise ModelError(f"{option} is {asked[option]!r:.40}, and {name} has no such choice; leave it off")
    size = Size(
        _count(asked["width"], "width") if "width" in asked else own.width,
        _depths(asked["depths"], own.depths or (), name) if "depths" in asked else own.depths,
        _count(asked["heads"], "heads") if "heads" in asked else own.heads,
        _ratio(asked["mlp_ratio"]) if "mlp_ratio" in asked else own.mlp_ratio,
    )
    return (sizes.resized(size), size) if isinstance(sizes, Resizable) and size != own else (sizes, own)


def check_width(size: Size, own: Size, multiple: Callable[[int], int]) -> None:
    """Raises ModelError, with the nearest one that would do, for a width that is no multiple of `multiple(heads)`. own:
    what the heads and the width are where nobody asks."""
    width, heads = size.width or 0, size.heads or 1
    if width % (each := multiple(heads)) == 0:
        return
    others = [n for n in range(1, width + 1) if width % multiple(n) == 0]
    if width == own.width and others:
        nearest = min(others, key=lambda n: abs(n - heads))
        raise ModelError(f"heads is {heads}, which do not divide a width of {width}; the nearest that do are {nearest}")
    why = "" if size.heads is None else f" with {heads} heads"
    nearest = max(1, floor(width / each + 0.5)) * each
    raise ModelError(f"width is {width}, and{why} it is a multiple of {each}; the nearest is {nearest}")


def hidden(channels: int, ratio: float) -> int:
    """Hidden channels of a perceptron. Raises ModelError where there would be none."""
    if (count := int(channels * ratio)) < 1:
        raise ModelError(
            f"mlp_ratio is {ratio:g}, which leaves no hidden channel beside {channels}; "
            f"the smallest that leaves one is {ceil(1e6 / channels) / 1e6:g}"
        )
    return count


def _count(value: object, option: str) -> int:
    if type(value) is not int or value < 1:
        raise ModelError(f"{option} is {value!r:.40}; give a whole number of at least 1")
    return value


def _depths(value: object, own: tuple[int, ...], name: str) -> tuple[int, ...]:
    depths = (value,) if type(value) is int else value
    if not isinstance(depths, list | tuple) or any(type(n) is not int or n < 1 for n in depths):
        raise ModelError(f"depths is {value!r:.40}; give whole numbers of at least 1, such as {list(own)}")
    if len(depths) != len(own):
        raise ModelError(
            f"depths is {list(depths)!s:.40}, and {name} has {len(own)} stage{'s' * (len(own) > 1)}; "
            f"give as many numbers, such as {list(own)}"
        )
    return tuple(depths)


def _ratio(value: object) -> float:
    if not (type(value) is int or type(value) is float) or not isfinite(value) or value <= 0:
        raise ModelError(f"mlp_ratio is {value!r:.40}; give a number above 0, such as 4")
    return float(value)
