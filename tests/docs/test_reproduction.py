"""docs/reproduction.md: the paper's numbers are whole, each command makes the run that its row says, and what was run
is what a run wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from blocks import script

import cluster.config as configs
import tdformer
from benchmarks import reproduction
from cluster.run.folder import RunFolder
from cluster.study import robustness_page
from pipelines.views.corruptions import KINDS

ROOT = Path(__file__).parents[2]
UNUSED = {"spikformer_4_384": 6144, "sdt_2_256": 128}
"""Parameters of the published networks that their forward pass never uses, and that are not built here."""
ROWS = reproduction.rows()
OURS = {name: row for name, row in ROWS.items() if row["model"] is not None}


PAGE = script("reproduction")


def test_every_row_has_a_name_of_its_own_and_the_papers_number() -> None:
    tables = reproduction.paper()["tables"]
    assert sum(len(table["rows"]) for table in tables) == len(ROWS) == 111
    assert {table["table"] for table in tables} == {1, 2, 3, 5, 6, 7}
    known = {
        "row",
        "label",
        "model",
        "params",
        "power",
        "gflop",
        "accuracy",
        "deviation",
        "dataset",
        "seeds",
        "measure",
    }
    for table in tables:
        for row in table["rows"]:
            assert row.keys() <= known and row["row"].startswith(f"{table['table']}/"), row
            assert 70 < row["accuracy"] < 100 and ("deviation" in row) == ("seeds" in row) == (table["table"] == 5)


def test_the_printed_parameters_are_those_that_are_built() -> None:
    """Two decimals, cut off; in the backbone's own paper rounded, which differs for one of them."""
    for row in (row for row in OURS.values() if "params" in row):
        count = PAGE.command(row).parameters + UNUSED.get(row["model"]["name"], 0)
        printed = round(count / 1e6, 2) if row["params"] == 2.57 else count // 10_000 / 100
        assert printed == row["params"], row


def test_a_command_makes_the_run_that_its_row_says() -> None:
    made = {name: PAGE.command(row) for name, row in OURS.items()}
    for name, its in made.items():
        config = its.config
        assert reproduction.differences(OURS[name], config) == {}, its.command
        assert its.command.split()[:3] == ["tdformer", "train", its.recipe]
        if config.model.name not in tdformer.list_models():
            continue
        given = config.model.options() | {"image_size": config.model.image_size or config.data.size}
        with torch.device("meta"):
            model = tdformer.create_model(config.model.name, **given)
        fed = OURS[name]["model"].get("feedback") != "none"
        assert (model.segments > 1) == fed == any(".control." in n for n, _ in model.named_parameters())


def test_the_page_is_what_the_files_say() -> None:
    assert f"\n{PAGE.tables()}\n" == PAGE.WRITTEN.search(PAGE.PAGE.read_text())[0], "python .ci/docs/reproduction.py"


def test_a_size_that_is_written_out_is_the_names() -> None:
    row = OURS["3/dvs-tdformer-hst-2-256"]
    recipe = configs.recipes()["cifar10_dvs"]
    size = ["model.width=256", "model.depths=[1, 1]", "model.heads=16", "model.mlp_ratio=1"]
    assert reproduction.differences(row, configs.load(recipe, size)) == {}
    assert reproduction.differences(row, configs.load(recipe, ["model.width=128"])) == {"model.width": 256}


def finished(folder: Path, recipe: str, *words: str) -> Path:
    """A run folder as a finished run leaves it, but for its weights."""
    config = configs.load(configs.recipes()[recipe], [*words, f"runs_dir={folder}"])
    run = RunFolder(folder / config.name)
    run.settle(config)
    run.open(config, {"device": "CPU", "processes": 1, "threads": 2})
    run.metrics.append({"step": 7, "epoch": 1, "eval_accuracy": 0.5, "eval_loss": 1.0})
    run.metrics.append({"step": 14, "epoch": 2, "eval_accuracy": 0.625, "eval_loss": 1.0})
    run.finish({"step": 14, "epochs": config.train.epochs, "accuracy": 0.625, "best_accuracy": 0.625})
    return run.path


