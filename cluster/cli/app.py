"""The `tdformer` command. Heavy imports wait until a command needs them, so that help and errors come at once."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipelines.errors import too_many_files

from .. import config as configs
from ..errors import NO_SPACE, NOT_ALLOWED, RunError, disk_errors, memory_errors, no_memory, user_errors

app = typer.Typer(
    help="Train and evaluate TDFormer. Settings are given as key=value; `tdformer config show` lists them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at configurations.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, or a recipe such as quickstart.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as train.epochs=2.")
]


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine. [default: one a GPU, or 1]")
    ] = None,
) -> None:
    """Train on this machine; the same command goes on where a killed run was."""
    asked = configs.load(config, overrides or ())
    from ..config.overrides import for_training
    from ..jobs.processes import main as run

    for_training(asked, overrides or ())
    if processes and "train.processes" in configs.named(overrides or ()) and processes != asked.train.processes:
        raise RunError(f"--processes {processes} and train.processes={asked.train.processes} differ; give one of them")
    raise typer.Exit(run(asked, processes or asked.train.processes))


@app.command()
def launch(
    config: ConfigFile,
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=0, help="GPUs on each, one process a GPU.")] = 0,
    processes_per_node: Annotated[
        int | None, typer.Option(min=1, help="Processes on each. [default: one a GPU, or 1]")
    ] = None,
    site: Annotated[Path | None, typer.Option(help="A YAML file with the keys of the section site.")] = None,
    where: Annotated[str, typer.Option(help="slurm, local (this machine), or auto: Slurm where it is.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the job, queue nothing.")] = False,
) -> None:
    """Train as a job: on Slurm, or in the background on this machine."""
    if where not in ("auto", "slurm", "local"):
        raise RunError(f"--where is {where}; choose auto, slurm or local")
    asked = configs.load(config, overrides or (), site)
    from ..config.overrides import for_training
    from ..jobs.launch import Shape, on_slurm
    from ..jobs.launch import launch as submit

    for_training(asked, overrides or (), launched=True, slurm=on_slurm(where))
    if site and not on_slurm(where):
        raise RunError(f"--site {site} is for Slurm, and this run is on this machine; leave it out")
    shape = Shape(nodes, processes_per_node or gpus_per_node or 1, gpus_per_node)
    raise typer.Exit(submit(asked, shape, where, dry_run))


@app.command()
def resume(
    run: RunPath,
    overrides: Overrides = None,
    site: Annotated[Path | None, typer.Option(help="A YAML file with the keys of the section site.")] = None,
) -> None:
    """Launch a run again that was stopped or failed; it goes on from its newest checkpoint."""
    from ..jobs.launch import resume as again

    raise typer.Exit(again(run, overrides or [], site))


@app.command()
def stop(run: RunPath) -> None:
    """End a launched run's job; it saves first, and `tdformer resume` goes on."""
    from ..jobs import status as jobs

    job = jobs.existing(run)
    if job.stop():
        print(f"asked job {job.id} to save and end; tdformer status {run.parent}")
    else:
        print(f"job {job.id} has ended")


@app.command()
def logs(
    run: RunPath,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")] = False,
    rank: Annotated[int, typer.Option(min=0, help="Whose output.")] = 0,
) -> None:
    """Print what a launched run's process has written."""
    from ..jobs import status as jobs

    for text in jobs.follow(jobs.existing(run), rank, follow):
        print(text, end="", flush=True)


@app.command()
def status(
    runs: Annotated[Path, typer.Argument(metavar="[RUNS_DIR]", help="The folder of the runs, or one run.")] = Path(
        "runs"
    ),
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Renew the table every 5 seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a run.")] = False,
) -> None:
    """A table of the runs: state, job, step, loss, speed, restarts, time left, newest checkpoint."""
    from ..jobs import status as jobs

    if not runs.is_dir():
        raise RunError(f"{runs}: no such folder")
    if as_json and watch:
        raise RunError("--watch renews the table, and --json is no table; choose one")
    if as_json:
        for row in jobs.table(runs):
            print(json.dumps(row))
        return
    jobs.show(runs, watch)


