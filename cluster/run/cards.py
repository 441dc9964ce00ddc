"""What the header of a weight file says of its training, as far as it is of our kinds: it can be a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from tdformer.digest import Described, Input

from ..errors import RunError

T = TypeVar("T")


def told(card: Mapping[str, object], where: Path) -> Described:
    """The facts of `results.card`; None where the header in `where` says nothing of the kind. Raises RunError for data
    that no model can have seen."""
    step = card.get("step")
    return {
        "classes": names(card.get("classes")),
        "input": _seen(card.get("input"), where),
        "dataset": _a(str, card.get("dataset")),
        "run": _a(str, card.get("run")),
        "step": step if type(step) is int else None,
        "averaged": _a(bool, card.get("averaged")),
        "accuracy": _a(float, card.get("accuracy")),
        "config_sha256": _a(str, card.get("config_sha256")),
        "code": names(card.get("code")),
    }


def names(said: object) -> list[str] | None:
    """A list of texts, where that is what is said."""
    return _all(str, said)


def _seen(said: object, where: Path) -> Input | None:
    if not isinstance(said, Mapping):
        return None
    found: Input = {}
    for key, value in said.items():
        if key == "kind" and isinstance(value, str):
            found["kind"] = value
        elif key == "shape" and (sides := _all(int, value)) is not None:
            found["shape"] = sides
        elif key == "mean" and (means := _numbers(value)) is not None:
            found["mean"] = means
        elif key == "std" and (deviations := _numbers(value)) is not None:
            found["std"] = deviations
        elif key == "titles" and isinstance(value, dict) and names([*value.values()]) is not None:
            found["titles"] = value
        elif key == "size" and (value is None or type(value) is int):
            found["size"] = value
        elif key == "frames" and isinstance(value, str):
            found["frames"] = value
        elif key == "crop_ratio" and isinstance(value, int | float):
            found["crop_ratio"] = value
        elif key in Input.__annotations__:
            raise RunError(f"{where}: what it says of its data cannot be used ({key} {value!r:.40})")
    return found


def _a(kind: type[T], said: object) -> T | None:
    return said if isinstance(said, kind) else None


def _numbers(said: object) -> list[float] | None:
    return said if isinstance(said, list) and all(isinstance(one, int | float) for one in said) else None


def _all(kind: type[T], said: object) -> list[T] | None:
    return said if isinstance(said, list) and all(isinstance(one, kind) for one in said) else None
