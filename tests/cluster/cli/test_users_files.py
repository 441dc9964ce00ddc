"""A user's files lie where commands write: each is there afterwards, byte for byte, or the command says in one line
what is in its way and has written nothing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tdformer
from cluster.build.shards import write_shards
from cluster.cli.app import main
from cluster.config import load
from cluster.errors import RunError
from cluster.results.export import export
from cluster.run import checkpoint
from cluster.run.folder import RunFolder

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2}
data: {dataset: digits, root: shards}
train: {epochs: 1, global_batch: 200, threads: 1}
"""
MINE = b"# mine\n"
Tree = dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, pictures, a run with a checkpoint, and files exported of it."""
    root = tmp_path_factory.mktemp("made")
    write_shards("digits", root / "shards", samples_per_shard=1000)
    (root / "recipe.yaml").write_text(RECIPE)
    run = RunFolder(root / "runs" / "run")
    run.open(load(root / "recipe.yaml"))
    model = tdformer.create_model("quickstart", image_size=8, time_steps=2, segments=2)
    weights: dict[str, torch.Tensor] = dict(model.state_dict())
    checkpoint.save(run.checkpoints, 1, {"model": weights}, {"model": model.config}, 1)
    export(run.path, root / "m.pt")
    tdformer.save_pretrained(model, root / "w.safetensors")
    for split in ("train", "val"):
        for i, name in enumerate(("cat", "dog")):
            (root / "mydata" / split / name).mkdir(parents=True)
            pixels = np.full((8, 8, 3), 50 + 100 * i, np.uint8)
            Image.fromarray(pixels).save(root / "mydata" / split / name / "1.png")
            events = {key: np.arange(3) % 2 for key in ("x", "y", "p")}
            np.savez(root / "mydata" / split / name / "1.npz", t=np.arange(3), **events)
    (root / "link").symlink_to("mydata")
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(made, tmp_path / "here", symlinks=True))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tdformer_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run the command in this process: its exit code and standard error."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tdformer", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


def tree(folder: Path) -> Tree:
    """All files below a folder; of a link what it says, of a folder nothing."""
    found: Tree = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.fsencode(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else b""
    return found


DIGITS = "shard digits project --processes 1"
AGAIN = "shard digits shards --processes 1"
PREPARE = "prepare recipe.yaml data.root=project"
IMPORT = "import w.safetensors --model quickstart image_size=8 time_steps=2 segments=2 --out"
NO_SHARDS = [
    *("train/run.py", "test/data.csv", "train", ".train.tmp/notes", ".train.tmp/train-000000.tar", ".test.old/x"),
    *("lock", "train/index.json", "train/index.npz", "test/train-000000.tar", ".train.tmp"),
]
IN_SHARDS = [
    *("notes.txt", "train-000099.tar", ".mine", "sub/x", "train.beton", "train.beton.npz", ".train.beton.whole"),
    *(".train.beton.x.tmp", "index.json.bak"),
]
REFUSED = [
    *((words, f"project/{name}") for words in (DIGITS, PREPARE) for name in NO_SHARDS),
    *((AGAIN, f"shards/train/{name}") for name in IN_SHARDS),
    *((f"{AGAIN} --to ffcv", f"shards/train/{name}") for name in ("train.beton", "train.beton.npz")),
    *(("export runs/run " + name.removesuffix(".json"), name) for name in ("n.pt", "n.pt.json", "n.safetensors")),
    ("export runs/run n.pt", "n.pt.md"),
    ("export runs/run m.pt", "m.pt.md"),  # a card that was written over
    ("eval runs/run --report n.html", "n.html"),
    ("export runs/run n.pt2", "n.pt2"),
    ("export runs/run m.pt", "m.pt"),  # in the place of an export, whose description is still there
    (f"{IMPORT} n.safetensors", "n.safetensors"),
    (f"{IMPORT} project/mine.pth", "project/mine.pth"),
    *((f"{words} recipe.yaml name=x", "runs/x/notes.txt") for words in ("train", "launch --where local")),
    *(("launch recipe.yaml --where local", f"runs/run/{n}") for n in ("code/mine.py", ".code.tmp/x", "code")),
]
"""Commands, and a file of the user's that is in their way."""
DONE = [
    (DIGITS, "project/README"),
    (DIGITS, "project/.train.tmp.bak/x"),
    (DIGITS, "project/val/x"),
    (AGAIN, "shards/README"),
    (AGAIN, "shards/trainer/run.py"),
    (PREPARE, "project/trained"),
    ("prepare recipe.yaml", "shards/train/notes.txt"),
    ("export runs/run m.pt", "m.pt.bak"),
    ("export runs/run n.pt", "m.pt.bak"),
    (f"{IMPORT} w.safetensors", ".w.safetensors.tmp"),
]
"""Commands, and one that is not."""