_SMALLER = "set a lower train.micro_batch"


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, a checkpoint in it, or an exported file.")],
    overrides: Overrides = None,
    corruptions: Annotated[
        str, typer.Option(help="Also on corrupted pictures: kinds such as fog,snow, or all; a line for each.")
    ] = "",
    corrupted_set: Annotated[
        Path | None,
        typer.Option(help="Folder of CIFAR-10-C, CIFAR-100-C or ImageNet-C. [default: they are made here]"),
    ] = None,
) -> None:
    """Evaluate a run's newest checkpoint on the test set; prints a line of JSON."""
    if not run.exists():
        raise RunError(f"{run}: no such run folder, checkpoint or exported file")
    if run.is_file():
        from ..results.export import evaluate_export

        if corruptions or corrupted_set:
            raise RunError("--corruptions needs a run folder or a checkpoint, not an exported file")
        with memory_errors("export it again with a smaller --batch" if run.suffix == ".pt2" else _SMALLER):
            print(json.dumps(evaluate_export(run, overrides or [])))
        return
    from ..train.evaluate import evaluate_run

    kinds = corruptions or ("all" if corrupted_set else "")
    with memory_errors(_SMALLER):
        for row in evaluate_run(run, overrides or [], kinds.split(",") if kinds else [], corrupted_set):
            print(json.dumps(row), flush=True)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one checkpoint in it.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Ends with .safetensors, .pt or .pt2.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="plugins=..., of a run that has some.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images that a .pt2 program takes at once. [default: 1]")
    ] = None,
) -> None:
    """Write a checkpoint's model as one file: safetensors, a plain state dict, or a torch.export program."""
    from ..results.export import export as write

    if batch and out.suffix in (".safetensors", ".pt"):
        raise RunError(f"--batch is of .pt2 programs, and weights such as {out.name} take any batch; leave it out")
    print(write(run, out, batch or 1, overrides or ()))


@app.command()
def sync(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
) -> None:
    """Send to wandb what runs logged offline, each as one run."""
    from ..run.folder import RunFolder
    from ..run.monitor import sync as send

    for run in runs:
        print(send(RunFolder(run)))


@app.command()
def prepare(config: ConfigFile, overrides: Overrides = None) -> None:
    """Make sure that a configuration's data is there; prints the configuration to train."""
    from ..build.shards import prepare as make

    print(make(config, overrides or ()))


