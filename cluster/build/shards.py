"""The data of a configuration, as shards that are whole: written where they are missing, checked where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.classes import mapping
from pipelines.errors import DataError, NotHere
from pipelines.raw import catalog
from pipelines.remote import Remote, is_remote
from pipelines.store import beton_writer, index, tar_writer
from pipelines.store.beton import BetonDataset
from pipelines.store.forms import FFCV, Form
from pipelines.store.index import Index, class_names
from pipelines.store.stored import PIXELS
from pipelines.store.tars import TarDataset
from pipelines.views.pictures import MAX_PIXELS

from .. import config as configs
from ..config.overrides import for_preparation
from ..errors import RunError, disk_errors
from ..run.lock import exclusive
from ..run.progress import progress, say
from .data import check_dataset, training_data


def prepare(path: Path, overrides: Sequence[str] = ()) -> Path:
    """Make sure that the shards of the configuration or recipe `path` are there; returns the file to train.

    That is `path`, or, where raw files that nobody has named a place for are not on this machine, the recipe beside it
    for the data set that stands in for theirs. Raises RunError or DataError for shards that are damaged or of another
    data set.
    """
    path = configs.recipe(path)
    config = configs.load(path, overrides)
    for_preparation(overrides)
    data = config.data
    if isinstance(folder := data.folder, Remote):  # not ours to write
        training_data(config)
        return path
    source = Path(data.source) if data.source else None
    try:
        _ensure(data.dataset, folder, source, data.form)
    except NotHere as e:
        other_set = catalog.get(data.dataset).instead
        instead = path.with_name(f"{other_set}.yaml")
        chosen = other_set is None or "data.dataset" in configs.named(overrides)  # nothing else will do
        if chosen or splits(folder) or not instead.is_file():
            raise
        say(f"{e}\n{data.dataset} is not on this machine: taking {other_set} instead ({instead})")
        other = configs.load(instead, overrides).data
        assert isinstance(other.folder, Path)
        _ensure(other.dataset, other.folder, None, other.form)
        return instead
    return path


def write_shards(
    dataset: str,
    folder: Path,
    source: Path | None = None,
    samples_per_shard: int = 10_000,
    processes: int = 1,
    max_pixels: int = MAX_PIXELS,
    val_share: float | None = None,
) -> None:
    """Write every split of a data set, in place of its shards that are there; interrupted, the same call goes on. Says
    what was written, and what lies at the source and was not read. val_share: of a folder that is not split, how much
    is held back to test on.

    Raises DataError; nothing half-written is ever seen, and what we did not write is not touched.
    """
    _local(folder)
    known = catalog.get(dataset)
    if val_share is not None:
        known = known.held_back(val_share)
    if source is not None and not source.is_dir():
        raise DataError(f"{source}: no such folder to read {dataset} from")
    opened = {split: known.open(split, source) for split in known.splits}
    for split in known.splits:
        tar_writer.check(known, opened[split], split, folder, source)
    faults: list[str] = []
    with exclusive(folder, wait=600), disk_errors(folder):
        for split in known.splits:
            try:
                where = tar_writer.write(
                    known,
                    split,
                    folder,
                    source=source,
                    opened=opened[split],
                    samples_per_shard=samples_per_shard,
                    max_pixels=max_pixels,
                    processes=processes,
                    progress=progress(split, "samples"),
                )
            except tar_writer.WrongSamples as error:  # the next split may have some as well
                faults += error.faults
                continue
            say(f"wrote {where}: {len(TarDataset(where)):,} samples")
            if skipped := getattr(opened[split], "skipped", None):
                say(f"not in {where}: {skipped}")
    if faults:
        raise tar_writer.WrongSamples(faults)


def write_ffcv(folder: Path, stored: str = PIXELS.name, max_side: int | None = None, processes: int = 1) -> None:
    """Write the FFCV copy of every split in `folder`, in place of what is there; see `beton_writer.write`. Raises
    DataError."""
    for split in splits(folder):
        beton_writer.check(split)
    with exclusive(folder, wait=600), disk_errors(folder):
        for split in splits(folder):
            where = beton_writer.write(
                split,
                stored=stored,
                max_side=max_side,
                processes=processes,
                progress=progress(f"{split.name} to ffcv", "samples"),
            )
            BetonDataset(split, progress(f"{split.name}, checking", "bytes"))
            say(f"wrote {where}: {where.stat().st_size / 2**20:,.0f} MiB")


def verify_shards(folder: Path) -> Iterator[str]:
    """Read all shards in `folder`, which holds splits or is one; a line for each split. Raises DataError."""
    _local(folder)
    found = splits(folder)
    if not found:
        raise RunError(f"{folder} holds no shards; give the folder that `tdformer shard` wrote")
    _check_classes(found)
    for split in found:
        yield f"{split}: {tar_writer.verify(split):,} samples, as in the index"
        if FFCV.missing(split) is None:
            copy = BetonDataset(split)
            copy.verify(again=True)
            yield f"{copy.path}: {len(copy):,} samples, as it was written"


def _ensure(dataset: str, folder: Path, source: Path | None, form: Form) -> None:
    known = catalog.get(dataset)
    if not all((folder / split).exists() for split in known.splits):
        write_shards(dataset, folder, source)
    if any(form.missing(folder / split) for split in known.splits):
        write_ffcv(folder)
    for split in known.splits:
        check_dataset(dataset, Index(folder / split) if form.copy else TarDataset(folder / split))
    _check_classes([folder / split for split in known.splits])
    say(f"{dataset} is in {folder}")


def _check_classes(splits: Sequence[Path]) -> None:
    """Raises DataError where the splits of a data set have other classes than its first, which is `train`."""
    first, *rest = sorted(splits, key=lambda split: split.name != "train")
    for other in rest:
        mapping(class_names(first), class_names(other), str(first), str(other))


def _local(folder: Path) -> None:
    if is_remote(str(folder)):
        raise RunError(f"{folder} is not a local folder; write and verify shards on a disk, then copy them")


def splits(folder: Path) -> list[Path]:
    """The folders of shards in `folder`, or itself."""
    return [p.parent for p in sorted([*folder.glob(index.INDEX), *folder.glob(f"[!.]*/{index.INDEX}")])]
