"""What a figure of the paper's kind is, and the registry of those that there are.

One is a frozen dataclass below `Figure`: its fields are its options, each with a default and perhaps limits
(`config.schema.setting`), which the command line takes as NAME=VALUE. Registered, it is drawn by `tdformer figures
NAME`; a plugin adds one in the same way:

    @FIGURES.register("mine")
    @dataclass(frozen=True, kw_only=True)
    class Mine(Figure):
        title = "What mine shows"
        images: int = setting(64, least=1)
        def draw(self, runs): ...; return Drawn(figure, "In words, with numbers.", rows)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tdformer.plugins import Registry

from ..config.check import check_limits
from ..config.values import Word, as_type, filled
from ..config.words import expected, show
from ..errors import RunError
from .opening import FEEDBACK, Run, check_alike

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True)
class Drawn:
    """figure: of matplotlib, made without pyplot; caption: sentences of Markdown, whose numbers are computed; rows: the
    numbers that are drawn, for a table whose columns are their keys."""

    figure: matplotlib.figure.Figure
    caption: str
    rows: Sequence[Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """title: what it shows, in some words; varies: options of the model in which its runs may differ, beside their
    seed; most: how many runs it takes, None: any number."""

    title: ClassVar[str] = ""
    varies: ClassVar[frozenset[str]] = FEEDBACK
    most: ClassVar[int | None] = None

    def check(self, runs: Sequence[Run]) -> None:
        """Raises RunError for runs that it cannot be drawn from: here, too many, or such as cannot be compared."""
        if self.most is not None and len(runs) > self.most:
            raise RunError(f"this figure is of {self.most} run{'s' * (self.most > 1)}, and {len(runs)} are given")
        check_alike(runs, self.varies)

    def draw(self, runs: Sequence[Run]) -> Drawn:
        """Of runs that `check` let pass. Called with the style applied (style.py)."""
        raise NotImplementedError


FIGURES: Registry[type[Figure]] = Registry("figure of the paper")


def options(kind: type[Figure]) -> dict[str, dataclasses.Field[object]]:
    """The options of a figure by name."""
    return {field.name: field for field in dataclasses.fields(kind)}


def made(name: str, given: Mapping[str, str]) -> Figure:
    """The figure of that name, with those of the options `given`, as texts, that are its own; a list is written with
    commas. Raises ModelError for a name that is none, RunError for a value that is none."""
    kind = FIGURES.get(name)
    values: dict[str, object] = {}
    for key, field in options(kind).items():
        if key in given:
            values[key] = _value(f"{key} of figure {name}", given[key], field)
    return filled(kind, values)


def _value(name: str, text: str, field: dataclasses.Field[object]) -> object:
    given = field.type  # a text where the module has `from __future__ import annotations`
    kind = given.__name__ if isinstance(given, type) else str(given)
    written = [Word(word.strip()) for word in text.split(",")] if kind.startswith("list") else Word(text.strip())
    try:
        value = as_type(written, kind, None)
    except ValueError:
        raise RunError(f"{name} is {show(text)}; expected {expected(kind, None)}") from None
    check_limits(name, value, field.metadata)
    return value
