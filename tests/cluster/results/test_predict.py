"""Predictions: a file is seen as a sample of the test set, and the model says of it what it says in evaluation."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import HEADER3, packet
from firing import few_digits, save, tiny
from PIL import Image

from cluster.build.data import as_samples, input_facts, opened
from cluster.build.setup import Setup
from cluster.build.shards import write_shards
from cluster.config import Config, load
from cluster.errors import RunError
from cluster.results.export import export
from cluster.results.predict import predict
from cluster.train.evaluate import evaluate_run
from pipelines.errors import DataError
from pipelines.raw import catalog
from pipelines.store.tars import TarDataset
from tdformer import ModelError

RECIPE = """\
name: run
model: {name: NAME, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits}
train: {global_batch: 50, threads: 1, ema_decay: 0.9}
"""


def made(place: Path, words: list[str], name: str = "tiny") -> tuple[Config, Path]:
    """A run of one checkpoint on the shards that `words` name, as training saves it."""
    (place / "recipe.yaml").write_text(RECIPE.replace("NAME", name))
    config = load(place / "recipe.yaml", words)
    data = opened(config, "test")
    save(place / "run", config, data, average=True, classes=data.class_names, input=input_facts(data))
    return config, place / "run"


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with tiny(also=("quickstart",)):
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    """A run on some digits, its exports, and the pictures of its test set in `pictures`, in the test set's order."""
    place = tmp_path_factory.mktemp("digits")
    few_digits(place / "shards")
    _, run = made(place, [f"data.root={place / 'shards'}"])
    (place / "pictures").mkdir()
    for i, content in enumerate(pictures(TarDataset(place / "shards" / "test"))):
        (place / "pictures" / f"{i:03}.png").write_bytes(content)
    for name in ("m.safetensors", "m.pt", "m.pt2"):
        export(run, place / name, batch=50)
    return place


def pictures(data: TarDataset) -> Iterator[bytes]:
    return (data.read(i)[0] for i in range(len(data)))


@pytest.fixture
def in_evaluation(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], torch.Tensor]:
    """The logits of every sample when a run is evaluated."""

    def evaluated(run: Path) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        with monkeypatch.context() as patch:
            trained = Setup.trained

            def hooked(self: Setup, *words: Any) -> Any:
                model = trained(self, *words)
                model.register_forward_hook(lambda module, inputs, logits: seen.append(logits))
                return model

            patch.setattr(Setup, "trained", hooked)
            [_] = evaluate_run(run)
        return torch.cat(seen)

    return evaluated


def logits(rows: Any) -> torch.Tensor:
    return torch.tensor([row["logits"] for row in rows])


def test_a_test_picture_has_the_logits_of_evaluation(digits: Path, in_evaluation: Any) -> None:
    wanted = in_evaluation(digits / "run")
    assert (wanted - wanted.mean(0)).abs().max() > 0.1
    for source in ("run", "run/checkpoints/step-00000007", "m.safetensors", "m.pt"):
        rows = list(predict(digits / source, [digits / "pictures"]))
        assert torch.equal(logits(rows), wanted), source
    assert [row["image"] for row in rows] == [str(digits / "pictures" / f"{i:03}.png") for i in range(120)]
    torch.testing.assert_close(logits(predict(digits / "m.pt2", [digits / "pictures"])), wanted, rtol=1e-4, atol=1e-4)
    alone = logits(predict(digits / "run", [digits / "pictures" / "077.png"]))
    torch.testing.assert_close(alone[0], wanted[77], rtol=1e-5, atol=1e-5)


