"""From names and runs to files: which figures are asked for, of what, and whether that can be done, before it is."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..config.layers import merged, named, of_override
from ..config.load import take_given
from ..config.words import either
from ..errors import RunError
from . import saving, style
from .figure import FIGURES, made, options
from .opening import Run


def make(names: Sequence[str], sources: Sequence[str], words: Sequence[str], out: Path) -> Iterator[Path]:
    """Draw figures of RUN, RUN@STEP or FILE each into the folder `out`; yields the page of each when it is there.

    words: NAME=VALUE, options of these figures, and `plugins`, `data.root` and `train.micro_batch` as an evaluation
    takes them. Raises RunError, ModelError or DataError, in one line, for what cannot be drawn, before anything is
    written.
    """
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise RunError(f"figure {repeated} is named twice; name it once")
    plugins = [word for word in words if _key(word) == "plugins"]
    take_given(merged(map(of_override, plugins)), plugins)  # its figures are there from now on
    known = {key for name in names for key in options(FIGURES.get(name))}
    given = {_key(word): word.partition("=")[2] for word in words if _key(word) in known}
    overrides = [word for word in words if _key(word) not in known]
    _check_settings(overrides, known)
    figures = {name: made(name, given) for name in names}
    for name in names:
        saving.check_place(out, file_name(name))
    runs = [Run.open(source, overrides) for source in sources]
    for name, figure in figures.items():
        try:
            figure.check(runs)
        except RunError as error:
            raise RunError(f"figure {name}: {error}") from None
    for name, figure in figures.items():
        used = [word for word in words if _key(word) in options(type(figure))]
        of = [word for source in sources for word in ("--from", source)]
        command = shlex.join(["tdformer", "figures", name, *of, *used, *overrides])
        with style.applied():
            drawn = figure.draw(runs)
            files = saving.contents(drawn)
        page = saving.page(file_name(name), figure.title, drawn.caption, len(drawn.rows), runs, command)
        saving.write(out, file_name(name), files, page)
        yield out / f"{file_name(name)}.md"


def file_name(name: str) -> str:
    """Of a figure, without its suffix."""
    return f"figure-{name}"


def _key(word: str) -> str:
    return word.partition("=")[0].strip()


def _check_settings(overrides: Sequence[str], known: set[str]) -> None:
    """Raises RunError for a word that is neither an option of the figures nor a setting."""
    for word in overrides:
        key = _key(word)
        try:
            named([word])
        except RunError:
            if "." in key or not known:
                raise
            near = difflib.get_close_matches(key, sorted(known), 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"they have {either(sorted(known))}"
            raise RunError(f"{key} is no option of these figures; {hint}") from None
