"""Runs as jobs: starting, watching and ending them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import config as configs
from ..errors import RunError
from .arguments import ConfigFile, Overrides, RunPath, Site, count
from .pages import Group

group = Group("Jobs")


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
    asked = configs.load(config, overrides or (), site)
    from ..config.overrides import for_training
    from ..config.shape import Shape
    from ..jobs.launch import launch as submit
    from ..jobs.launch import on_slurm
    from ..jobs.waiting import waits

    for_training(asked, overrides or (), launched=True, slurm=on_slurm(where))
    if site and not on_slurm(where):
        raise RunError(f"--site {site} is for Slurm, and this run is on this machine; leave it out")
    if not dry_run:
        waits("checking data, model and memory")
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
    """A table of the runs: state, job, step, loss, speed, restarts, time left, newest checkpoint."""
    from ..jobs import status as jobs

    if not runs.is_dir():
        raise RunError(f"{runs}: no such folder; it appears with the first run, or give the folder of yours")
    if as_json and watch:
        raise RunError("--watch renews the table, and --json is no table; choose one")
    if as_json:
        from ..run.records import to_json

        for row in jobs.table(runs):
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
