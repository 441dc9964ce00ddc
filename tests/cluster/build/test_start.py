"""What each process of a start reads: the index once; and of a machine's ranks one compares it, and the checkpoint,
with their digests. What one machine finds is every rank's."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from forked import TDFORMER, Command, meeting

from cluster.build.shards import write_shards
from cluster.run.folder import RunFolder

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS}
train: {epochs: 1, global_batch: 160, micro_batch: 40, threads: 1, ema_decay: 0.9}
checkpoint: {every_steps: 3, keep: 9}
log: {curves: false, every_steps: 1}
"""
COUNTING = """\
import os
from cluster.run import checkpoint, weights
from cluster.train import loop
from pipelines.store import index

def told(module, name, note):
    do = getattr(module, name)
    def call(*given, **more):
        with open("calls", "a") as file:
            file.write(f"{os.getpid()} {note(*given)}\\n")
        return do(*given, **more)
    setattr(module, name, call)

def maps():
    with open("/proc/self/maps") as file:
        return ".safetensors" in file.read()

told(index, "read_facts", lambda folder: "open")
told(index, "table_digest", lambda columns: "digest")
told(checkpoint, "_facts", lambda path, *_: "write" if path.parent.name.startswith(".") else path.parent.name)
told(weights, "of_tensors", lambda *_: "tensors")
told(loop.Trainer, "step", lambda *given: "mapped" if maps() else "step")
"""
DAMAGED = """\
whole = checkpoint._blocks
def damaged(path):
    for block in whole(path):
        yield bytes([block[0] ^ 1]) + block[1:] if path.match("step-00000006/optimizer.safetensors") else block
checkpoint._blocks = damaged
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards, a recipe and a run of 8 steps, as if it had been killed before the last was saved."""
    folder = tmp_path_factory.mktemp("start")
    write_shards("digits", folder / "shards", samples_per_shard=500)
    (folder / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(folder / "shards")))
    done = Command("train", "recipe.yaml", cwd=folder).completed()
    assert done.returncode == 0, done.stderr
    run = RunFolder(folder / "runs" / "run")
    run.summary_file.unlink()
    shutil.rmtree(run.checkpoints / "step-00000008")
    return folder


@pytest.fixture
def killed(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "killed"))


def calls(folder: Path) -> dict[int, Counter[str]]:
    """What each process did, by its number."""
    found: dict[int, Counter[str]] = {}
    for line in (folder / "calls").read_text().splitlines():
        pid, _, what = line.partition(" ")
        found.setdefault(int(pid), Counter())[what] += 1
    return found


def ranks(folder: Path, local: tuple[int, int], more: str = "", words: str = "seed=0") -> list[Command]:
    """Two ranks that something else starts, with their places on their machines; the second one has another program
    or other words."""
    started, there = [], meeting(2)
    for rank in range(2):
        given = {"RANK": rank, "LOCAL_RANK": local[rank], "LOCAL_WORLD_SIZE": 1 + max(local), **there}
        program = COUNTING + (more if rank else "") + TDFORMER
        rest = ("train", "recipe.yaml", words if rank else "seed=0")
        env = os.environ | {key: str(value) for key, value in given.items()}
        started.append(Command(*rest, cwd=folder, env=env, program=program, merged=True))
    return started


def test_the_command_checks_and_the_ranks_that_it_starts_do_not(killed: Path) -> None:
    command = Command("train", "recipe.yaml", "--processes", "2", cwd=killed, program=COUNTING + TDFORMER, merged=True)
    output, _ = command.communicate()
    assert command.returncode == 0 and "goes on from step 6 of 8" in output, output
    found = calls(killed)
    assert found.pop(command.pid) == {"open": 2, "digest": 2}
    first = next(pid for pid, did in found.items() if "write" in did)
    assert found.pop(first) == {"open": 2, "step-00000006": 4, "step": 2, "write": 4}
    assert [*found.values()] == [{"open": 2, "step": 2}]


def test_the_first_rank_of_a_machine_checks(killed: Path) -> None:
    first, second = ranks(killed, (0, 1), DAMAGED)  # nobody asks the second what it sees
    assert "goes on from step 6 of 8" in first.communicate()[0]
    second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    found = calls(killed)
    assert found[first.pid] == {"open": 2, "digest": 2, "step-00000006": 4, "step": 2, "write": 4}
    assert found[second.pid] == {"open": 2, "step": 2}


def test_the_first_rank_of_a_machine_compares_the_weights_to_begin_with(killed: Path) -> None:
    text = (killed / "recipe.yaml").read_text().replace("name: run", "name: tuned", 1)
    text = text.replace("model: {", "model: {weights: runs/run, ").replace("data: {", "data: {share: 0.3, ")
    (killed / "recipe.yaml").write_text(text)
    first, second = ranks(killed, (0, 1), DAMAGED)
    output = first.communicate()[0]
    second.communicate()
    assert "begins with runs/run@6" in output and (first.returncode, second.returncode) == (0, 0), output
    found = calls(killed)
    assert found[first.pid]["step-00000006"] and found[first.pid]["tensors"]
    assert found[second.pid] == {"open": 2, "step": found[first.pid]["step"]}


def test_what_one_machine_finds_damaged_none_uses(killed: Path) -> None:
    first, second = ranks(killed, (0, 0), DAMAGED)
    output = first.communicate()[0]
    second.communicate()
    assert "step-00000006 is damaged: optimizer.safetensors" in output and "goes on from step 3 of 8" in output, output
    assert (first.returncode, second.returncode) == (0, 0)
    for rank in (first, second):
        did = calls(killed)[rank.pid]
        assert did["open"] == did["digest"] == 2 and did["step-00000003"] == 4 and did["step"] == 5


def test_machines_with_other_data_are_refused(killed: Path) -> None:
    write_shards("digits", killed / "other", samples_per_shard=100)
    for rank in ranks(killed, (0, 0), words=f"data.root={killed / 'other'}"):
        output, _ = rank.communicate()
        assert rank.returncode == 2 and "copy the same shards to all machines" in output, output
