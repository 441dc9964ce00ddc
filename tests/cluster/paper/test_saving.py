"""A figure as files: what is in them, that no clock is, and that nobody else's is written over."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Sheet

from cluster.errors import RunError
from cluster.paper import style
from cluster.paper.figure import Drawn
from cluster.paper.opening import Run
from cluster.paper.saving import check_place, contents, page, write

ROWS = [{"image": 0, "mean": 0.5}, {"image": 1, "mean": None, "map": [1.0, 2.0], "said": 'a, "b"'}]


def drawn() -> Drawn:
    sheet = Sheet(figsize=(style.COLUMN, 1))
    sheet.subplots().plot([0, 1])
    return Drawn(sheet, "In words.", ROWS)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return contents(drawn())


def test_three_files_with_the_same_bytes_for_the_same_numbers(files: dict[str, bytes]) -> None:
    assert files == contents(drawn()) and files.keys() == {".pdf", ".png", ".csv"}
    assert files[".pdf"].startswith(b"%PDF") and files[".png"].startswith(b"\x89PNG")
    for nothing in (b"CreationDate", b"matplotlib", b"Matplotlib"):
        assert nothing not in files[".pdf"] and nothing not in files[".png"]


def test_numbers_are_a_table_of_all_keys_of_the_rows(files: dict[str, bytes]) -> None:
    found = list(csv.DictReader(io.StringIO(files[".csv"].decode())))
    assert found == [
        {"image": "0", "mean": "0.5", "map": "", "said": ""},
        {"image": "1", "mean": "", "map": "[1.0, 2.0]", "said": 'a, "b"'},
    ]


def test_what_we_wrote_is_written_over_and_nothing_else(tmp_path: Path, files: dict[str, bytes]) -> None:
    folder = tmp_path / "new"
    check_place(folder, "f")
    write(folder, "f", files, "# A page\n")
    assert {path.name for path in folder.iterdir()} == {"f.pdf", "f.png", "f.csv", "f.md"}
    check_place(folder, "f")
    check_place(folder, "g")
    for path in folder.iterdir():
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        with pytest.raises(RunError, match=f"{path.name} is there, and not as figures left it; name another folder"):
            check_place(folder, "f")
        path.write_bytes(before)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is there and no folder; name another one with --out"):
        check_place(tmp_path / "file", "f")


def test_a_page_says_where_its_numbers_are_from_and_nothing_becomes_markup(folder: Path) -> None:
    run = Run.open(str(folder / "run"))
    text = page("figure-f", "A title", "In words.", 1234, [run], "tdformer figures f 'a|b`c'")
    assert text.startswith("# A title\n\n![A title](figure-f.png)\n\nIn words.\n")
    assert "[figure-f.csv](figure-f.csv), 1,234 rows" in text and "    tdformer figures f 'a\\|b'c'\n" in text
    head, _, row = text.strip().splitlines()[-3:]
    assert head.count("|") == row.count("|") == 8 and "feedback (concat), seed 0 | 7 | not measured" in row
    assert f"digits, 120 test samples, `{run.data.digest[:12]}`" in row
