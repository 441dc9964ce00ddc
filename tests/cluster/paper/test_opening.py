"""A run that figures are drawn from: its model, what is known of it, the samples that it is shown, and its equals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from cluster.errors import RunError
from cluster.paper.opening import Run, check_alike, grouped
from pipelines.loader import eval_loader, to_device


@pytest.fixture
def run(folder: Path) -> Run:
    return Run.open(str(folder / "run"))


def test_a_run_is_opened_by_its_folder_or_a_step_of_it(folder: Path, run: Run) -> None:
    step = Run.open(f"{folder / 'run'}@7", ["train.micro_batch=5"])
    assert step.trained.digest == run.trained.digest and step.setup.plan.micro_batch == 5
    assert run.fed and run.label == "feedback (concat)" and not run.model.training
    off = Run.open(str(folder / "off"))
    assert not off.fed and off.label == "no feedback"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(run.facts["began"])) and run.facts["step"] == 7
    assert run.model is run.model and run.setup is run.setup  # made once


@pytest.mark.parametrize(
    ("given", "words", "message"),
    [
        ("run", ["model.tau=3"], "^model.tau changes nothing in a figure; leave it out$"),
        ("run@3", [], "has no checkpoint of step 3"),
        ("p.onnx", [], "p.onnx is a program, whose layers cannot be looked into; give the run$"),
    ],
)
def test_what_cannot_be_looked_into_is_refused(folder: Path, given: str, words: list[str], message: str) -> None:
    (folder / "p.onnx").touch()
    with pytest.raises(RunError, match=message):
        Run.open(str(folder / given), words)


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_samples_lie_evenly_in_the_test_set_and_are_seen_as_in_an_evaluation(run: Run, count: int) -> None:
    parts = list(run.batches(count))
    images, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    many = min(count, len(run.data))
    ids = [i * len(run.data) // many for i in range(many)]
    assert labels.tolist() == run.data.labels[ids].tolist()
    assert all(len(part) <= run.setup.plan.micro_batch for part, _ in parts)
    evaluated = eval_loader(run.data, batch_size=50, view=run.setup.view)
    seen = torch.cat([to_device(b.images, run.data.mean, run.data.std, run.device) for b in evaluated])
    assert torch.equal(images, seen[ids]) and images.std() > 0


def test_runs_that_differ_otherwise_cannot_be_in_one_figure(folder: Path, run: Run) -> None:
    off, other = (Run.open(str(folder / name)) for name in ("off", "other"))
    check_alike([run, off, run])
    check_alike([run])
    line = "other and .*run cannot be in one figure: model.time_steps is 4 and 2; give runs that differ in their"
    with pytest.raises(RunError, match=line):
        check_alike([run, other])
    with pytest.raises(RunError, match="model.segments is 1 and 2"):
        check_alike([run, off], frozenset())
    check_alike([run, other], frozenset({"time_steps"}))


def test_runs_of_one_label_are_repetitions(folder: Path, run: Run) -> None:
    off = Run.open(str(folder / "off"))
    found = grouped([off, run, off])
    assert {label: len(same) for label, same in found.items()} == {"no feedback": 2, "feedback (concat)": 1}
    assert [*found] == ["no feedback", "feedback (concat)"]
