"""Training, and what becomes of what was trained."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from .. import config as configs
from ..errors import RunError, memory_errors
from ..jobs.waiting import waits, waits_here
from ..run.records import to_json
from .arguments import ConfigFile, Overrides, count, run_first
from .pages import Group

group = Group("Train")


@group.add("Train on this machine.")
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    processes: Annotated[int | None, count("Processes on this machine. [default: one a GPU, or 1]")] = None,
) -> None:
    """Train on this machine; the same command goes on where a killed run was."""
    waits("loading PyTorch")  # which settings may need that are checked first
    asked = configs.load(config, overrides or ())
    from ..config.overrides import for_training

    for_training(asked, overrides or ())
    if processes and "train.processes" in configs.named(overrides or ()) and processes != asked.train.processes:
        raise RunError(f"--processes {processes} and train.processes={asked.train.processes} differ; give one of them")
    from ..jobs.processes import start
    from ..run.clock import process_began

    raise typer.Exit(start(asked, processes or asked.train.processes, process_began()))


_SMALLER, _AGAIN = "set a lower train.micro_batch", "export it again with a smaller --batch"


@group.add("Accuracy of a run's weights on the test set.", "eval")
def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run folder, one step of it (RUN@STEP), or a file of weights.", callback=run_first
        ),
    ],
    overrides: Overrides = None,
    corruptions: Annotated[
        str,
        typer.Option(metavar="KINDS", help="Also on corrupted pictures: all, or fog,snow,...; a line for each."),
    ] = "",
    corrupted_set: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of CIFAR-10-C, CIFAR-100-C or ImageNet-C. [default: they are made here]"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a page with each class's accuracy and the confusion matrix."),
    ] = None,
) -> None:
    """Evaluate a run's newest checkpoint on the test set; prints a line of JSON. With more than 5 classes `top5` is the
    share of samples whose class is among the 5 likeliest."""
    waits_here("loading PyTorch, the weights and the test set")
    from ..results import report as reports
    from ..train.tally import Tally

    if report is not None:
        reports.check(report)
    tally = Tally()
    if run.is_file():
        from tdformer.digest import PROGRAMS

        from ..results.export import evaluate_export

        if corruptions or corrupted_set:
            raise RunError("--corruptions needs a run folder or a checkpoint, not an exported file")
        with memory_errors(_AGAIN if run.suffix in PROGRAMS else _SMALLER):
            row = evaluate_export(run, overrides or [], tally)
        print(json.dumps(row))
        if report is not None:
            reports.write(report, row, tally)
        return
    from ..train.evaluate import evaluate_run

    kinds = corruptions or ("all" if corrupted_set else "")
    with memory_errors(_SMALLER):
        rows = evaluate_run(run, overrides or [], kinds.split(",") if kinds else [], corrupted_set, tally)
        for number, row in enumerate(rows):
            print(json.dumps(row), flush=True)
            if report is not None and number == 0:
                reports.write(report, row, tally)


@group.add("What a model says of pictures of yours.")
def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run folder, one step of it (RUN@STEP), or a file of weights.",
            callback=run_first,
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Pictures, or recordings for a model of events; folders of them; then plugins=..., and settings that "
            "a file of weights does not say.",
        ),
    ],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="A line of JSON for each, with all logits and firing rates by layer."),
    ] = False,
    firing: Annotated[
        bool, typer.Option("--firing", help="Then the spikes per neuron and time step of each layer, over all of them.")
    ] = False,
) -> None:
    """Name the likeliest classes of pictures, which are seen as the test set is. Of one that cannot be read a line says
    so, the others go on, and the exit code is 2."""
    overrides = [word for word in images if "=" in word and not Path(word).exists()]
    files = [Path(word) for word in images if word not in overrides]
    waits_here("loading PyTorch and the weights")
    from tdformer.digest import PROGRAMS

    from ..results.predict import predict as rows

    faults: list[str] = []

    def fault(line: str) -> None:
        faults.append(line)
        print(f"error: {line}", file=sys.stderr, flush=True)

    count, rates = 0, Counter[str]()
    with memory_errors(_AGAIN if model.suffix in PROGRAMS else _SMALLER):
        for row in rows(model, files, overrides, firing or (None if as_json else False), fault):
            count += 1
            rates.update(row.get("firing", {}))
            named = ", ".join(f"{one['class']} {one['probability']:.1%}" for one in row["top"])
            image = row["image"].encode(errors="surrogateescape").decode(errors="replace")
            print(to_json(row) if as_json else f"{image}: {named}", flush=True)
    if firing and count and not as_json:
        print(f"\nspikes per neuron and time step, {count} image{'s' * (count > 1)}")
        for layer, total in rates.items():
            print(f"{total / count:.4f}  {layer}")
    raise typer.Exit(2 if faults else 0)


@group.add("Write a run's model as one file.")
def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, one step of it (RUN@STEP), or a file of weights.")
    ],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Ends with .safetensors, .pt, .pt2 or .onnx.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="plugins=..., or what a file of weights does not say."),
    ] = None,
    batch: Annotated[int | None, count("Images that a .pt2 or .onnx program takes at once. [default: 1]")] = None,
) -> None:
    """Write a checkpoint's model as one file: safetensors, a plain state dict, a torch.export program or an ONNX graph;
    beside it FILE.json and the model card FILE.md."""
    waits_here("loading PyTorch and the weights")
    from ..results.export import export as write

    if batch and out.suffix in (".safetensors", ".pt"):
        raise RunError(
            f"--batch is of .pt2 and .onnx programs, and weights such as {out.name} take any batch; leave it out"
        )
    print(write(run, out, batch or 1, overrides or ()))
