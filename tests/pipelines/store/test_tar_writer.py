"""Shards on disk: what is written, what opening refuses, what reading refuses."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import index_files
import numpy as np
import pytest
import webdataset as wds

from pipelines.errors import DamagedSample, DataError
from pipelines.raw import catalog
from pipelines.raw.source import Dataset
from pipelines.store import index
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset

DIGITS = catalog.get("digits")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def flip_byte(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)


def test_every_sample_comes_back_by_number(data: TarDataset):
    samples = DIGITS.open("test")
    assert len(data) == len(samples) == 360
    assert [data.read(i) for i in range(360)] == [(samples[i].content, samples[i].label) for i in range(360)]
    images, labels = DIGITS.load("test", None)
    assert np.array_equal(np.stack([data.image(i) for i in range(len(data))]), images)
    assert np.array_equal(data.labels, labels)
    assert (data.classes, data.shape) == (10, (1, 8, 8))
    assert (tuple(data.mean), tuple(data.std)) == (DIGITS.mean, DIGITS.std)


def test_webdataset_itself_reads_the_same_samples(written: Path, data: TarDataset):
    urls = [str(path) for path in data.paths]
    assert len(urls) == 4
    samples = list(wds.WebDataset(urls, shardshuffle=False))
    assert [(s["png"], int(s["cls"])) for s in samples] == [data.read(i) for i in range(len(data))]


def test_the_same_samples_give_the_same_bytes(written: Path, tmp_path: Path):
    again = shards.write(DIGITS, "test", tmp_path, samples_per_shard=100)
    assert files(again) == files(written)
    with tarfile.open(again / "test-000000.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uname, member.gname, member.mode) == (0, "0", "0", 0o444)
            assert not member.pax_headers  # an extended header would double the size of small pictures


def test_the_digest_depends_on_labels_and_pictures(written: Path, tmp_path: Path):
    digests = {TarDataset(written).digest}
    for what in (0, 1):

        def load(split, source, what=what):
            arrays = DIGITS.load(split, source)
            arrays[what].flat[9] ^= 1
            return arrays

        folder = shards.write(replace(DIGITS, load=load), "test", tmp_path / str(what), samples_per_shard=100)
        digests.add(TarDataset(folder).digest)
    assert len(digests) == 3


def test_writing_again_replaces_and_leaves_nothing_else(written: Path, tmp_path: Path):
    counted: list[tuple[int, int]] = []
    shards.write(DIGITS, "test", tmp_path, samples_per_shard=50)
    shards.write(DIGITS, "test", tmp_path, samples_per_shard=100, progress=lambda *of: counted.append(of))
    assert counted == [(100, 360), (200, 360), (300, 360), (360, 360)]
    assert [path.name for path in tmp_path.iterdir()] == ["test"]
    assert files(tmp_path / "test") == files(written)


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    """At the second shard: no space (as the disk says it), a wrong label, a wrong picture, nothing at all."""

    def full(samples: int, _: int) -> None:
        if samples > 100:
            raise OSError(errno.ENOSPC, "No space left on device")

    def changed(**last) -> Dataset:
        def load(split, source):
            images, labels = DIGITS.load(split, source)
            labels[150] = last.get("label", labels[150])
            return images[:, :, : last.get("rows", 8)][: last.get("count")], labels[: last.get("count")]

        return replace(DIGITS, load=load)

    before = files(shards.write(DIGITS, "test", tmp_path))
    for dataset, progress, expected in [
        (DIGITS, full, "no space left to write the shards in .*test"),
        (changed(label=10), None, "digits test sample 00000150 has label 10, outside 0..9; fix the source"),
        (changed(label=-1), None, "has label -1, outside 0..9"),
        (
            changed(rows=7),
            None,
            r"360 samples are wrong: .* 00000000 decodes to \[1, 7, 8\] instead of \[1, 8, 8\];",
        ),
        (changed(count=0), None, "digits test has no samples"),
    ]:
        with pytest.raises(DataError, match=expected):
            shards.write(dataset, "test", tmp_path, samples_per_shard=100, progress=progress)
        shutil.rmtree(tmp_path / ".test.tmp", ignore_errors=True)
        assert [path.name for path in tmp_path.iterdir()] == ["test"]
        assert files(tmp_path / "test") == before


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the shards in .*file/test"):
        shards.write(DIGITS, "test", tmp_path / "file")


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path):
    for name in (".test.tmp", ".test.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test-000000.tar").write_bytes(b"half")
        (tmp_path / name / "index.json").write_text('{"format": 2, "dataset": "digits", "split": "test"}')
    shards.write(DIGITS, "test", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test"]


def test_shards_are_known_by_either_file_of_their_index_and_go_with_their_copy(written: Path, copy: Path):
    root, folder = copy.parent, copy.rename(copy.with_name("test"))
    facts = {"digest": "", "bytes": 1, "stored": "files", "crc32": np.zeros(1, np.uint32)}
    for damage in (
        lambda: (folder / index.INDEX).write_text("{"),
        lambda: (folder / index.TABLE).unlink(),
        lambda: np.savez(folder / "test.beton.npz", **facts),
    ):
        damage()
        (folder / ".test.beton.0a1b2c3d.tmp").write_text("left by a killed writer")
        if (folder / "test.beton.npz").exists():
            (folder / "test.beton").write_text("a copy")
            (folder / ".test.beton.whole").write_text('{"inode": 1, "bytes": 6, "changed": 1}')
        shards.write(DIGITS, "test", root, samples_per_shard=100)
        assert files(folder) == files(written) and [path.name for path in root.iterdir()] == ["test"]
    for name in (index.INDEX, index.TABLE):
        (folder / name).unlink()
    before = files(folder)
    with pytest.raises(DataError, match="holds test-000000.tar and 3 more, not written by tdformer"):
        shards.write(DIGITS, "test", root)
    assert files(folder) == before


def test_what_is_put_there_meanwhile_stays(written: Path, copy: Path):
    root, folder = copy.parent, copy.rename(copy.with_name("test"))

    def put(done: int, of: int) -> None:
        (folder / "mine").write_text("mine")

    before = files(folder)
    with pytest.raises(DataError, match="test holds mine, not written by tdformer"):
        shards.write(DIGITS, "test", root, samples_per_shard=50, progress=put)
    assert files(folder) == before | {"mine": b"mine"}
    (folder / "mine").unlink()
    assert len(files(shards.write(DIGITS, "test", root, samples_per_shard=50))) == 8 + 2


def relabel(folder: Path) -> None:
    """An index that is consistent in itself, with a label that no class has."""
    with np.load(folder / index.TABLE) as table:
        columns = dict(table)
    columns["label"][7] = 10
    np.savez(folder / index.TABLE, allow_pickle=False, **columns)
    index_files.edit(folder, columns=index.table_digest(columns))


def cut(path: Path, where: Callable[[int], int]) -> None:
    os.truncate(path, where(path.stat().st_size))


def member_end(path: Path) -> int:
    """Where the tenth member begins: a tar cut there looks whole to whoever reads it in turn."""
    with tarfile.open(path) as tar:
        return tar.getmembers()[9].offset


@pytest.mark.parametrize("stale", ["index", "shards"])
def test_an_index_and_shards_of_different_writes_are_not_taken_for_one_set(copy: Path, tmp_path: Path, stale: str):
    """The shards have the same sizes, so only the checksum of each sample can tell."""

    def backwards(split, source):
        images, labels = DIGITS.load(split, source)
        return images[::-1], labels[::-1]

    other = shards.write(replace(DIGITS, load=backwards), "test", tmp_path / "other", samples_per_shard=100)
    for name in [index.INDEX, index.TABLE] if stale == "shards" else [path.name for path in copy.glob("*.tar")]:
        shutil.copy(other / name, copy / name)
    data = TarDataset(copy)
    for i in range(len(data)):
        with pytest.raises(DataError, match=f"sample {i} is damaged"):
            data.read(i)
    with pytest.raises(DataError, match=r"test-000000.tar is damaged \(first at sample 0\)"):
        shards.verify(copy)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "index.json").unlink(), "index.json is missing"),
        (lambda f: (f / "index.npz").unlink(), "index.npz is missing"),
        (lambda f: (f / "index.json").write_text("{"), "cannot be read (JSONDecodeError)"),
        (lambda f: (f / "index.json").write_text("[]"), "cannot be read (TypeError)"),
        (lambda f: (f / "index.json").write_text("{}"), "cannot be read (KeyError)"),
        (lambda f: (f / "index.npz").write_bytes(b"PK\3\4 no archive"), "cannot be read (BadZipFile)"),
        (lambda f: (f / "index.npz").write_bytes(b""), "cannot be read (EOFError)"),
        (lambda f: index_files.edit(f, columns="0" * 64), "index.npz does not match index.json"),
        (lambda f: index_files.edit(f, count=359), "index.npz does not match index.json"),
        (lambda f: index_files.edit(f, std=[0.0]), "cannot be read (ValueError)"),
        (lambda f: index_files.edit(f, format=1), "index.json has format 1, not 3"),
        (lambda f: (f / "test-000002.tar").unlink(), "test-000002.tar is missing"),
        (lambda f: (f / "test-000002.tar").write_bytes(b"short"), "test-000002.tar has 5 bytes instead of"),
        (lambda f: cut(f / "test-000002.tar", lambda size: size // 2), "test-000002.tar has "),
        (lambda f: cut(f / "test-000002.tar", lambda size: member_end(f / "test-000002.tar")), "test-000002.tar has "),
        (relabel, "sample 7 has label 10, outside 0..9"),
    ],
)
def test_opening_refuses_in_one_line(copy: Path, damage, expected: str):
    TarDataset(copy)
    damage(copy)
    with pytest.raises(DataError, match=re.escape(expected)) as error:
        TarDataset(copy)
    assert str(copy) in str(error.value) and "write the shards again" in str(error.value)
    assert "\n" not in str(error.value)


def test_reading_names_the_damaged_sample_and_spares_the_others(copy: Path):
    data = TarDataset(copy)
    flip_byte(copy / "test-000001.tar", int(data.table["offset"][123]) + 30)
    data.read(122), data.read(124)
    with pytest.raises(DataError, match="test-000001.tar: sample 123 is damaged .*; write the shards again"):
        data.read(123)
    with pytest.raises(DataError, match=r"test-000001.tar is damaged \(first at sample 123\)"):
        shards.verify(copy)


def test_a_shard_that_goes_away_while_it_is_read(copy: Path):
    data = TarDataset(copy)
    data.read(0)
    (copy / "test-000000.tar").write_bytes(b"")
    (copy / "test-000001.tar").unlink()
    with pytest.raises(DataError, match="sample 0 is damaged"):
        data.read(0)
    with pytest.raises(DataError, match="sample 100 cannot be read"):
        data.read(100)


def test_a_whole_sample_that_is_no_picture(copy: Path):
    """Its checksum holds, so only decoding can tell."""
    with np.load(copy / index.TABLE) as table:
        columns = dict(table)
    columns["size"][5] -= 30
    content = (copy / "test-000000.tar").read_bytes()
    part = content[columns["offset"][5] :][: columns["size"][5]]
    columns["crc32"][5] = shards.zlib.crc32(part)
    np.savez(copy / index.TABLE, allow_pickle=False, **columns)
    index_files.edit(copy, columns=index.table_digest(columns))
    with pytest.raises(DataError, match="test-000000.tar: sample 5 does not decode as a picture .*write the shards"):
        TarDataset(copy).image(5)


@contextmanager
def most_open_files(limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_open_files_are_bounded_and_those_read_last_stay_open(tmp_path: Path, monkeypatch):
    """90 shards, and 80 files that the process may open."""
    folder = shards.write(DIGITS, "test", tmp_path, samples_per_shard=4)
    with most_open_files(80):
        data = TarDataset(folder)
    assert len(data.paths) == 90 and data.most_open == 20
    opened: list[int] = []
    monkeypatch.setattr(data, "_open", lambda shard, how=data._open: opened.append(shard) or how(shard))
    before = len(os.listdir("/proc/self/fd"))
    whole = [data.read(i) for i in range(360)]
    assert opened == list(range(90)) and len(os.listdir("/proc/self/fd")) == before + 20
    recent = range(280, 360)
    assert [data.read(i) for i in recent] == whole[280:] and len(opened) == 90
    data.read(0), data.read(284), data.read(280)
    assert opened[90:] == [0, 70], "what was read longest ago was closed"


def test_too_many_open_files_are_no_damage(copy: Path):
    data = TarDataset(copy)
    with most_open_files(3), pytest.raises(DataError, match="sample 0: too many open files.*is 3: ulimit -n") as error:
        data.read(0)
    assert not isinstance(error.value, DamagedSample)
    data.read(0)


def test_verify_reads_everything(copy: Path):
    assert shards.verify(copy) == 360
    flip_byte(copy / "test-000003.tar", 10)  # in a header, which no sample's checksum covers
    with pytest.raises(DataError, match="test-000003.tar is damaged; write the shards again"):
        shards.verify(copy)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_what_this_one_has_open(data: TarDataset, method: str):
    here = data.read(0)  # opens a file, which the other process must not disturb
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(data.read, [0, 150, 359]) == [here, data.read(150), data.read(359)]
    assert data.read(1) == pickle.loads(pickle.dumps(data)).read(1)
