"""The block of a start: sizes that are not the name's, how a batch is made up, and on what it computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import config as configs
from cluster.build.memory import GIB, Memory
from cluster.jobs import opening
from cluster.plan.absent import setup_of


def block(tmp_path: Path, *words: str, world: int = 1, threads: int = 1) -> dict[str, str]:
    """By the first word of each line."""
    config = configs.load("digits", [f"data.root={tmp_path}", "name=a", *words])
    text = opening.block(setup_of(config, world), Memory(4 * GIB, "given"), threads)
    return {line.split()[0]: line.partition("  ")[2].strip() for line in text.splitlines()}


def test_a_line_each(tmp_path: Path) -> None:
    found = block(tmp_path)
    assert [*found] == ["model", "data", "steps", "device", "memory", "folder"]
    assert found["folder"] == "runs/a" and found["memory"].endswith("of 4.00 GiB a process (given)")
    assert found["data"] == f"1,437 pictures of 8 x 8 x 1 in 10 classes, 360 to test on; digits in {tmp_path}"


@pytest.mark.parametrize(
    ("words", "line", "said"),
    [
        (["model.width=96", "model.heads=4"], "model", "quickstart, "),  # as its name says
        (["model.width=48", "model.depths=[1,2,1]"], "model", "quickstart width=48 depths=[1, 2, 1], "),
        (
            ["model.time_steps=1", "model.segments=1", "model.feedback=none"],
            "model",
            ", T = 1 in 1 segment, no feedback",
        ),
        (["model.time_steps=2", "model.segments=2", "model.feedback=all"], "model", "T = 2 in 2 segments, feedback to"),
        (["train.freeze=[backbone.embeds]"], "model", " M trained), "),
        (["data.size=28"], "data", " pictures seen as 28 x 28 x 1 in 10 classes"),
        (["train.global_batch=64", "train.micro_batch=16"], "steps", "each of 64 = 4 micro-batches x 16"),
        (["train.epochs=1", "train.global_batch=100"], "steps", "14 in 1 epoch, each of 100"),
        (["train.tf32=true", "engine.deterministic=false"], "device", "1 x CPU, 1 thread, fp32, TF32, not determin"),
    ],
)
def test_what_is_told(tmp_path: Path, words: list[str], line: str, said: str) -> None:
    assert said in block(tmp_path, *words)[line]


def test_of_several_processes(tmp_path: Path) -> None:
    found = block(tmp_path, "train.global_batch=64", "train.micro_batch=8", world=2, threads=3)
    assert found["steps"].endswith("each of 64 = 2 processes x 4 micro-batches x 8")
    assert found["device"].startswith("2 x CPU, 3 threads, ")
