"""`tdformer energy`: its numbers are those of counting, add up, and are the same in all forms."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Browser
from firing import digits_run
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.errors import RunError
from cluster.paper import energy
from cluster.paper.opening import Run
from cluster.results import report
from cluster.results.marks import is_ours
from tdformer.measure import count, operations
from tdformer.measure.energy import PRICES, arithmetic

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits}
train: {global_batch: 50, threads: 1}
"""
PARTS = ["embeds.0", "stages.0.0", "embeds.1", "stages.1.0", "embeds.2", "stages.2.0", "feedback", "head"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("energy")
    digits_run(place, RECIPE)
    return place


@pytest.fixture
def row(folder: Path) -> dict[str, Any]:
    return numbers(folder)


def numbers(folder: Path, *words: str, images: int = 6) -> dict[str, Any]:
    run = Run.open(str(folder / "run"), words)
    found: dict[str, Any] = json.loads(json.dumps(energy.as_json(run, energy.counted(run, images))))
    return found


def test_the_numbers_are_those_of_counting_and_add_up(folder: Path, row: dict[str, Any]) -> None:
    run = Run.open(str(folder / "run"))
    batches = [images for images, _ in run.batches(6)]
    rows = count(run.model, torch.cat(batches)).rows
    assert row["images"] == 6 and row["of"] == 120 and row["unknown"] == []
    assert row["total"]["mac"] == sum(r.mac for r in rows) / 6 > 0
    assert row["total"]["ac"] == sum(r.ac + r.additions for r in rows if r.operation != "neuron") / 6 > 0
    assert row["total"]["mj"] == pytest.approx(sum(arithmetic(r, PRICES[0]) for r in rows) / 6e9)
    assert [one["part"] for one in row["parts"]] == PARTS and [one["step"] for one in row["steps"]] == [0, 1]
    for name in ("parts", "units", "steps"):
        for key in ("mac", "ac", "of_sums", "updates", "dense", "mj"):
            assert sum(one[key] for one in row[name]) == pytest.approx(row["total"][key])
        for one in row[name]:
            assert sum(one["mj_by_kind"].values()) == pytest.approx(one["mj"])
    for step in row["steps"]:
        assert sum(step["mj_by_part"].values()) == pytest.approx(step["mj"])
    assert "feedback" not in row["steps"][0]["mj_by_part"] or row["steps"][0]["mj_by_part"]["feedback"] == 0
    assert row["steps"][1]["mj_by_part"]["feedback"] > 0
    assert [one["prices"] for one in row["prices"]] == [prices.name for prices in PRICES]
    assert row["prices"][0]["mj"] == pytest.approx(row["total"]["mj"])


def test_the_size_of_a_batch_changes_nothing(folder: Path, row: dict[str, Any]) -> None:
    assert numbers(folder, "train.micro_batch=5") == row


def called(*words: str | Path) -> Any:
    return CliRunner().invoke(app, ["energy", *map(str, words)])


@pytest.fixture
def out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What the command prints."""
    monkeypatch.chdir(folder)

    def say(*words: str) -> str:
        done = called(*words)
        assert done.exit_code == 0, done.exception
        text: str = done.stdout
        return text

    return say


def test_the_command_says_them_as_a_table_as_json_and_as_a_page(
    out: Callable[..., str], tmp_path: Path, row: dict[str, Any]
) -> None:
    place = tmp_path / "e.html"
    table = out("run", "--images", "6", "--report", str(place))
    assert table.startswith("run: quickstart, 2 time steps in 2 segments; an image, mean of 6 of 120\n")
    lines = {line.split("  ")[0]: line.split() for line in table.splitlines()}
    assert [name for name in lines if name in PARTS] == PARTS
    assert lines["total"][-2:] == [f"{row['total']['mj']:.4g}", f"{row['total']['firing_rate']:.4f}"]
    found = json.loads(out("run", "--images", "6", "--json"))
    assert {**found, "model": None} == {**row, "model": None}
    first = place.read_bytes()
    assert is_ours(place) and "</script" not in re.findall(r'id="numbers">(.*?)</script>', first.decode())[0]
    assert json.loads(re.findall(r'id="numbers">(.*?)</script>', first.decode())[0]) == found
    out("run", "--images", "6", "--report", str(place))  # over what it left
    assert place.read_bytes() == first
    place.write_bytes(first + b"mine")
    with pytest.raises(RunError, match="is there, and not as a report was left"):
        report.check(place)
    assert isinstance(called("run", "--report", str(place)).exception, RunError)
    assert place.read_bytes() == first + b"mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.root=x"],
            "data.root=x is a setting, and the run comes first: tdformer energy runs/quickstart data.root=x",
        ),
        (["none"], "none: no such run folder"),
        (["run@8"], "run has no checkpoint of step 8; it has those of step 7"),
        (["run", "model.tau=3"], "model.tau changes nothing"),
        (["run", "--report", "e.txt"], "e.txt: a report is a page of HTML"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    error = called(*words).exception
    assert isinstance(error, RunError) and message in str(error) and "\n" not in str(error)


def test_what_is_not_counted_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As of a plugin's backbone, whose operators nobody knows."""
    known = {key: rule for key, rule in operations._RULES.items() if key is not torch.ops.aten.mean}
    monkeypatch.setattr(operations, "_RULES", known)
    done = called(folder / "run", "--images", "2", "--report", tmp_path / "e.html")
    assert done.exit_code == 0
    for where in ("backbone", "the model"):
        assert f"not counted: {where} computes mean, which is in no row" in done.stderr
    assert "backbone computes mean, which is in no row." in (tmp_path / "e.html").read_text()


def test_a_browser_draws_it(chromium: Browser, tmp_path: Path, row: dict[str, Any]) -> None:
    energy.write(tmp_path / "e.html", row | {"model": "runs/<a>"})
    opened = chromium.open(tmp_path / "e.html")
    opened.picture(tmp_path / "e.png")
    assert (opened.said, len(opened.asked)) == ([], 1)
    assert opened.value("document.title") == "Energy of runs/<a>"
    for number, bars in ((1, 4 * len(row["units"])), (2, len(row["parts"]) * 2)):
        assert opened.value(f"document.querySelectorAll('#figure-{number} .bars path').length") == bars
