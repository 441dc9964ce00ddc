"""CIFAR out of its binary archive."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.raw import catalog
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset


@pytest.mark.parametrize(("name", "labels"), [("cifar10", 1), ("cifar100", 2)])
def test_cifar_is_read_from_its_binary_archive(tmp_path: Path, name: str, labels: int):
    dataset, rng = catalog.get(name), np.random.default_rng(1)
    prefix = "cifar-10-batches-bin" if labels == 1 else "cifar-100-binary"
    members = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"] if labels == 1 else ["train", "test"]
    out = tmp_path / "out"
    (tmp_path / "source").mkdir()
    archive = tmp_path / "source" / ("cifar-10-binary.tar.gz" if labels == 1 else "cifar-100-binary.tar.gz")
    written = {}
    with tarfile.open(archive, "w:gz") as tar:
        for member in members:
            records = rng.integers(0, 256, (4, labels + 3072), np.uint8)
            records[:, labels - 1] = rng.integers(0, 10, 4)
            info = tarfile.TarInfo(f"{prefix}/{member}.bin")
            info.size = records.size
            tar.addfile(info, io.BytesIO(records.tobytes()))
            written[member] = records
    train, test = TarDataset(shards.write(dataset, "train", out, source=archive.parent)), written[members[-1]]
    assert len(train) == 4 * (len(members) - 1)
    assert train.classes == len(dataset.open("test", archive.parent).class_names)
    opened = TarDataset(shards.write(dataset, "test", out, source=archive.parent))
    for i in range(4):
        assert np.array_equal(opened.image(i).ravel(), test[i, labels:]) and opened.labels[i] == test[i, labels - 1]
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(DataError, match="cannot be read .*download it again"):
        dataset.open("test", archive.parent)
    archive.unlink()
    with pytest.raises(DataError, match="is missing; give its folder"):
        dataset.open("test", archive.parent)
