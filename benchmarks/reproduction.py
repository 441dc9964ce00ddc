"""What was run of the paper's tables: results of runs, as files that docs/reproduction.md is made of.

    python -m benchmarks.reproduction RUN [--row ROW] [--eval FILE] [--note TEXT]

Writes benchmarks/results/runs/NAME.json, NAME the run's, from what the finished run itself wrote: its configuration,
its summary, its metrics and its starts. ROW is a row of docs/paper.yaml, and the run has to be of its data and its
model; a run without is shown below the tables. FILE, for rows of corrupted pictures, is what `tdformer eval RUN
--corrupted-set CIFAR-10-C` printed, or what `tdformer robustness RUN ... --corrupted-set CIFAR-10-C --out FILE` wrote.
TEXT: what else has to be known, such as that only a part of the data was there.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import tdformer
from cluster import config as configs
from cluster.config import Config
from cluster.errors import RunError
from cluster.run.folder import RunFolder
from cluster.run.records import to_json, write_atomic
from pipelines.views.corruptions import KINDS, SEVERITIES
from tdformer.backbones import MODELS
from tdformer.backbones.size import OPTIONS, at

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "docs" / "paper.yaml"
RESULTS = ROOT / "benchmarks" / "results" / "runs"
KEPT = ("time", "commit", "dirty", "python", "torch", "deepspeed", "device", "cpu", "processes", "threads")
"""Of a row of starts.jsonl."""


@cache
def paper() -> dict[str, Any]:
    """docs/paper.yaml; each row has the table's dataset, model options, seeds and measure with its own."""
    content: dict[str, Any] = yaml.safe_load(PAPER.read_text())
    for table in content["tables"]:
        shared = {key: table[key] for key in ("dataset", "seeds", "measure") if key in table}
        for row in table["rows"]:
            own = row["model"]
            row |= shared | {"model": None if own is None else {**table.get("model", {}), **own}}
    return content


def rows() -> dict[str, dict[str, Any]]:
    """By name."""
    return {row["row"]: row for table in paper()["tables"] for row in table["rows"]}


@cache
def _defaults() -> dict[str, Any]:
    return vars(tdformer.ModelOptions())


def options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `create_model` that make a difference to what a row says, with the defaults of those not given."""
    all_of = _defaults() | dict(MODELS.get(name).backbone.options if name in MODELS else {}) | dict(given)
    if name in MODELS:
        entry = MODELS.get(name)
        all_of |= at(entry.sizes, {option: all_of[option] for option in OPTIONS}, name)[1].options()
        all_of["time_steps"] = all_of["time_steps"] or entry.time_steps
    if all_of["feedback"] in ("none", []):
        all_of |= {"feedback": "none", "cm": 1, "pm": 1, "mixer": "concat", "clamp": (0.0, 1.0)}
    all_of["clamp"] = tuple(all_of["clamp"])
    apart = ("num_classes", "in_channels", "image_size", "recompute", "border_dtype", "segment_norm")
    return {"name": name, **{key: value for key, value in all_of.items() if key not in apart}}


def wanted(row: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a row, and `image_size` where it says one. The paper does not say the number of segments: without
    feedback it is 1, else whatever a run has (no key)."""
    model = dict(row["model"])
    size = {"image_size": model.pop("image_size")} if "image_size" in model else {}
    found = options(model.pop("name"), model)
    if found["feedback"] != "none" and "segments" not in model:
        del found["segments"]
    return found | size


