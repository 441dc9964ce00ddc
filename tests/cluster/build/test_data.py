"""What a run is given is one data set: train and test of the same classes, under a digest that the run keeps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import index_files
import numpy as np
import pytest
from forked import Command

from cluster.build.data import opened, training_data
from cluster.build.shards import verify_shards, write_shards
from cluster.config import Config
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from pipelines.errors import DataError
from pipelines.store import index
from pipelines.store.tars import TarDataset

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 1, segments: 1, feedback: none}
data: {dataset: digits, root: shards}
train: {epochs: 2, global_batch: 240, threads: 1}
checkpoint: {every_steps: 3, keep: 9}
log: {curves: false, every_steps: 1}
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_shards("digits", folder)
    return folder


@pytest.fixture
def shards(digits: Path, tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return Path(shutil.copytree(digits, tmp_path / "shards"))


def names_in(folder: Path) -> list[str]:
    return json.loads((folder / index.INDEX).read_text())["class_names"]


def config(root: Path) -> Config:
    made = Config()
    made.data.dataset, made.data.root = "digits", str(root)
    return made


@pytest.mark.parametrize(
    ("split", "change", "says"),
    [
        (
            "train",
            lambda names: [*names[:2], "two", *names[3:]],
            "'two' is missing, '2' is extra (10 classes, 10 wanted)",
        ),
        (
            "test",
            lambda names: [*names[:2], "two", *names[3:]],
            "'2' is missing, 'two' is extra (10 classes, 10 wanted)",
        ),
        ("train", lambda names: [*names, "ten"], "'ten' is missing (10 classes, 11 wanted)"),
        ("test", lambda names: [*names, "ten"], "'ten' is extra (11 classes, 10 wanted)"),
    ],
)
def test_other_classes_are_refused_by_every_command(
    cli: Any, shards: Path, tmp_path: Path, split: str, change: Any, says: str
) -> None:
    index_files.edit(shards / split, class_names=change(names_in(shards / split)))
    for words in (
        ("train", "recipe.yaml"),
        ("launch", "recipe.yaml", "--where", "local"),
        ("prepare", "recipe.yaml"),
        ("shard", "verify", "shards"),
    ):
        done = cli(*words)
        assert done.returncode == 2, words
        (line,) = done.stderr.strip().splitlines()
        assert "shards/test has other classes than " in line and f"shards/train: {says}" in line
    assert not (tmp_path / "runs").exists()
    with pytest.raises(DataError, match="test has other classes than .*train"):
        opened(config(shards), "test")


def test_shards_of_another_data_set_are_refused_by_every_command(cli: Any, shards: Path, tmp_path: Path) -> None:
    assert cli("train", "recipe.yaml", "train.epochs=1", "checkpoint.every_steps=99").returncode == 0
    for split in ("train", "test"):
        index_files.edit(shards / split, dataset="folder")
    for words in (
        ("train", "recipe.yaml", "name=new"),
        ("launch", "recipe.yaml", "name=new", "--where", "local"),
        ("prepare", "recipe.yaml"),
        ("eval", "runs/run"),
    ):
        done = cli(*words)
        assert done.returncode == 2, words
        (line,) = done.stderr.strip().splitlines()
        assert "holds folder, the configuration asks for digits; set data.dataset" in line
    assert not (tmp_path / "runs" / "new").exists()


def test_classes_in_another_order_are_mapped_by_name(shards: Path) -> None:
    """The labels of `test` are then those of `train`, wherever it is opened."""
    before = opened(config(shards), "test").labels.copy()
    turn = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    names = names_in(shards / "test")
    with np.load(shards / "test" / index.TABLE) as table:
        columns = dict(table)
    columns["label"] = np.argsort(turn).astype(np.int32)[columns["label"]]
    np.savez(shards / "test" / index.TABLE, allow_pickle=False, **columns)
    index_files.edit(shards / "test", class_names=[names[i] for i in turn], columns=index.table_digest(columns))
    assert (TarDataset(shards / "test").labels != before).any()
    for data in (opened(config(shards), "test"), training_data(config(shards))[1]):
        assert (data.labels == before).all() and data.class_names == names
    assert len(list(verify_shards(shards))) == 2


def test_a_run_of_shards_of_format_2_goes_on_and_knows_the_digest_of_their_successors(
    cli: Any, shards: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        index_files.make_old(shards / split)
    done = cli("train", "recipe.yaml", "runs_dir=whole")
    assert done.returncode == 0 and "train/index.json has format 2" in done.stderr, done.stderr
    for name in ("same", "written-again"):
        folder = RunFolder(shutil.copytree(tmp_path / "whole" / "run", tmp_path / name / "run"))
        for path in checkpoint.complete(folder.checkpoints):
            if checkpoint.step_of(path) > 6:
                shutil.rmtree(path)
        for file in (folder.summary_file, folder.status_file):
            file.unlink()
        if name == "written-again":
            shutil.rmtree(shards)
            write_shards("digits", shards)
        done = cli("train", "recipe.yaml", f"runs_dir={name}")
        assert done.returncode == 0 and "goes on from step 6" in done.stdout, done.stderr
        assert ("format 2" in done.stderr) == (name == "same")
        assert folder.metrics.path.read_bytes() == (tmp_path / "whole/run/metrics.jsonl").read_bytes()
        newest = checkpoint.complete(folder.checkpoints)[0]
        saved = json.loads((newest / "state.json").read_text())["state"]["cursor"]["digest"]
        assert saved == TarDataset(shards / "train").digest


FEW = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); from cluster.cli import main; main()"


def test_240_shards_are_read_with_200_descriptors(shards: Path, tmp_path: Path) -> None:
    write_shards("digits", tmp_path / "many", samples_per_shard=6)
    assert len(list((tmp_path / "many" / "train").glob("*.tar"))) == 240
    words = ("train", "recipe.yaml", "data.root=many", "train.epochs=1", "data.workers=2")
    done = Command(*words, cwd=tmp_path, program=FEW).completed()
    assert done.returncode == 0, done.stderr


def test_workers_need_no_shared_memory_of_a_container(shards: Path, tmp_path: Path) -> None:
    """A page of /dev/shm, where batches of 240 pictures of 64 bytes take 4."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    inside = ["unshare", "--mount", *user, "sh", "-c", 'mount -t tmpfs -o size=4k none /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("it needs the right to mount a tmpfs (root, or user namespaces)")
    done = subprocess.run(
        [*inside, sys.executable, "-m", "cluster.cli", "train", "recipe.yaml", "data.workers=2", "train.epochs=1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
