"""The commands of data: what they write, print and refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commands import refused, user_command
from forked import Command
from PIL import Image

from pipelines.store.tars import TarDataset

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"


def test_shards_are_verified_and_damage_is_named(trained: Path, tmp_path: Path):
    done = user_command(trained, "shard", "verify", "shards")
    assert done.stdout.splitlines() == [
        "shards/test: 360 samples, as in the index",
        "shards/train: 1,437 samples, as in the index",
    ]
    again = Command("shard", "digits", "shards", "--samples-per-shard", "500", cwd=tmp_path).completed()
    assert again.returncode == 0
    for file in (tmp_path / "shards").glob("*/*"):
        assert file.read_bytes() == (trained / file.relative_to(tmp_path)).read_bytes()
    shard = tmp_path / "shards/train/train-000001.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert "train-000001.tar is damaged" in refused(Command("shard", "verify", "shards", cwd=tmp_path).completed())
    shard.unlink()
    assert "train-000001.tar is missing" in refused(Command("shard", "verify", "shards", cwd=tmp_path).completed())


def test_the_word_write_may_be_left_out(cli: Any):
    whole, own, verify = (cli("shard", *words, "--help").stdout for words in ([], ["digits"], ["verify"]))
    assert "write" in whole and "verify" in whole
    assert "--source" in own and own == cli("shard", "write", "--help").stdout
    assert "--source" not in verify and "FOLDER" in verify
    assert "did you mean digits?" in refused(cli("shard", "--processes", "1", "digit", "data"))
    assert "No such option: --source" in cli("shard", "verify", "--source", ".", ".").stderr


def test_prepare_writes_once_and_prints_the_configuration(cli: Any, tmp_path: Path):
    config = CONFIGS / "digits.yaml"
    first = cli("prepare", config)
    assert (first.returncode, first.stdout) == (0, f"{config}\n")
    assert "wrote data/digits/train: 1,437 samples" in first.stderr
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*.tar")}
    second = cli("prepare", config)
    assert (second.returncode, second.stdout) == (0, f"{config}\n")
    assert "wrote" not in second.stderr
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*.tar")} == written
    other = refused(cli("prepare", CONFIGS / "quickstart.yaml", "data.root=data/digits"))
    assert "holds digits, the configuration asks for fashion_mnist" in other


LIST = """
from pathlib import Path
from cluster.cli import main
try:
    main()
finally:
    print(*Path("disk").rglob("*"))
"""


def test_a_full_disk_is_one_line_and_leaves_no_shards(on_small_disk: Any):
    done = on_small_disk("-c", LIST, "shard", "digits", "disk/digits")
    assert "no space left" in refused(done)
    assert done.stdout.split() == ["disk/digits", "disk/digits/lock.1"]


def test_a_folder_without_a_split_becomes_shards(cli: Any, tmp_path: Path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "pets" / name / f"{i}.png")
    words = ("shard", "folder", "shards", "--source", "pets")
    assert "--val-share 0.1 holds back a tenth" in refused(cli(*words))
    done = cli(*words, "--val-share", "0.25")
    assert done.returncode == 0, done.stderr
    counts = {split: len(TarDataset(tmp_path / "shards" / split)) for split in ("train", "test")}
    assert sum(counts.values()) == 40 and 2 <= counts["test"] <= 20