def differences(row: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """What the row has otherwise than a configuration, by setting."""
    if row["dataset"] != config.data.dataset:
        return {"data.dataset": row["dataset"]}
    want, has = wanted(row), options(config.model.name, config.model.options())
    found = {f"model.{key}": value for key, value in want.items() if key != "image_size" and has.get(key) != value}
    size = config.model.image_size or config.data.size
    if want.get("image_size", size) != size:
        found["data.size"] = want["image_size"]
    return found


def settings(config: Config) -> dict[str, Any]:
    """What decides the numbers of a run and is not the default, but for the seed. A run's configuration says which norm
    batch it has, a recipe's may leave it to be derived."""
    default = configs.flat(Config())
    apart = {*configs.NEUTRAL, "name", "seed", "data.root", "plugins"}
    own = configs.flat(config) | {"train.norm_batch": configs.norm_batch(config)}
    return {key: value for key, value in own.items() if key not in apart and value != default[key]}


def gathered(run: Path, row: str | None, evaluated: Path | None = None, note: str | None = None) -> dict[str, Any]:
    """The result of a finished run. Raises RunError for one that is not finished, or not of that row."""
    folder = RunFolder(run)
    config, summary = folder.config(), folder.summary()
    if config is None or summary is None:
        raise RunError(f"{run}: no finished run is there; train it to its end first")
    if row is not None:
        known = rows()
        if row not in known or known[row]["model"] is None:
            raise RunError(f"--row {row}: no such row of ours in docs/paper.yaml")
        if differs := differences(known[row], config):
            words = ", ".join(f"{key}={configs.show(value)}" for key, value in differs.items())
            raise RunError(f"{run} is not of row {row}, which has {words}")
        if (known[row].get("measure") == "corruptions") != (evaluated is not None):
            raise RunError(f"--row {row}: --eval is for rows of corrupted pictures, and they need it")
    accuracy = summary["accuracy"] if evaluated is None else _mean(evaluated, run)
    epochs = [line["eval_accuracy"] for line in folder.metrics.read() if "eval_accuracy" in line]
    starts = folder.starts.read()
    first = starts[0] if starts else {}
    return {
        "row": row,
        "run": run.resolve().name,
        "note": note,
        "command": shlex.join(["tdformer", *first.get("command", [])[1:]]),
        "dataset": config.data.dataset,
        "accuracy": accuracy,
        "accuracy_by_epoch": epochs,
        "seed": config.seed,
        "epochs": summary["epochs"],
        "steps": summary["step"],
        "global_batch": config.train.global_batch,
        "settings": settings(config),
        "starts": len(starts),
        **{key: first.get(key) for key in KEPT},
    }


def _mean(evaluated: Path, run: Path) -> float:
    lines = [json.loads(line) for line in evaluated.read_text().splitlines() if line.strip()]
    if lines and lines[0].get("table") == "robustness":
        return _of_table(lines[0], evaluated, run)
    means = [line["accuracy"] for line in lines if line.get("corruption") == "mean"]
    if not means:
        raise RunError(f"{evaluated}: no mean over corruptions; write what tdformer eval RUN --corrupted-set prints")
    return float(means[-1])


def _of_table(table: Mapping[str, Any], evaluated: Path, run: Path) -> float:
    """The mean of one run of a table that `tdformer robustness` wrote."""
    if not table["published"] or len(table["kinds"]) < len(KINDS) or len(table["severities"]) < len(SEVERITIES):
        what = f"{len(table['kinds'])} kinds at {len(table['severities'])} severities of {table['pictures']}"
        raise RunError(f"{evaluated}: {what}; the paper's rows are of all of CIFAR-10-C")
    means = [one["mean"] for group in table["groups"] for one in group["runs"] if Path(one["run"]).name == run.name]
    if len(means) != 1:
        raise RunError(f"{evaluated}: {len(means)} runs are called {run.name}; write one that has it once")
    return float(means[0])


def results() -> list[dict[str, Any]]:
    """Those that were gathered, by name of the run."""
    return [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduction")
    parser.add_argument("run", type=Path)
    parser.add_argument("--row")
    parser.add_argument("--eval", type=Path)
    parser.add_argument("--note")
    given = parser.parse_args(words)
    try:
        found = gathered(given.run, given.row, given.eval, given.note)
        RESULTS.mkdir(parents=True, exist_ok=True)
        content = json.dumps(json.loads(to_json(found)), indent=1)
        write_atomic(RESULTS / f"{found['run']}.json", f"{content}\n".encode())
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
