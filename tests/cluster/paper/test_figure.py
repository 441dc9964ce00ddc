"""What a figure is made of: its options, read from texts by their types, and the runs that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.config.schema import setting
from cluster.errors import RunError
from cluster.paper.figure import FIGURES, Figure, made, options
from cluster.paper.opening import Run
from tdformer.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Odd(Figure):
    """One option of each kind."""

    title = "Odd"
    most = 1
    images: int = setting(64, least=1)
    share: float = 0.5
    ready: bool = False
    unit: str | None = None
    marks: list[str] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(FIGURES, "_entries", dict(FIGURES._entries))
    FIGURES.register("odd")(Odd)
    yield


def test_options_are_read_by_their_types_and_the_rest_stays_as_it_is() -> None:
    assert made("odd", {}) == Odd()
    given = {"images": " 3 ", "share": "1e-2", "ready": "true", "unit": "a.b", "marks": "a, b", "groups": "1,2"}
    found = made("odd", given | {"not": "one of its own"})
    assert found == Odd(images=3, share=0.01, ready=True, unit="a.b", marks=["a", "b"], groups=[1, 2])
    assert made("odd", {"unit": "null"}) == Odd()
    assert [*options(Odd)] == ["images", "share", "ready", "unit", "marks", "groups"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": "0"}, "^images of figure odd is 0; it must be at least 1$"),
        ({"images": "1.5"}, "^images of figure odd is 1.5; expected a whole number$"),
        ({"share": "half"}, "^share of figure odd is half; expected a number$"),
        ({"ready": "perhaps"}, "^ready of figure odd is perhaps; expected"),
        ({"groups": "1,x"}, "^groups of figure odd is 1,x; expected"),
    ],
)
def test_a_value_that_is_none_is_one_line(given: dict[str, str], message: str) -> None:
    with pytest.raises(RunError, match=message) as error:
        made("odd", given)
    assert "\n" not in str(error.value)


def test_a_name_that_is_none_gets_the_nearest() -> None:
    with pytest.raises(ModelError, match="figure of the paper 'oddd' is unknown; did you mean 'odd'"):
        made("oddd", {})


def test_it_takes_no_more_runs_than_it_says_and_such_as_can_be_compared(folder: Path) -> None:
    run, off, other = (Run.open(str(folder / name)) for name in ("run", "off", "other"))
    Odd().check([run])
    with pytest.raises(RunError, match="^this figure is of 1 run, and 2 are given$"):
        Odd().check([run, off])
    Figure().check([run, off, run])
    with pytest.raises(RunError, match="model.time_steps is 4 and 2"):
        Figure().check([run, other])
    with pytest.raises(NotImplementedError):
        Figure().draw([run])
