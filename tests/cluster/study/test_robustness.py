"""Runs on corrupted pictures: against an evaluation of each, each measured once, and compared as the formulae say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from firing import few_digits, save

from cluster.build.data import opened
from cluster.cli.robustness import robustness
from cluster.config import load
from cluster.errors import RunError
from cluster.results.corruption import Asked, measured
from cluster.run.folder import RunFolder
from cluster.study import robustness_page as pages
from cluster.study.robustness import comparisons, groups, runs_of, table
from cluster.train.evaluate import evaluate_run

RECIPE = """\
model: {name: quickstart, width: 16, heads: 2, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits}
train: {global_batch: 60, threads: 1}
"""
CASES = {
    "fed": [],
    "two": ["model.segments=1", "model.feedback=none"],
    "one": ["model.segments=1", "model.feedback=none", "model.time_steps=1"],
}
KINDS = ("gaussian_noise", "contrast")
ASKED = Asked(KINDS, (1, 4))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of each of CASES, finished, and one that is not."""
    folder = tmp_path_factory.mktemp("robustness")
    (folder / "recipe.yaml").write_text(RECIPE)
    root = few_digits(folder / "shards")
    for case, words in CASES.items():
        for seed in (0, 1, 2):
            torch.manual_seed(seed + 10 * len(case + words[-1] if words else case))
            config = load(folder / "recipe.yaml", [f"data.root={root}", f"name={case}{seed}", f"seed={seed}", *words])
            data = opened(config, "test")
            run = save(folder / f"{case}{seed}", config, data, classes=data.class_names)
            RunFolder(run).finish({"accuracy": 0.5, "epochs": 1, "step": 7})
    save(folder / "going", config, data, classes=data.class_names)
    return folder


def runs(place: Path) -> list[Path]:
    return [place / f"{case}{seed}" for case in CASES for seed in (0, 1, 2)]


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, Any]:
    return table(measured(runs(place), ASKED))


def row(of: Mapping[str, Any], name: str) -> Any:
    return next(one for one in of["rows"] if one["row"] == name)


def test_numbers_are_those_of_an_evaluation(place: Path, found: dict[str, Any]) -> None:
    rows = list(evaluate_run(place / "fed0", (), KINDS))  # its seed is 0, as that of all pictures is here
    [run] = [run for group in found["groups"] for run in group["runs"] if run["run"].endswith("fed0")]
    assert run["clean"] == rows[0]["accuracy"]
    known = {(one["corruption"], one["severity"]): one["accuracy"] for one in rows[1:] if "severity" in one}
    assert run["accuracy"] == {kind: [known[kind, severity] for severity in (1, 4)] for kind in KINDS}
    assert len({known[kind, severity] for kind in KINDS for severity in (1, 4)} | {run["clean"]}) > 2


def test_groups_and_their_differences_over_seeds(found: dict[str, Any]) -> None:
    assert [group["name"] for group in found["groups"]] == ["T=1", "T=2", "T=2 N=2 feedback"]
    assert [[run["seed"] for run in group["runs"]] for group in found["groups"]] == [[0, 1, 2]] * 3
    pairs = {pair["name"]: pair for pair in found["comparisons"]}
    assert {name: pair["two_stages"] for name, pair in pairs.items()} == {
        "T=2 N=2 feedback - T=1": True,
        "T=2 N=2 feedback - T=2": False,
    }
    of = {group["name"]: group["runs"] for group in found["groups"]}
    fed, base = of["T=2 N=2 feedback"], of["T=2"]
    means = [np.mean([one["accuracy"][kind] for kind in KINDS]) for one in (*fed, *base)]
    differences = np.array(means[:3]) - means[3:]
    mean = row(found, "mean of 2")
    assert mean["groups"]["T=2"]["value"] == pytest.approx(np.mean(means[3:]))
    said = mean["differences"]["T=2 N=2 feedback - T=2"]
    assert said["value"] == pytest.approx(differences.mean()) and said["pairs"] == 3
    assert said["low"] < said["value"] < said["high"]
    assert pairs["T=2 N=2 feedback - T=2"]["difference"] == said
    # ImageNet-C: CE of a kind is the sum of errors over severities by that of the baseline
    errors = [[sum(1 - a for a in one["accuracy"][kind]) for kind in KINDS] for one in (*fed, *base)]
    mce = np.mean(np.array(errors[:3]) / errors[3:], axis=1)
    assert pairs["T=2 N=2 feedback - T=2"]["mce"]["mean of 2"]["value"] == pytest.approx(mce.mean())
    assert any("not CIFAR-10-C" in note for note in found["notes"])
    assert any("T = 1 in two stages" in note for note in found["notes"])


