"""What the watchdog counts from."""

from __future__ import annotations

from pathlib import Path

from forked import Command

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 1}
data: {dataset: digits, root: SHARDS}
train: {epochs: 1, global_batch: 70, threads: 1}
"""
TOLD = """
from cluster.cli import main
from cluster.train import feed, loop, watchdog

def told(owner, name, word):
    do = getattr(owner, name)
    def call(*given, **named):
        print("told", word, flush=True)
        return do(*given, **named)
    setattr(owner, name, call)

told(watchdog.Watchdog, "alive", "alive")
told(loop.Trainer, "run", "run")
told(feed.Feed, "batches", "batches")
main()
"""


def test_building_the_trainer_is_not_counted_into_the_first_step(tmp_path: Path, few_digits: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))
    done = Command("train", "recipe.yaml", cwd=tmp_path, program=TOLD).completed()
    words = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("told")]
    assert words[:4] == ["alive", "run", "alive", "batches"], done.stdout + done.stderr
