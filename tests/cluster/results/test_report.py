"""A report: one page that is well-formed, needs nothing else, and has the numbers of the evaluation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from browser import Browser
from firing import few_digits, save

from cluster.build.data import opened
from cluster.config import load
from cluster.errors import RunError
from cluster.results import report
from cluster.results.export import export
from cluster.train.tally import Tally

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits}
train: {global_batch: 50, threads: 1}
"""
NAMES = ["<b>", "a & b", '"x"', "</script>", "\u00e9\u200b", "six"]


def parsed(path: Path) -> tuple[ElementTree.Element, dict[str, Any]]:
    """The page, as strictly as XML is read, and the numbers in it."""
    text = path.read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    root = ElementTree.fromstring(text.encode())
    for element in root.iter():
        element.tag = element.tag.removeprefix("{http://www.w3.org/1999/xhtml}")
    assert not {"link", "img", "iframe", "object"} & {element.tag for element in root.iter()}
    assert [key for element in root.iter() for key in element.attrib if key in ("src", "href")] == []
    assert "url(" not in text and "@import" not in text
    [script] = root.iter("script")
    assert script.get("type") == "application/json" and script.get("id") == "numbers"
    return root, json.loads(script.text or "")


def cells(table: ElementTree.Element) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]


def tallied(
    names: list[str], outputs: int, count: int = 500, seed: int = 0
) -> tuple[Tally, torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, outputs, generator=draws)
    labels = torch.randint(len(names), (count,), generator=draws)
    logits[torch.arange(count), labels] += 1.0
    tally = Tally(names)
    for part in range(0, count, 64):
        tally.add(logits[part : part + 64], labels[part : part + 64])
    return tally, logits, labels


@pytest.mark.parametrize(("names", "outputs"), [(NAMES, 8), ([f"class {i}" for i in range(60)], 60)])
def test_a_page_has_the_numbers(tmp_path: Path, names: list[str], outputs: int) -> None:
    tally, logits, labels = tallied(names, outputs)
    row = {"checkpoint": "runs/<a>", "samples": 500, "accuracy": 0.5, "loss": 1.25} | tally.row()
    report.write(tmp_path / "r.html", row, tally)
    root, numbers = parsed(tmp_path / "r.html")
    assert numbers["row"] == row and numbers["classes"][: len(names)] == names
    matrix = torch.zeros(outputs, outputs, dtype=torch.int64)
    for k, j, n in numbers["confusion"]:
        matrix[k, j] = n
    assert torch.equal(matrix, tally.confusion)
    facts, classes, last = root.iter("table")
    assert cells(facts)[:2] == [["Samples", "500"], ["Accuracy", "50.00%"]]
    right = logits.argmax(1) == labels
    shown = cells(classes)[1:]
    assert len(shown) == outputs
    for k in range(len(names)):
        mine = labels == k
        assert shown[k][1:3] == [str(int(mine.sum())), f"{float(right[mine].float().mean()):.1%}"]
    if outputs == 8:
        assert [found[0] for found in shown[:4]] == NAMES[:4] and shown[4][0] == "\u00e9\ufffd"
        body = [[int(cell or 0) for cell in line[1:]] for line in cells(last)[1:]]
        assert torch.equal(torch.tensor(body), tally.confusion)
    else:
        wrong = tally.confusion.clone().fill_diagonal_(0)
        listed = cells(last)[1:]
        assert len(listed) == min(100, int((wrong > 0).sum())) and int(listed[0][2]) == wrong.max()


def test_a_page_that_is_not_ours_stays(tmp_path: Path) -> None:
    tally, *_ = tallied(NAMES, 6)
    row = {"file": "m.pt", "samples": 500, "accuracy": 0.5, "loss": 1.25}
    path = tmp_path / "r.html"
    report.check(path)
    report.write(path, row, tally)
    first = path.read_bytes()
    report.check(path)
    report.write(path, row, tally)
    assert path.read_bytes() == first
    for theirs in (first + b"\n", first.replace(b"50.00%", b"99.00%"), b"", b"<html></html>", b"\xff"):
        path.write_bytes(theirs)
        with pytest.raises(RunError, match="r.html is there, and not as a report was left"):
            report.check(path)
    with pytest.raises(RunError, match="none: no such folder"):
        report.check(tmp_path / "none" / "r.html")
    with pytest.raises(RunError, match="end its name with .html"):
        report.check(tmp_path / "r.txt")


def test_eval_writes_it(cli: Any, tmp_path: Path) -> None:
    few_digits(tmp_path / "shards")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    config = load(tmp_path / "recipe.yaml", [f"data.root={tmp_path / 'shards'}"])
    data = opened(config, "test")
    export(save(tmp_path / "run", config, data, classes=data.class_names), tmp_path / "m.pt")
    rows = {}
    for source in ("run", "m.pt"):
        done = cli("eval", source, "--report", f"{source}.html")
        assert done.returncode == 0, done.stderr
        rows[source] = json.loads(done.stdout)
        _, numbers = parsed(tmp_path / f"{source}.html")
        assert numbers["row"] == rows[source] and numbers["classes"] == data.class_names
        counts = torch.zeros(10, 10, dtype=torch.int64)
        for k, j, n in numbers["confusion"]:
            counts[k, j] = n
        assert counts.sum(1).tolist() == torch.tensor(data.labels).bincount(minlength=10).tolist()
        assert int(counts.diagonal().sum()) / 120 == rows[source]["accuracy"] > 0.6
        assert rows[source]["accuracy"] <= rows[source]["top5"] <= 1
    assert rows["run"]["top5"] == rows["m.pt"]["top5"]
    (tmp_path / "mine.html").write_text("mine")
    done = cli("eval", "run", "--report", "mine.html")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert re.search("mine.html is there, and not as a report was left", done.stderr)


def test_a_browser_shows_it(chromium: Browser, tmp_path: Path) -> None:
    tally, *_ = tallied(NAMES, 8)
    row = {"checkpoint": "runs/<a>", "samples": 500, "accuracy": 0.5, "loss": 1.25}
    report.write(tmp_path / "r.html", row, tally)
    page = chromium.open(tmp_path / "r.html")
    page.picture(tmp_path / "r.png")
    assert (page.said, len(page.asked)) == ([], 1)
    assert page.value("document.title") == "Evaluation of runs/<a>"
    assert page.value("document.querySelectorAll('b, script:not(#numbers)').length") == 0
    text = "[...document.querySelectorAll('table')].map(t => [...t.rows].map(r => [...r.cells].map(c => c.innerText)))"
    facts, classes, matrix = page.value(text)
    assert facts[0] == ["Samples", "500"] and [line[0] for line in classes[1:5]] == NAMES[:4]
    assert [[int(cell or 0) for cell in line[1:]] for line in matrix[1:]] == tally.confusion.tolist()
    colours = "[...document.querySelectorAll('td[style]')].map(c => getComputedStyle(c).backgroundColor)"
    assert len(page.value(colours)) == int((tally.confusion > 0).sum())
    assert all(colour.startswith("rgba(") for colour in page.value(colours))