def test_nothing_is_measured_twice(place: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    told: list[str] = []

    def kill(line: str) -> None:
        told.append(line)
        if len(told) == 3:
            raise Killed

    asked = Asked(KINDS, (2,), images=30, keep=tmp_path / "kept.jsonl")
    with pytest.raises(Killed):
        measured(runs(place)[:2], asked, told=kill)
    assert told == ["clean, severity 0: 2 of 2 runs", *(f"{kind}, severity 2: 2 of 2 runs" for kind in KINDS)]
    with (tmp_path / "kept.jsonl").open("a") as file:
        file.write('{"weights": "half a li')
    told.clear()
    whole = measured(runs(place)[:3], asked, told=told.append)
    assert told == [
        "clean, severity 0: 1 of 3 runs",
        "gaussian_noise, severity 2: 1 of 3 runs",
        "contrast, severity 2: 3 of 3 runs",
    ]
    told.clear()
    again = measured(runs(place)[:3], asked, told=told.append)
    assert told == [] and [run.accuracies for run in again.runs] == [run.accuracies for run in whole.runs]
    measured(runs(place)[:1], Asked(("contrast",), (2,), images=40, keep=asked.keep), told=told.append)
    assert len(told) == 2  # of other pictures


def test_grey_pictures_have_18_kinds(place: Path) -> None:
    from pipelines.views.corruptions import KINDS as ALL

    of = measured(runs(place)[:1], Asked(severities=())).kinds
    assert set(ALL) - set(of) == {"saturate"}


def test_what_cannot_be_compared_is_refused(place: Path, tmp_path: Path) -> None:
    def refused(*given: Path, asked: Asked = ASKED, words: tuple[str, ...] = ()) -> str:
        with pytest.raises(RunError) as caught:
            groups(measured(given, asked, words).runs)
        return str(caught.value)

    assert f"{place / 'going'} is not finished (step 7); wait, or give" in refused(place / "going")
    measured([Path(f"{place / 'going'}@7")], Asked(("contrast",), (1,), images=10))
    same = Path(f"{place / 'one2'}@7")
    assert "differ in nothing that decides numbers" in refused(place / "one2", same)
    config = load(place / "recipe.yaml", [f"data.root={place / 'shards'}", "name=other", "data.size=16"])
    other = save(tmp_path / "other", config, opened(config, "test"))
    assert f"{other}@7 has another data.size (16, not null)" in refused(place / "fed0", Path(f"{other}@7"))
    assert "--images 999: the test set has 120" in refused(place / "fed0", asked=Asked(images=999))
    assert "model.time_steps changes nothing here" in refused(place / "fed0", words=("model.time_steps=4",))
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text("name: study\n")
    with pytest.raises(RunError, match="has no finished cell"):
        runs_of([tmp_path / "study"])


def test_groups_that_only_training_tells_apart(place: Path) -> None:
    other = place / "slow"
    words = [f"data.root={place / 'shards'}", "name=slow", "train.lr=0.1", *CASES["two"]]
    config = load(place / "recipe.yaml", words)
    save(other, config, opened(config, "test"))
    given = [place / "two0", Path(f"{other}@7"), place / "fed0"]
    of = groups(measured(given, Asked(("contrast",), (1,), images=10)).runs)
    assert sorted(group.name for group in of)[:2] == ["T=2 N=2 feedback", "T=2 train.lr=0.001"]
    assert [pair.base.name for pair in comparisons(of)] == ["T=2 train.lr=0.001"]  # trained as the one with feedback


def test_the_command_prints_and_writes_what_it_knows_again(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(**options: Any) -> str:
        given = [str(place / name) for name in ("fed0", "two0")]
        robustness(given, kinds=",".join(KINDS), severities="4,1", **options)
        return capsys.readouterr().out

    page, numbers = tmp_path / "table.md", tmp_path / "table.json"
    printed = command(out=page)
    assert page.read_text().startswith(printed) and "| contrast | " in printed
    assert "| T=2 N=2 feedback - T=2 | 1 | " in printed
    assert json.loads(command(as_json=True, out=numbers)) | {"sha256": ""} == json.loads(numbers.read_text()) | {
        "sha256": ""
    }
    for file in (page, numbers):
        command(out=file)  # it is as we left it
        file.write_text(file.read_text().replace("contrast", "Contrast"))
        with pytest.raises(RunError, match="not as a table was left"):
            command(out=file)
    with pytest.raises(RunError, match=r"end its name with \.md or \.json"):
        pages.check_place(tmp_path / "table.csv")
    with pytest.raises(RunError, match="--severities 6: they are 1 to 5"):
        robustness([str(place / "fed0")], severities="6")
    with pytest.raises(RunError, match="no run is given"):
        robustness(["data.root=elsewhere"])
