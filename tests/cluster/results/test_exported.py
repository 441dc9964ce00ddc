"""Exported files that were damaged, or made by somebody else: each is found in one line, or holds what it held."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from firing import save
from safetensors.torch import save_file

import tdformer
from cluster import config as configs
from cluster.build.data import opened
from cluster.build.model import build_model, example
from cluster.build.shards import write_shards
from cluster.cli import app as cli
from cluster.errors import RunError
from cluster.results.export import export
from cluster.results.program import read_program
from cluster.run import checkpoint
from tdformer import ModelError
from tdformer.digest import DIGEST, beside, described, of_file
from tdformer.norm import BatchNorm, fold
from tdformer.weight_files import read_weights

pytestmark = pytest.mark.slow  # the exports that all of them take are most of their time

EXPORTS = ("m.safetensors", "m.pt", "m.pt2")
IMPORTED = "i.safetensors"
"""As `tdformer import` writes it: nothing lies beside it."""
DAMAGES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one checkpoint, of a model that fires, and its exports."""
    folder = tmp_path_factory.mktemp("exports")
    write_shards("digits", folder / "shards", samples_per_shard=500)
    words = ["name=run", f"runs_dir={folder / 'runs'}", "data.dataset=digits", f"data.root={folder / 'shards'}"]
    words += ["model.name=quickstart", "model.time_steps=2", "model.segments=2", "model.feedback=all"]
    config = configs.load(None, words)
    data = opened(config, "test")
    run = save(folder / "runs" / "run", config, data, classes=data.class_names)
    model = tdformer.create_model(**build_model(config, data).config)
    model.load_state_dict(checkpoint.load_weights(run / "checkpoints" / "step-00000007")[0])
    for name in EXPORTS:
        export(run, folder / name, batch=4)
    tdformer.save_pretrained(model, folder / IMPORTED)
    return folder


def said(*words: object) -> str | None:
    """The line with which a command ends; None: it ended well."""
    try:
        cli.app([str(word) for word in words], standalone_mode=False)
    except Exception as error:
        line = cli._user_line(error)
        if line is None:
            raise
        return line
    return None