class _Shard(TyperGroup):
    """The word `write` may be left out: what is no command is a data set's name, or an option before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = not args or args[0] in (*self.commands, "--help")
        return super().parse_args(ctx, args if own else ["write", *args])


shard_app = typer.Typer(
    cls=_Shard,
    help="Write or verify shards; `tdformer shard DATASET FOLDER` writes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(shard_app, name="shard")


@shard_app.command("write")
def shard(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A name, such as imagenet; folder: any pictures.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the shards go.")],
    source: Annotated[Path | None, typer.Option(help="Folder of the raw files.")] = None,
    samples_per_shard: Annotated[int | None, typer.Option(min=1, help="[default: 10000]")] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Height x width beyond which a picture is refused unread. [default: 100000000]"),
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="That write at once. [default: one a core]")] = None,
    to: Annotated[str | None, typer.Option(help="ffcv: their copy as FFCV files.")] = None,
    stored: Annotated[
        str | None, typer.Option(help="With --to ffcv: pixels (no decoding, more disk) or files. [default: pixels]")
    ] = None,
    max_side: Annotated[int | None, typer.Option(min=1, help="With --to ffcv: pixels of the longer side.")] = None,
) -> None:
    """Write a data set as WebDataset shards with an index and checksums; interrupted, the same command goes on."""
    from pipelines.views.pictures import MAX_PIXELS

    from ..build.shards import splits, write_ffcv, write_shards

    if to not in (None, "ffcv"):
        raise RunError(f"--to is {to}; the one other format is ffcv")
    if to is None and (stored or max_side):
        raise RunError(f"--{'stored' if stored else 'max-side'} is of FFCV files; add --to ffcv, or leave it out")
    many, there = processes or len(os.sched_getaffinity(0)), to is not None and bool(splits(folder))
    of_shards = {"--source": source, "--samples-per-shard": samples_per_shard, "--max-pixels": max_pixels}
    if there and (given := next((option for option, value in of_shards.items() if value), None)):
        raise RunError(f"{given} is of shards, and {folder} has them: --to ffcv copies those; leave it out")
    if not there:
        write_shards(dataset, folder, source, samples_per_shard or 10_000, many, max_pixels or MAX_PIXELS)
    if to == "ffcv":
        write_ffcv(folder, stored or "pixels", max_side, many)


@shard_app.command("verify")
def shard_verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder given to `tdformer shard`.")],
) -> None:
    """Read every sample of every shard and compare it with its checksum."""
    from ..build.shards import verify_shards

    for line in verify_shards(folder):
        print(line)


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A published backbone's checkpoint.")],
    model: Annotated[str, typer.Option(help="The TDFormer to load it into, such as hst_10_768.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options, such as leaky_proj_lif=true.")
    ] = None,
) -> None:
    """Convert published weights to a TDFormer's; what feedback adds starts at zero."""
    if any(o.partition("=")[0].strip() == "name" for o in overrides or ()):
        raise RunError(f"name is what --model says, {model}; leave it out")
    options = configs.load(None, [f"model.{o}" for o in overrides or ()]).model.options()
    if not file.is_file():
        raise RunError(f"{file}: no such file")
    if not out.parent.is_dir():
        raise RunError(f"{out.parent}: no such folder to write {out.name} to")
    import tdformer
    from tdformer.pretrained import is_saved

    if out.exists() and not is_saved(out):
        raise RunError(f"{out} is there and of no earlier import; name another file, or remove that one")
    made = tdformer.create_model(model, **options)
    report = tdformer.load_pretrained(made, file)
    with disk_errors(out):
        tdformer.save_pretrained(made, out)
    print(f"{out}: {report.family} weights, {len(report.loaded)} loaded")
    if report.unread:
        print(f"  not read, since they are no tensors: {', '.join(report.unread)}")
    for title, names in (("skipped", report.skipped), ("new", report.fresh)):
        for name, reason in names.items():
            print(f"  {title} {name}: {reason}")


@config_app.command()
def show(
    # Not a Path, which would make one slash of two in a setting with a URL.
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="Without one: the defaults.")] = None,
    overrides: Overrides = None,
) -> None:
    """Print every setting of a configuration, as YAML."""
    given = list(overrides or ())
    if config is not None and "=" in config and not Path(config).exists():
        given.insert(0, config)
        config = None
    print(configs.to_yaml(configs.load(config, given)), end="")


def main() -> None:
    """The entry point. Exit codes: 0 done, 2 something the user can mend (one line), 130 interrupted."""
    try:
        app(args=[_at_home(word) for word in sys.argv[1:]])
    except Exception as e:
        line = _user_line(e)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _at_home(word: str) -> str:
    """`word` with the home folder for ~ also where the shell leaves it: in --site=~/mine.yaml, or in quotes."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + os.path.expanduser(value)


def _user_line(e: Exception) -> str | None:
    """The one line for an error that the user can mend, None for any other."""
    if isinstance(e, OSError) and e.errno in NO_SPACE:
        where = f" to write {e.filename}" if e.filename else ""
        return f"no space left{where}; free some and run the same command again"
    if os.strerror(errno.EMFILE) in str(e):  # libraries say it in words only
        return str(too_many_files("this process"))
    if isinstance(e, OSError) and e.errno in NOT_ALLOWED and e.filename:
        return f"{e.filename}: {e.strerror}"
    if (said := no_memory(e)) is not None:
        return f"{said}; free some, or run the same command on a machine with more"
    if not isinstance(e, RunError) and not isinstance(e, user_errors()):  # in this order: the second imports torch
        return None
    return " ".join(str(e).split())
