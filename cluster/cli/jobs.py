"""Runs as jobs: starting, watching and ending them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .. import config as configs
from ..errors import RunError
from .arguments import ConfigFile, Overrides, RunPath, Site, count, gpu_names
from .pages import Group

group = Group("Jobs")


@group.add("Memory, time and cost of a run, before it is queued.")
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    nodes: Annotated[int, count("Machines.")] = 1,
    gpus_per_node: Annotated[int | None, count("GPUs on each. [default: 1 with --gpu, else 0]", least=0)] = None,
    processes_per_node: Annotated[int | None, count("Processes on each. [default: one a GPU, or 1]")] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What GPUs they are, such as h100. [default: site.gpu]", autocompletion=gpu_names
        ),
    ] = None,
    price: Annotated[float | None, typer.Option(metavar="X", min=0, help="Of a GPU-hour.")] = None,
    mtbf: Annotated[
        float | None,
        typer.Option(metavar="HOURS", min=0.01, help="Mean time between failures of one GPU, or of a machine without."),
    ] = None,
    images: Annotated[int | None, count("Training images, of data that are not there yet.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the operators of a step on this machine's CPU, with all its cores.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """What a run will take: the memory of a process, the seconds of a step, hours, checkpoints, disk; each figure with
    its source. Exit code 2 where it does not fit."""
    asked = configs.load(config, overrides or ())
    from ..config.shape import Shape
    from ..plan.chips import chip

    named = gpu or (None if measure or gpus_per_node == 0 else asked.site.gpu)
    kind = None if named is None else chip(named)
    shape = Shape.of(nodes, processes_per_node, int(kind is not None) if gpus_per_node is None else gpus_per_node)
    if measure and (shape.gpus or nodes > 1):
        raise RunError("--measure times the CPU of this machine; leave it out, or --gpu, --gpus-per-node and --nodes")
    if kind is not None and not shape.gpus:
        raise RunError(f"--gpu {gpu} is of GPUs, and --gpus-per-node is 0; leave one out")
    from ..jobs.waiting import waits_here

    waits_here("timing operators" if measure else "counting the work of a step")
    from ..plan.absent import setup_of
    from ..plan.predict import Terms, predict

    setup = setup_of(asked, shape.world, images)
    machine = None
    if measure:
        from ..jobs.calibration import machine as timed

        machine = timed(setup, images)
    found = predict(setup, shape, kind, machine, Terms(price, mtbf))
    print(json.dumps(found.as_json(), indent=1) if as_json else found.text())
    raise typer.Exit(0 if found.fits else 2)


@group.add("Train as a job, on Slurm or in the background.")
def launch(
    config: ConfigFile,
    overrides: Overrides = None,
    nodes: Annotated[int, count("Machines.")] = 1,
    gpus_per_node: Annotated[int, count("GPUs on each, one process a GPU.", least=0)] = 0,
    processes_per_node: Annotated[int | None, count("Processes on each. [default: one a GPU, or 1]")] = None,
    site: Site = None,
    where: Annotated[
        str, typer.Option(metavar="PLACE", help="slurm, local (this machine), or auto: Slurm where it is.")
    ] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the job, queue nothing.")] = False,
) -> None:
    """Train as a job: on Slurm, or in the background on this machine."""
    if where not in ("auto", "slurm", "local"):
        raise RunError(f"--where is {where}; choose auto, slurm or local")
    from ..jobs.waiting import waits

    if not dry_run:
        waits("checking settings, data, model and memory")
    asked = configs.load(config, overrides or (), site)
    from ..config.overrides import for_training
    from ..config.shape import Shape
    from ..jobs.launch import launch as submit
    from ..jobs.launch import on_slurm

    for_training(asked, overrides or (), launched=True, slurm=on_slurm(where))
    if site and not on_slurm(where):
        raise RunError(f"--site {site} is for Slurm, and this run is on this machine; leave it out")
    shape = Shape.of(nodes, processes_per_node, gpus_per_node)
    raise typer.Exit(submit(asked, shape, where, dry_run))


@group.add("Go on with a run that was stopped or failed.")
def resume(run: RunPath, overrides: Overrides = None, site: Site = None) -> None:
    """Launch a run again that was stopped or failed; it goes on from its newest checkpoint."""
    from ..jobs.launch import resume as again
    from ..jobs.waiting import waits

    waits("checking data, model and memory")
    raise typer.Exit(again(run, overrides or [], site))


@group.add("Let a job save and end.")
def stop(run: RunPath) -> None:
    """End a launched run's job; it saves first, and `tdformer resume` goes on."""
    from ..jobs import status as jobs

    job = jobs.existing(run)
    if job.stop():
        print(f"asked job {job.id} to save and end; tdformer status {run.parent}")
    else:
        print(f"job {job.id} has ended")


@group.add("What a job has printed.")
def logs(
    run: RunPath,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")] = False,
    rank: Annotated[int, count("Whose output.", least=0)] = 0,
) -> None:
    """Print what a launched run's process has written."""
    from ..jobs import status as jobs

    for text in jobs.follow(jobs.existing(run), rank, follow):
        print(text, end="", flush=True)


@group.add("A table of the runs.")
def status(
    runs: Annotated[Path, typer.Argument(metavar="RUNS_DIR", help="The folder of the runs, or one run.")] = Path(
        "runs"
    ),
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Renew the table every 5 seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a run, for programs.")] = False,
) -> None:
    """A table of the runs: state, job, step, loss, speed, restarts, time left, newest checkpoint. Of one run, and with
    --json, also the goodput: the share of its devices' time that went into new steps, and what the rest went into."""
    from ..jobs import status as jobs

    if not runs.is_dir():
        raise RunError(f"{runs}: no such folder; it appears with the first run, or give the folder of yours")
    if as_json and watch:
        raise RunError("--watch renews the table, and --json is no table; choose one")
    if as_json:
        from ..run.records import to_json

        for row in jobs.table(runs, goodput=True):
            print(to_json(row))
        return
    jobs.show(runs, watch)


@group.add("Send to wandb what was logged offline.")
def sync(runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")]) -> None:
    """Send to wandb what runs logged offline, each as one run."""
    from ..run.folder import RunFolder
    from ..run.wandb_log import sync as send

    for run in runs:
        print(send(RunFolder(run)))