def test_every_format_holds_the_model(folder: Path) -> None:
    model = tdformer.from_pretrained(folder / IMPORTED)
    assert {len(m.running_mean) for m in model.modules() if isinstance(m, BatchNorm)} == {2}  # one for each segment
    pictures = torch.randn_like(example(model, 4))
    with torch.no_grad():
        expected = model.eval()(pictures)
        assert (expected - expected.mean(0)).abs().max() > 0.1
        torch.testing.assert_close(fold(model)(pictures), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(read_program(folder / "m.pt2")(pictures), expected, rtol=1e-5, atol=1e-5)
    for name in EXPORTS[:2]:
        weights = read_weights(folder / name)
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_file_without_a_digest_is_read_with_one_line(folder: Path, tmp_path: Path, caplog: Any) -> None:
    """As earlier versions wrote it."""
    model = tdformer.from_pretrained(folder / IMPORTED)
    for name in (IMPORTED, "m.safetensors"):
        save_file(model.state_dict(), tmp_path / name, {"tdformer": json.dumps(model.config)})
    for name in EXPORTS:
        path = tmp_path / name
        if not path.exists():
            shutil.copy(folder / name, path)
        about = json.loads(beside(folder / name).read_text())
        del about[DIGEST]
        beside(path).write_text(json.dumps(about))
        assert described(path) == about
    assert said("eval", tmp_path / "m.safetensors") is None
    assert said("eval", tmp_path / "m.pt") is None
    tdformer.load_pretrained(model, tmp_path / "m.pt")
    tdformer.from_pretrained(tmp_path / IMPORTED)
    lines = [record.getMessage() for record in caplog.records if record.name == "tdformer.digest"]
    assert len(lines) == 3 + 3 + 1 and all("has no digest (an earlier version wrote it)" in line for line in lines)


def test_an_import_says_what_it_did_not_read(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = read_weights(folder / "m.pt")
    torch.save({"model": weights, "best": np.float64(81.2), "out": Path("out")}, tmp_path / "p.pth")
    words = ("in_channels=1", "image_size=28", "time_steps=2", "segments=2", "feedback=all")
    assert (
        said("import", tmp_path / "p.pth", "--model", "quickstart", "--out", tmp_path / "p.safetensors", *words) is None
    )
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "not read" in line)
    assert "numpy._core.multiarray.scalar, numpy.dtype, pathlib.PosixPath" in line
    read = read_weights(tmp_path / "p.safetensors")
    assert all(torch.equal(value, read[name]) for name, value in weights.items())


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_early(content: bytes, rng: random.Random) -> bytes:
    """In the header of safetensors, and in the first tensors of the others."""
    return flip(content[:4096], rng) + content[4096:]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def behead(content: bytes, rng: random.Random) -> bytes:
    return content[rng.randrange(1, 4096) :]


def blank(content: bytes, rng: random.Random) -> bytes:
    start, size = rng.randrange(len(content)), rng.randrange(1, 4096)
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def exchange(content: bytes, rng: random.Random) -> bytes:
    size = rng.randrange(1, len(content) // 4)
    one, two = sorted(rng.randrange(0, len(content) - size) for _ in range(2))
    two = max(two, one + size)
    a, b = content[one : one + size], content[two : two + size]
    return content[:one] + b + content[one + size : two] + a + content[two + size :]


def more(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.randrange(1, 100))


def swap_fields(content: bytes, rng: random.Random) -> bytes:
    """Two fields of one dict in the JSON that a description is, or a safetensors file begins with."""
    if content[:1] == b"{":
        start, end = 0, len(content)
    elif content[8:9] == b"{":
        start, end = 8, 8 + int.from_bytes(content[:8], "little")
    else:
        return exchange(content, rng)
    whole = json.loads(content[start:end])
    dicts = [d for d in (whole, *whole.values()) if isinstance(d, dict) and len(d) > 1]
    fields = rng.choice(dicts)
    one, two = rng.sample(sorted(fields), 2)
    fields[one], fields[two] = fields[two], fields[one]
    text = json.dumps(whole, separators=(",", ":")).encode()
    return content[:start] + text.ljust(end - start) + content[end:]


WAYS = (flip, flip_early, cut, behead, blank, exchange, more, swap_fields)


@pytest.mark.parametrize("name", (*EXPORTS, IMPORTED))
def test_damage_is_found_or_changes_nothing(folder: Path, tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    original, found = folder / name, 0
    about, content = described(original), original.read_bytes()
    path = tmp_path / name
    for number in range(DAMAGES):
        way = WAYS[number % len(WAYS)]
        parts = {path: content} | ({beside(path): beside(original).read_bytes()} if about else {})
        for part, whole in parts.items():
            part.write_bytes(whole)
        part = rng.choice([*parts])
        part.write_bytes(way(parts[part], rng))
        try:
            now = described(path)
            if about and now is None:
                raise RunError("it has no description")  # so says `tdformer eval`
            same_weights = path.read_bytes() == content
            if name == IMPORTED:
                weights, loaded = read_weights(original), tdformer.from_pretrained(path).state_dict()
                same_weights = all(torch.equal(value, loaded[key]) for key, value in weights.items())
            assert same_weights, (number, way)
            assert about is None or now is not None
            assert {k: v for k, v in (now or {}).items() if k in (about or {})} == {
                k: v for k, v in (about or {}).items() if k in (now or {})
            }, (number, way)
        except (ModelError, RunError) as error:
            found += 1
            assert "\n" not in str(error)
    assert found > 0.9 * DAMAGES


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w')",)


def header(text: bytes, size: int | None = None) -> bytes:
    return (len(text) if size is None else size).to_bytes(8, "little") + text


def entry(**fields: Any) -> bytes:
    return (
        header(json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **fields}}).encode()) + b"1234"
    )


