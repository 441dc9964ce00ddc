"""The data: raw files as shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..config.words import either
from ..errors import RunError
from .arguments import ConfigFile, Overrides, count, data_sets
from .pages import Group

group = Group("Data")


@group.add("Write a configuration's shards where they are missing.")
def prepare(config: ConfigFile, overrides: Overrides = None) -> None:
    """Make sure that a configuration's data is there; prints the configuration to train."""
    from ..build.shards import prepare as make

    print(make(config, overrides or ()))


class _Shard(TyperGroup):
    """The word `write` may be left out: what is no command is a data set's name, or an option before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = not args or args[0] in (*self.commands, "--help")
        return super().parse_args(ctx, args if own else ["write", *args])


shards = group.below(
    "shard",
    "Write a data set as shards, or verify them.",
    "Write or verify shards; `tdformer shard DATASET FOLDER` writes.",
    _Shard,
)


@shards.add("Write a data set as shards.", "write")
def write(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="A name, such as imagenet; folder: any pictures.", autocompletion=data_sets
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the shards go.")],
    source: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Of the raw files.")] = None,
    val_share: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of a folder without val or test: how much to hold back, such as 0.1."),
    ] = None,
    samples_per_shard: Annotated[int | None, count("At most so many. [default: 10000]")] = None,
    max_pixels: Annotated[
        int | None, count("Height x width beyond which a picture is refused unread. [default: 100000000]")
    ] = None,
    processes: Annotated[int | None, count("That write at once. [default: one a core]")] = None,
    to: Annotated[str | None, typer.Option(metavar="FORMAT", help="ffcv: their copy as FFCV files.")] = None,
    stored: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="With --to ffcv: pixels (no decoding, more disk) or files. [default: pixels]"
        ),
    ] = None,
    max_side: Annotated[int | None, count("With --to ffcv: pixels of the longer side.")] = None,
) -> None:
    """Write a data set as WebDataset shards with an index and checksums; interrupted, the same command goes on."""
    from pipelines.store.forms import COPIES
    from pipelines.store.stored import PIXELS
    from pipelines.views.pictures import MAX_PIXELS

    from ..build.shards import splits, write_ffcv, write_shards

    if to not in (None, *COPIES):
        raise RunError(f"--to is {to}; choose {either(COPIES)}")
    if to is None and (stored or max_side):
        raise RunError(f"--{'stored' if stored else 'max-side'} is of FFCV files; add --to ffcv, or leave it out")
    many, there = processes or len(os.sched_getaffinity(0)), to is not None and bool(splits(folder))
    if val_share is not None and not 0 < val_share < 1:
        raise RunError(f"--val-share is {val_share:g}; it is a share, above 0 and below 1, such as 0.1")
    of_shards = {
        "--source": source,
        "--val-share": val_share,
        "--samples-per-shard": samples_per_shard,
        "--max-pixels": max_pixels,
    }
    if there and (given := next((option for option, value in of_shards.items() if value), None)):
        raise RunError(f"{given} is of shards, and {folder} has them: --to ffcv copies those; leave it out")
    if not there:
        write_shards(dataset, folder, source, samples_per_shard or 10_000, many, max_pixels or MAX_PIXELS, val_share)
    if to is not None:
        write_ffcv(folder, stored or PIXELS.name, max_side, many)


@shards.add("Compare every sample with its checksum.")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder given to `tdformer shard`.")],
) -> None:
    """Read every sample of every shard and compare it with its checksum."""
    from ..build.shards import verify_shards

    for line in verify_shards(folder):
        print(line)
