"""The table of `robustness`: numbers in percent with their intervals, and a file that is known again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.study.robustness_page import Compared, Table, check_place, markdown, write

ONE: Compared = {"value": 0.0123, "low": -0.001, "high": 0.02, "pairs": 3, "p": 0.01234}
ALONE: Compared = {"value": -0.0123, "low": None, "high": None, "pairs": 1, "p": None}
TABLE: Table = {
    "table": "robustness",
    "pictures": "a set",
    "published": False,
    "images": 10000,
    "kinds": ["fog"],
    "severities": [1, 5],
    "notes": ["first", "second"],
    "groups": [{"name": name, "settings": {}, "runs": []} for name in ("fed", "T=2")],
    "rows": [
        {
            "row": "fog",
            "groups": {"fed": {"value": 0.5, "low": None, "high": None}, "T=2": {"value": 0.4567, "low": 0, "high": 1}},
            "differences": {"fed - T=2": ONE, "fed - T=1": ALONE, "fed - T=4": None},
        }
    ],
    "comparisons": [
        {
            "name": name,
            "fed": "fed",
            "base": "T=2",
            "two_stages": False,
            "seeds": [0, 1],
            "difference": difference,
            "p_holm": None,
            "mce": {"mean of 1": {"value": 0.98765, "low": 0.9, "high": 1.1}, "of 2": None},
        }
        for name, difference in (("fed - T=2", ONE), ("fed - T=1", ALONE), ("fed - T=4", None))
    ],
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_numbers_in_percent_with_their_intervals() -> None:
    lines = markdown(TABLE).splitlines()
    assert lines[0].startswith("Accuracy in percent on 10,000 pictures of a set; severities 1, 5;")
    assert lines[2:4] == ["- first", "- second"]
    tables = [cells(line) for line in lines if line.startswith("|")]
    assert tables[0] == ["", "fed", "T=2", "fed - T=2", "fed - T=1", "fed - T=4"]
    assert tables[2] == ["fog", "50.00", "45.67", "+1.23 [-0.10, +2.00]", "-1.23", "no seed in both"]
    assert tables[3][-2:] == ["mCE, mean of 1", "mCE, of 2"]
    assert tables[5] == ["fed - T=2", "2", "+1.23 [-0.10, +2.00]", "0.0123", "-", "98.77 [90.00, 110.00]", "-"]
    assert tables[6][2:5] == ["-1.23", "-", "-"] and tables[7][2:4] == ["no seed in both", "-"]
    assert len({len(row) for row in tables[:3]}) == len({len(row) for row in tables[3:]}) == 1


def test_without_pairs_there_is_one_table() -> None:
    alone = TABLE | {"comparisons": [], "rows": [TABLE["rows"][0] | {"differences": {}}]}
    assert "mCE" not in markdown(alone) and cells(markdown(alone).splitlines()[-1]) == ["fog", "50.00", "45.67"]


def test_a_file_is_known_again_until_somebody_changes_it(tmp_path: Path) -> None:
    for name in ("table.md", "table.json"):
        path = tmp_path / name
        check_place(path)
        write(path, TABLE)
        check_place(path)
        text = path.read_text()
        assert text.startswith(markdown(TABLE)) if name.endswith(".md") else json.loads(text)["rows"] == TABLE["rows"]
        path.write_text(text.replace("fog", "frost"))
        with pytest.raises(RunError, match=f"{name} is there, and not as a table was left; name another file"):
            check_place(path)


def test_a_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"table.csv: a table is Markdown or JSON; end its name with .md or .json"):
        check_place(tmp_path / "table.csv")
    with pytest.raises(RunError, match="no such folder to write table.md to"):
        check_place(tmp_path / "none" / "table.md")
