"""docs/first-run.md shows what the program prints."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from firing import few_digits
from forked import Command
from rich.console import Console

from cluster import config as configs
from cluster.build.memory import here
from cluster.build.setup import Setup
from cluster.build.shards import write_shards
from cluster.jobs import opening
from cluster.jobs.status import Row
from cluster.run.folder import RunFolder
from cluster.run.monitor import Monitor
from cluster.run.speed import Lap

PAGE = (Path(__file__).parents[3] / "docs" / "first-run.md").read_text()


def shown(title: str) -> list[str]:
    """The blocks below a heading."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)


@pytest.mark.parametrize(("title", "word"), [("Help", "--help"), ("Models", "models")])
def test_help_and_models_are_as_printed(tmp_path: Path, title: str, word: str) -> None:
    said = Command(word, cwd=tmp_path, env=os.environ | {"COLUMNS": "80"}).completed().stdout
    assert shown(title) == [said]


def test_the_block_of_a_start_is_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shards("digits", tmp_path / "data" / "digits")
    config = configs.load("digits", ["train.epochs=1", "name=first"])
    now = opening.block(Setup.to_train(config, 1), here(config, 1), threads=2).splitlines()
    page = shown("Start and progress")[0].splitlines()
    first = page.index(next(line for line in page if line.startswith("model ")))
    then = page[first : first + len(now)]
    assert [line.split()[0] for line in then] == [line.split()[0] for line in now]
    of_machine = ("memory",)
    for before, after in zip(then, now, strict=True):
        assert before == after or before.startswith(of_machine)


def test_a_start_says_the_size_that_is_not_the_names(tmp_path: Path) -> None:
    few_digits(tmp_path)
    words = [f"data.root={tmp_path}", "train.global_batch=10"]
    for more, said in (
        ([], "quickstart, "),
        (["model.width=96", "model.heads=4"], "quickstart, "),
        (["model.width=48", "model.depths=[1,2,1]"], "quickstart width=48 depths=[1, 2, 1], "),
    ):
        setup = Setup.to_train(configs.load("digits", [*words, *more]), 1)
        assert opening.block(setup, here(setup.config, 1), 1).splitlines()[0].startswith(f"model   {said}")


def test_a_line_of_progress_is_as_printed(tmp_path: Path) -> None:
    config, said = configs.load("digits", ["train.epochs=1", f"runs_dir={tmp_path}"]), io.StringIO()
    run = RunFolder(config.run_path)
    run.open(config)
    monitor = Monitor(run, config, 22, console=Console(file=said, width=200), line_seconds=0.0)
    row = {"epoch": 0, "loss": 2.288, "accuracy": 0.1375, "lr": 0.002727, "firing_rate": 0.06462}
    for step in range(1, 23):
        lap = Lap(64, 0.5, 0.01)
        if step % 10 == 0:
            monitor.row({"step": step, **row})
            monitor.timed(lap, {"tflops": 0.001305})
        monitor.step(step, 0, lap)
    page = next(line for line in shown("Start and progress")[0].splitlines() if line.startswith("step 22/22"))
    assert shape(said.getvalue().splitlines()[-1]) == shape(page)


def shape(line: str) -> str:
    return re.sub(r"[0-9]+(\.[0-9]+)?", "#", line)


def test_the_keys_of_a_status_are_as_printed(cli: Any, tmp_path: Path) -> None:
    RunFolder(tmp_path / "runs" / "first").open(configs.load("digits"))
    RunFolder(tmp_path / "runs" / "first").tell("saved", step=1, total=2)
    now: Row = json.loads(cli("status", "--json").stdout)
    table, line = shown("Status")
    assert list(json.loads(line)) == list(now)
    assert table.splitlines()[0].split()[:4] == cli("status").stdout.split()[:3] + ["loss"]
