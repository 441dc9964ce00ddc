"""The table of a study: a CSV holds all of it, and it is known which columns a clock decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RunError
from cluster.study import table

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.one_of(
    TEXT,
    st.sampled_from(["1", "true", "null", "none", "1e5", '"x"', "[1]", "NaN", " 1", "\r", "a\nb"]),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.lists(st.one_of(st.integers(), TEXT), max_size=3),
)
COLUMNS = {
    "machine": st.one_of(st.none(), TEXT.filter(bool), st.just("007")),
    "simulated": st.booleans(),
    "axis.model.feedback": VALUES,
    "axis.a, b": VALUES,
    "seconds_step": st.one_of(st.none(), st.floats(allow_nan=False)),
}
ROWS = st.lists(st.fixed_dictionaries({"cell": TEXT.filter(bool)}, optional=COLUMNS), min_size=1, max_size=5)


@given(ROWS)
def test_a_csv_has_every_row_again(rows: list[dict[str, Any]]) -> None:
    text = table.to_csv(rows)
    names = table.columns(rows)
    again = table.from_csv(text)
    wanted = [{name: row.get(name) for name in names} for row in rows]
    assert again == wanted
    assert [[type(v) for v in row.values()] for row in again] == [[type(v) for v in row.values()] for row in wanted]
    assert table.to_csv(again) == text


def test_a_clocks_columns_are_those_that_the_table_says() -> None:
    """The docstring lists first what is of the results; from CLOCK on, what is of a clock; and predictions last."""
    results, _, timed = (table.__doc__ or "").partition("\nCLOCK")
    timed = timed.partition("predicted.")[0]
    for column in ("cell", "state", "revision", "axis.seed", "world", "parameters", "loss", "accuracy", "flop_image"):
        assert column in results.replace("axis.KEY", "axis.seed") and not table.of_clock(column)
    for column in ("seconds_step", "seconds_step_low", "images_second", "mfu", "peak_gib", "gpu_hours", "good"):
        assert column in timed and table.of_clock(column)
    for column in ("date", "machine", "seconds.data", "bad.start"):
        assert table.of_clock(column)
    for column in ("predicted.seconds_step", "predicted.peak_gib", "axis.data.seconds", "goods", "dated"):
        assert not table.of_clock(column)


def test_without_a_clock_two_studies_are_one() -> None:
    first = {"cell": "a", "axis.seed": 0, "loss": 0.5, "date": "2026-01-01", "seconds.data": 0.1, "bad.start": 0.2}
    second = first | {"date": "2026-02-02", "machine": "other", "seconds.data": 0.3, "bad.start": 0.0, "tflops": 1.0}
    assert table.without_clock([first]) == table.without_clock([second]) == [{"cell": "a", "axis.seed": 0, "loss": 0.5}]
    assert table.without_clock([first]) != table.without_clock([second | {"loss": 0.4}])


def test_columns_have_an_order() -> None:
    rows = [{"loss": 1, "gpu_hours": 2, "axis.b": 1, "cell": "x"}, {"axis.a": 1, "state": "failed", "accuracy": 0.5}]
    assert table.columns(rows) == ["cell", "state", "axis.a", "axis.b", "accuracy", "loss", "gpu_hours"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a,b\n1,2\n", "no column is called cell"),
        (b"", "no column is called cell"),
        (b"cell,b\nx,1\ny,1,2\n", "row 3: 3 fields, and the first has 2"),
        (b'cell\n"x\n', "not a CSV (unexpected end of data)"),
        (b"cell\n\xff\n", "byte 5 is not UTF-8"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, content: bytes | None, line: str) -> None:
    path = tmp_path / "cells.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError) as said:
        table.read(path)
    assert line in str(said.value) and str(path) in str(said.value) and "\n" not in str(said.value)


def test_a_spreadsheets_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_bytes("\ufeffcell,loss\r\na,0.5\r\n\r\n".encode())
    assert table.read(tmp_path / "cells.csv") == [{"cell": "a", "loss": 0.5}]
