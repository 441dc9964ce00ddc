"""Figures as files: what is written, that it is the same twice, whose files stay, and what is refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RunError
from cluster.paper import making
from cluster.paper.figure import FIGURES
from cluster.results.export import export
from tdformer.errors import ModelError


@pytest.fixture
def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Draws in that folder; what a plugin adds is gone afterwards."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(FIGURES, "_entries", dict(FIGURES._entries))
    monkeypatch.delitem(__import__("sys").modules, "brightness", raising=False)

    def draw(name: str, sources: list[str], *words: str, out: Path = folder / "figures") -> list[Path]:
        return list(making.make([name], sources, ["plugins=[brightness.py]", *words], out))

    yield draw


def test_a_figure_of_a_plugin_with_its_numbers_and_where_they_are_from(
    drawn: Any, folder: Path, tmp_path: Path
) -> None:
    [page] = drawn("brightness", ["run", "off"], "images=5", "marks=a, b", out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"figure-brightness{s}" for s in (".pdf", ".png", ".csv", ".md")
    }
    with page.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and rows[:5] == [{**row, "image": str(i)} for i, row in enumerate(rows[5:])]
    assert len({row["mean"] for row in rows}) == 5
    text = page.read_text()
    assert text.startswith("# How bright\n") and "10 pictures." in text
    assert "tdformer figures brightness --from run --from off images=5 'marks=a, b' 'plugins=[brightness.py]'" in text
    assert re.search(
        r"\| `run` \| feedback \(concat\), seed 0 \| 7 \| not measured \| \d{4}-\d\d-\d\d \| .* \| digits, 120", text
    )
    assert re.search(r"\| `off` \| no feedback, seed 1 \| 7 \|", text)
    pdf = page.with_suffix(".pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Subtype /Image" not in pdf and b"Date" not in pdf  # letters, lines, no clock
    assert page.with_suffix(".png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_same_bytes_twice_whatever_the_users_own_style(
    drawn: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    files = []
    for place in ("one", "two"):
        drawn("brightness", ["run"], out=tmp_path / place)
        files.append({path.name: path.read_bytes() for path in (tmp_path / place).iterdir()})
        monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
        monkeypatch.setitem(matplotlib.rcParams, "savefig.dpi", 20)
    assert files[0] == files[1]


def test_a_file_that_is_not_ours_stays(drawn: Any, tmp_path: Path) -> None:
    drawn("brightness", ["run"], out=tmp_path)
    drawn("brightness", ["run"], "images=4", out=tmp_path)  # over what it left
    for suffix in (".pdf", ".png", ".csv", ".md"):
        path = tmp_path / f"figure-brightness{suffix}"
        before = path.read_bytes()
        path.write_bytes(before + b"mine")
        with pytest.raises(RunError, match=f"{path.name} is there, and not as figures left it"):
            drawn("brightness", ["run"], out=tmp_path)
        assert path.read_bytes() == before + b"mine"
        path.write_bytes(before)
    (tmp_path / "figure-brightness.md").unlink()
    with pytest.raises(RunError, match="is there, and not as figures left it"):
        drawn("brightness", ["run"], out=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is there and no folder"):
        drawn("brightness", ["run"], out=tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "sources", "words", "message"),
    [
        ("brightness", ["run", "other"], [], "figure brightness: other and run .* model.time_steps is 4 and 2"),
        ("brightness", ["none"], [], "none: no such run folder"),
        ("brightness", ["run@8"], [], "run has no checkpoint of step 8; it has those of step 7"),
        ("brightness", ["run"], ["images=0"], "images of figure brightness is 0; it must be at least 1"),
        ("brightness", ["run"], ["images=few"], "images of figure brightness is few; expected a whole number"),
        ("brightness", ["run"], ["image=3"], "image is no option of these figures; did you mean images"),
        ("brightness", ["run"], ["model.tau=3"], "model.tau changes nothing in a figure"),
        ("brightness", ["run"], ["data.rot=x"], "data.rot is not a setting; the nearest is data.root"),
        ("brightnes", ["run"], [], "figure of the paper 'brightnes' is unknown; did you mean 'brightness'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_no_file(
    drawn: Any, tmp_path: Path, name: str, sources: list[str], words: list[str], message: str
) -> None:
    with pytest.raises((RunError, ModelError), match=message) as error:
        drawn(name, sources, *words, out=tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_exported_weights_give_the_same_numbers_and_a_program_none(drawn: Any, folder: Path, tmp_path: Path) -> None:
    export("run", folder / "m.safetensors")
    (folder / "m.onnx").touch()
    pages = [drawn("brightness", [source], out=tmp_path / source)[0] for source in ("run", "m.safetensors")]
    one, two = (page.with_suffix(".csv").read_bytes() for page in pages)
    assert one == two
    with pytest.raises(RunError, match="m.onnx is a program, whose layers cannot be looked into"):
        drawn("brightness", ["m.onnx"], out=tmp_path / "none")