def bomb(path: Path, mark: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("archive_format", "archive/data.pkl", "archive/models/model.json"):
            archive.writestr(name, bytes(2**24))


def loop(path: Path, mark: Path) -> None:
    other = path.with_name("other")
    other.symlink_to(path.name)
    path.symlink_to(other.name)


def writes(content: bytes | Callable[[Path], bytes]) -> Callable[[Path, Path], Any]:
    return lambda path, mark: path.write_bytes(content if isinstance(content, bytes) else content(mark))


HOSTILE: dict[str, Callable[[Path, Path], Any]] = {
    "empty": writes(b""),
    "random": writes(random.Random(0).randbytes(10_000)),
    "text": writes(b"[" * 100_000),
    "pickle": writes(lambda mark: pickle.dumps(Evil(mark), 2)),
    "late pickle": writes(lambda mark: pickle.dumps(Evil(mark), 5)),
    "checkpoint": lambda path, mark: torch.save({"model": Evil(mark)}, path),
    "old checkpoint": lambda path, mark: torch.save(Evil(mark), path, _use_new_zipfile_serialization=False),
    "object": lambda path, mark: torch.save(torch.nn.Linear(1, 1), path),
    "script": lambda path, mark: torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)).save(str(path)),
    "zip": writes(b"PK\x03\x04" + bytes(100)),
    "bomb": bomb,
    "long header": writes(header(b"{}", 2**63)),
    "large header": writes(header(b"{}", 90_000_000)),
    "empty header": writes(header(b"{}")),
    "no JSON": writes(header(b"{" * 100)),
    "outside": writes(entry(data_offsets=[0, 2**40])),
    "backwards": writes(entry(data_offsets=[4, 0])),
    "negative": writes(entry(shape=[-1])),
    "endless": writes(entry(shape=[2**62, 2**62])),
    "no type": writes(entry(dtype="F7")),
    "no tensor of ours": writes(entry()),
    "folder": lambda path, mark: path.mkdir(),
    "pipe": lambda path, mark: os.mkfifo(path),
    "loop": loop,
    "device": lambda path, mark: path.symlink_to("/dev/zero"),
    "nowhere": lambda path, mark: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pt2"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_whoever_made_it_no_file_runs_or_hangs(folder: Path, tmp_path: Path, kind: str, suffix: str) -> None:
    """Every command and function that reads a file of weights; the digest beside it is right."""
    path, mark, out = tmp_path / f"m{suffix}", tmp_path / "mark", tmp_path / "out.safetensors"
    HOSTILE[kind](path, mark)
    about = json.loads(beside(folder / f"m{suffix}").read_text())
    if path.is_file():
        about[DIGEST] = of_file(path, about)
        beside(path).write_text(json.dumps(about))
    for words in (
        ("eval", path),
        ("eval", path.parent),
        ("import", path, "--model", "quickstart", "--out", out),
        ("export", path, out),
    ):
        line = said(*words)
        assert line and "\n" not in line and len(line) < 500 and not out.exists(), words
    for read in (tdformer.from_pretrained, read_weights):
        try:
            read(path)
            assert kind == "no tensor of ours" and read is read_weights and suffix == ".safetensors"
        except ModelError as error:
            assert "\n" not in str(error)
    assert not mark.exists()


@pytest.mark.parametrize("kind", HOSTILE)
def test_whoever_made_it_no_checkpoint_runs_or_hangs(folder: Path, tmp_path: Path, kind: str) -> None:
    """Its manifest is right."""
    run, mark = tmp_path / "run", tmp_path / "mark"
    shutil.copytree(folder / "runs" / "run", run)
    (saved,) = run.glob("checkpoints/step-*")
    (saved / "model.safetensors").unlink()
    HOSTILE[kind](saved / "model.safetensors", mark)
    files = {path.name: checkpoint._facts(path) for path in saved.iterdir() if path.is_file()}
    del files[checkpoint.MANIFEST]
    (saved / checkpoint.MANIFEST).write_text(json.dumps({"step": 3, "files": files}))
    for words in (("eval", run), ("export", saved, tmp_path / "m.pt")):
        line = said(*words)
        assert line and "\n" not in line and len(line) < 500, words
    assert not mark.exists()


@pytest.mark.parametrize("kind", HOSTILE)
def test_whoever_made_it_no_description_runs_or_hangs(folder: Path, tmp_path: Path, kind: str) -> None:
    path, mark = Path(shutil.copy(folder / "m.pt", tmp_path)), tmp_path / "mark"
    HOSTILE[kind](beside(path), mark)
    line = said("eval", path)
    assert line and "m.pt.json cannot be read" in line and not mark.exists()


def test_an_evaluation_that_does_not_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what CUDA's allocator raises, in place of an evaluation."""

    def evaluate(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of")

    monkeypatch.setattr("cluster.results.export.evaluate", evaluate)
    monkeypatch.setattr("cluster.train.evaluate.evaluate", evaluate)
    for name, way in (("m.pt", "set a lower train.micro_batch"), ("runs/run", "set a lower train.micro_batch")):
        assert said("eval", folder / name) == f"the GPU's memory has run out (tried to allocate 2.50 GiB); {way}"


@pytest.mark.parametrize(
    "change",
    [
        {"model": {}},
        {"model": {"name": "quickstart", "segments": "two"}},
        {"model": {"name": "quickstart", "unknown": 1}},
        {"model": {"name": 7}},
        {"model": [], "config": {}},
        {"config": {"train.lr": {}}},
        {"config": []},
        {"config": {"unknown": 1}},
        {"step": "3"},
        {"step": -1},
        {"batch": None},
        {"batch": -1},
        {"batch": "4"},
    ],
)
def test_a_description_that_cannot_be(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    """Signed as ours are."""
    path = Path(shutil.copy(folder / ("m.pt2" if "batch" in change else "m.pt"), tmp_path))
    about = json.loads(beside(folder / path.name).read_text()) | change
    beside(path).write_text(json.dumps(about | {DIGEST: of_file(path, about)}))
    assert said("eval", path)