def cells(page: str, label: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(f"| {label} |")]


def test_the_page_shows_what_was_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduction, "RESULTS", tmp_path / "results")
    gather: Any = reproduction.main
    row, label = "3/dvs-tdformer-hst-2-256", "TDFormer on HST-2-256, T = 16"
    assert [c[2:4] for c in cells(PAGE.tables(), label)] == [["not run", "the run"]] * 2  # Gesture has one, too
    short = finished(tmp_path, "cifar10_dvs", "name=short", "train.epochs=50", "seed=3")
    assert gather([str(short), "--row", row]) == 0
    (ours, _) = cells(PAGE.tables(), label)
    assert ours[2:4] == ["62.50 (50 epochs, seed 3, otherwise: train.epochs=50)", "the run"]
    assert gather([str(finished(tmp_path, "cifar10_dvs")), "--row", row]) == 0
    (ours, _) = cells(PAGE.tables(), label)
    assert ours[2].startswith("62.50 (106 epochs, seed 0, as the recipe); 62.50 (50 ") and ours[3] == "nothing"
    assert gather([str(finished(tmp_path, "quickstart")), "--note", "half of the data"]) == 0
    (other,) = cells(PAGE.tables(), "quickstart")
    assert PAGE.feedback() in PAGE.tables()
    assert other[1:6] == ["fashion_mnist", "62.50", "0", "14 x 64, 3", "half of the data"]
    written = json.loads((tmp_path / "results" / "short.json").read_text())
    assert written["accuracy_by_epoch"] == [0.5, 0.625] and written["settings"]["train.epochs"] == 50
    # what is not so is refused
    (tmp_path / "short" / "summary.json").unlink()
    quickstart = str(tmp_path / "quickstart")
    for words, said in (
        ([str(short)], "no finished run is there"),
        ([str(tmp_path / "none")], "no finished run is there"),
        ([quickstart, "--row", "3/none"], "no such row of ours"),
        ([quickstart, "--row", "1/vit"], "no such row of ours"),
        ([quickstart, "--row", row], "is not of row 3/dvs-tdformer-hst-2-256, which has data.dataset=cifar10_dvs"),
    ):
        before = sorted((tmp_path / "results").iterdir())
        capsys.readouterr()
        assert gather(words) == 2
        assert said in (line := capsys.readouterr().err) and line.count("\n") == 1
        assert sorted((tmp_path / "results").iterdir()) == before


def test_a_row_of_corrupted_pictures_takes_a_table_of_robustness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduction, "RESULTS", tmp_path / "results")
    gather: Any = reproduction.main
    run = finished(tmp_path, "cifar/cifar10_spikformer_4_384")
    file = tmp_path / "table.json"
    runs = [{"run": f"elsewhere/{name}", "mean": mean} for name, mean in (("other", 0.5), (run.name, 0.8125))]
    table = {"table": "robustness", "published": True, "pictures": "CIFAR-10-C", "groups": [{"runs": runs}]}
    table |= {"kinds": list(KINDS), "severities": [1, 2, 3, 4, 5]}
    words = [str(run), "--row", "7/spikformer-4-384-t4", "--eval", str(file)]
    robustness_page.write(file, table)
    assert gather(words) == 0
    assert json.loads((tmp_path / "results" / f"{run.name}.json").read_text())["accuracy"] == 0.8125
    for wrong, said in (
        (
            {"published": False, "pictures": "pictures corrupted here"},
            "5 severities of pictures corrupted here; the paper",
        ),
        ({"severities": [1, 5]}, "19 kinds at 2 severities of CIFAR-10-C; the paper"),
        ({"groups": [{"runs": runs[:1]}]}, "0 runs are called cifar10_spikformer_4_384"),
    ):
        file.unlink()
        robustness_page.write(file, table | wrong)
        assert gather(words) == 2 and said in capsys.readouterr().err


def test_what_is_in_the_repository_is_of_rows_that_are_there() -> None:
    for result in reproduction.results():
        assert result["row"] is None or result["row"] in OURS
        assert 0 < result["accuracy"] <= 1 and result["starts"] >= 1 and result["command"].startswith("tdformer train ")