def test_a_row_names_the_likeliest_classes_and_what_fired(digits: Path) -> None:
    rows = list(predict(digits / "run", [digits / "pictures"]))
    for row in rows:
        shares = torch.tensor(row["logits"]).softmax(0)
        assert [one["number"] for one in row["top"]] == shares.sort(descending=True)[1][:5].tolist()
        assert [one["class"] for one in row["top"]] == [str(one["number"]) for one in row["top"]]
        assert row["top"][0]["probability"] == pytest.approx(float(shares.max()))
    assert len({row["top"][0]["class"] for row in rows}) > 5
    firing = [row["firing"] for row in rows]
    assert len(firing[0]) > 5 and all(0 < max(rates.values()) <= 1 for rates in firing)
    assert firing[0] != firing[1]  # of the picture, not of the batch
    assert "firing" not in next(predict(digits / "run", [digits / "pictures"], firing=False))
    assert "firing" not in next(predict(digits / "m.pt2", [digits / "pictures"]))
    with pytest.raises(RunError, match="m.pt2 is a program, whose layers cannot be looked into"):
        next(predict(digits / "m.pt2", [digits / "pictures"], firing=True))


def photographs(source: Path) -> None:
    """Of many sizes and forms, two classes, told apart by their colour."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("dark", "light")):
            folder = source / split / name
            folder.mkdir(parents=True)
            for k, (form, suffix) in enumerate((("RGB", "jpg"), ("RGBA", "png"), ("LA", "png"), ("I;16", "png")) * 2):
                height, width = rng.integers(20, 50, 2)
                channels = {"RGB": 3, "RGBA": 4, "LA": 2, "I;16": 1}[form]
                pixels = rng.integers(128 * label, 128 * label + 100, (height, width, channels))
                if form == "I;16":
                    picture = Image.fromarray((pixels[..., 0] * 257).astype(np.uint16))
                else:
                    picture = Image.fromarray(pixels.astype(np.uint8), form)
                turned = Image.Exif()
                turned[0x0112] = 6  # the camera was held upright
                picture.save(folder / f"{k}.{suffix}", **({"exif": turned} if suffix == "jpg" else {}))


def recordings(source: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("left", "right")):
            folder = source / split / name
            folder.mkdir(parents=True)
            for k in range(3):
                x, y, p = (
                    rng.integers(64, size=300) + 64 * label,
                    rng.integers(128, size=300),
                    rng.integers(2, size=300),
                )
                events = [(t, int(a), int(b), int(c)) for t, (a, b, c) in enumerate(zip(x, y, p, strict=True))]
                (folder / f"{k}.aedat").write_bytes(HEADER3 + packet(events))


@pytest.mark.parametrize(
    ("dataset", "make", "words"),
    [
        ("folder", photographs, ["data.size=16", "data.crop_ratio=0.8"]),
        ("events", recordings, ["data.size=16", "data.frames=time"]),
    ],
)
def test_files_are_seen_as_those_of_the_test_set(
    tmp_path: Path, in_evaluation: Any, dataset: str, make: Callable[[Path], None], words: list[str]
) -> None:
    make(tmp_path / "source")
    write_shards(dataset, tmp_path / "shards", tmp_path / "source")
    words = [f"data.root={tmp_path / 'shards'}", f"data.dataset={dataset}", "train.global_batch=4", *words]
    _, run = made(tmp_path, words)
    wanted = in_evaluation(run)
    assert (wanted - wanted.mean(0)).abs().max() > 0.1
    raw = catalog.get(dataset).open("test", tmp_path / "source")
    files = [Path(raw[i].name) for i in range(len(raw))]  # in the order of the shards
    (tmp_path / "shards").rename(tmp_path / "elsewhere")  # what is needed is in the checkpoint
    rows = list(predict(run, files))
    assert torch.equal(logits(rows), wanted)
    folder = {row["image"]: row["logits"] for row in predict(run, [tmp_path / "source" / "val"])}
    assert sorted(folder) == sorted(map(str, files))
    for row in rows:
        assert folder[row["image"]] == pytest.approx(row["logits"], rel=1e-4, abs=1e-4)


def test_what_cannot_be_read_is_named_and_the_others_go_on(cli: Any, digits: Path, tmp_path: Path) -> None:
    good = digits / "pictures" / "003.png"
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:40])
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.PNG").write_bytes(good.read_bytes())
    (tmp_path / "folder" / "notes.txt").write_text("not looked at")
    made(tmp_path, [f"data.root={digits / 'shards'}"], "quickstart")  # the command is another process
    export(tmp_path / "run", tmp_path / "m.safetensors")
    wrong = ("text.png", "cut.png", "none.png", "wide.png", "pipe.png")
    done = cli("predict", "m.safetensors", "--json", wrong[0], good, *wrong[1:], "folder")
    assert done.returncode == 2
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["image"] for row in rows] == [str(good), "folder/b.PNG"]
    assert rows[0].keys() == {"image", "top", "logits", "firing"}
    assert rows[0]["logits"] == rows[1]["logits"]
    warning, *lines = done.stderr.splitlines()
    assert warning == "warning: not read: 1 of another format (folder/notes.txt)"
    assert len(lines) == len(wrong)
    for line, name in zip(lines, wrong, strict=True):
        assert line.startswith(f"error: {name} "), line
    done = cli("predict", "run", good, "--firing")
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert re.fullmatch(rf"{good}: \d [\d.]+%(, \d [\d.]+%){{4}}", first)
    assert others[:2] == ["", "spikes per neuron and time step, 1 image"] and len(others) > 7
    assert all(re.fullmatch(r"[01]\.\d{4}  backbone\.\S+", line) for line in others[2:])


def test_what_a_prediction_does_not_take_is_refused(digits: Path, tmp_path: Path) -> None:
    picture = digits / "pictures" / "000.png"
    (tmp_path / "empty").mkdir()
    for words, files, line in (
        (["model.tau=3"], [picture], "model.tau changes nothing in a prediction"),
        (["data.root=elsewhere"], [picture], "data.root changes nothing in a prediction"),
        ([], [tmp_path / "empty"], "empty holds no pictures (no files); name another folder"),
    ):
        with pytest.raises((RunError, DataError, ModelError), match=re.escape(line)):
            list(predict(digits / "run", files, words))


def test_a_checkpoint_of_an_earlier_version_asks_the_shards(digits: Path, tmp_path: Path) -> None:
    config = load(digits / "recipe.yaml", [f"data.root={digits / 'shards'}"])
    old = save(tmp_path / "old", config, opened(config, "test"), average=True)
    rows = list(predict(old, [digits / "pictures"]))
    assert rows[0]["top"][0]["class"] == str(rows[0]["top"][0]["number"])
    torch.testing.assert_close(logits(rows), logits(predict(digits / "run", [digits / "pictures"])))
    config = load(digits / "recipe.yaml", [f"data.root={tmp_path / 'gone'}"])
    moved = save(tmp_path / "moved", config, TarDataset(digits / "shards" / "test"), average=True)
    with pytest.raises(RunError, match="gone/test/index.json is missing"):
        list(predict(moved, [digits / "pictures"]))
    assert list(predict(moved, [digits / "pictures"], [f"data.root={digits / 'shards'}"]))


@pytest.mark.parametrize(
    "facts",
    [
        [],
        {"kind": "pictures"},
        {"kind": "smells", "shape": [1, 8, 8], "mean": [0.5], "std": [0.2]},
        {"kind": "pictures", "shape": [1, 8], "mean": [0.5], "std": [0.2]},
        {"kind": "pictures", "shape": [1, 8, 8], "mean": [0.5, 0.5], "std": [0.2]},
        {"kind": "pictures", "shape": [1, 8, 8], "mean": [0.5], "std": [0.0]},
        {"kind": "pictures", "shape": [1, 8, 8], "mean": ["x"], "std": [0.2]},
        {"kind": "pictures", "shape": [1, 8, 8], "mean": [float("nan")], "std": [0.2]},
        {"kind": "pictures", "shape": [1, 8, 1e400], "mean": [0.5], "std": [0.2]},
    ],
)
def test_facts_of_data_that_cannot_be(facts: Any) -> None:
    """As a stranger could write them."""
    with pytest.raises(RunError, match="m.pt: what it says of its data cannot be used") as error:
        as_samples([], facts, ["a"], Path("m.pt"))
    assert "\n" not in str(error.value)