@pytest.mark.parametrize(("words", "name"), REFUSED)
def test_what_is_in_the_way_is_named_and_nothing_is_written(
    here: Path, tdformer_command: Callable[..., tuple[int, str]], words: str, name: str
):
    (here / name).parent.mkdir(parents=True, exist_ok=True)
    (here / name).write_bytes(MINE)
    before = tree(here)
    code, said = tdformer_command(*words.split())
    assert (code, said.count("\n")) == (2, 1) and said.startswith("error: "), said
    assert tree(here) == before
    named = [part for part in Path(name).parts if part not in ("project", "shards", "runs", "x", "run")]
    assert any(part in said for part in named), said


@pytest.mark.parametrize(("words", "name"), DONE)
def test_what_is_not_in_the_way_stays(
    here: Path, tdformer_command: Callable[..., tuple[int, str]], words: str, name: str
):
    (here / name).parent.mkdir(parents=True, exist_ok=True)
    (here / name).write_bytes(MINE)
    before = tree(here)
    code, said = tdformer_command(*words.split())
    assert code == 0, said
    after = tree(here)
    assert after[name] == MINE
    written = {"shards", "m.pt", "m.pt.json", "w.safetensors"}
    assert all(after[n] == content for n, content in before.items() if Path(n).parts[0] not in written)
    assert not [n for n in after.keys() - before.keys() if n.endswith((".tmp", ".old")) or ".tmp-" in n]


@pytest.mark.parametrize("folder", ["mydata", "mydata/train", "mydata/shards", ".", "link", "link/new"])
@pytest.mark.parametrize("dataset", ["folder", "imagenet", "events", "cifar10"])
def test_shards_and_their_source_do_not_lie_in_one_another(
    here: Path, tdformer_command: Callable[..., tuple[int, str]], dataset: str, folder: str
):
    before = tree(here)
    for source in ("mydata", "link"):
        code, said = tdformer_command("shard", dataset, folder, "--source", source, "--processes", "1")
        assert code == 2 and said.count("\n") == 1 and tree(here) == before, said
        assert "lie in one another" in said or dataset == "cifar10"  # whose archive is missing


def test_shards_of_another_data_set_stay(here: Path, tdformer_command: Callable[..., tuple[int, str]]):
    words = ("shard", "folder", "shards", "--source", "mydata", "--processes", "1")
    before = tree(here)
    code, said = tdformer_command(*words)
    assert code == 2 and "shards/train holds shards of digits; name another folder" in said and tree(here) == before
    words = ("shard", "folder", "out", *words[3:])
    assert tdformer_command(*words)[0] == 0
    for split in ("train", "val"):
        (here / "mydata" / split / "cat").rename(here / "mydata" / split / "zebra")
    before = tree(here)
    code, said = tdformer_command(*words)
    assert code == 2 and "out/train holds shards of folder with other classes" in said and tree(here) == before


@pytest.mark.parametrize(
    "name",
    [
        *("curves.png", "lock", "metrics.jsonl", "speed.jsonl", "health.jsonl", "summary.json", "status.json"),
        *("wandb_id", "job.json", "notes.txt", "code/mine.py", "logs/a.out", "checkpoints/mine/a", "config.yaml"),
    ],
)
def test_no_run_is_made_in_a_users_folder(tmp_path: Path, name: str):
    (tmp_path / "x" / name).parent.mkdir(parents=True)
    (tmp_path / "x" / name).write_bytes(b"mine: 1\n")
    before = tree(tmp_path)
    run = RunFolder(tmp_path / "x")
    with pytest.raises(RunError, match="name=|is not a setting|another folder"):
        run.check(load(None))
        with run.lock():
            run.open(load(None))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("step-00000001.bak/model.safetensors", False),
        ("step-00000001/notes.txt", False),
        ("step-00000000/model.safetensors", False),
        ("step-00000003/x", True),
        (".step-00000003.tmp/x", True),
        (".step-00000009.tmp/x", False),
        (".mine.tmp", False),
        (".latest.mine.tmp", False),
    ],
)
def test_checkpoints_leave_what_is_none(tmp_path: Path, name: str, refused: bool):
    def save(step: int) -> None:
        checkpoint.save(tmp_path, step, {"model": {"w": torch.ones(2)}}, {"step": step}, 1)

    save(1)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(MINE)
    before = tree(tmp_path)
    save(2)
    if refused:
        with pytest.raises(RunError, match="is no checkpoint that tdformer wrote; move it away"):
            save(3)
    else:
        save(3)
        assert "step-00000003/manifest.json" in tree(tmp_path)
    assert tree(tmp_path)[name] == MINE
    with_notes = name.startswith("step-00000001/")  # a checkpoint that a user has put something into stays whole
    kept = {n: content for n, content in before.items() if n.startswith("step-00000001/") and with_notes}
    assert {n: content for n, content in tree(tmp_path).items() if n.startswith("step-00000001/")} == kept
