"""Damaged files of a run folder: what a result depends on is refused in one line, what only informs is left out and
counted, and `tdformer status` shows every other run as if nothing were wrong."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import Command
from safetensors.torch import load_file

import tdformer
from cluster.build.shards import write_shards
from cluster.cli import app as cli
from cluster.config import flat, load, to_yaml
from cluster.errors import RunError
from cluster.jobs import status as jobs
from cluster.run import checkpoint, wandb_id
from cluster.run.folder import RunFolder
from cluster.run.records import Rows, write_atomic
from cluster.run.weights import located

ROOT = Path(__file__).parents[3]
JOB = {"id": "7", "slurm": False, "nodes": 1, "processes": 1, "gpus": 0}


def launched(path: Path) -> RunFolder:
    """A run that was launched and saved step 4, with every file that one has; nothing of it was computed."""
    config = load(None, [f"runs_dir={path.parent}", f"name={path.name}", "data.dataset=digits", "model.time_steps=2"])
    run = RunFolder(path)
    run.open(config)
    write_atomic(path / "launch.yaml", to_yaml(config).encode())
    write_atomic(path / "job.json", json.dumps(JOB | run.mark()).encode())
    run.metrics.append({"step": 4, "epoch": 0, "loss": 2.3017})
    run.speed.append({"step": 4, "images": 512, "seconds": 1.5, "data_wait_seconds": 0.1})
    run.health.append({"warning": "a warning", "step": 4})
    run.crashes.append({"time": 1.0, "job": "7", "exit_code": 1, "checkpoint": 4})
    model = tdformer.create_model("quickstart", time_steps=2, in_channels=1, image_size=8)
    state = {"format": 2, "state": {"step": 4}, "model": model.config, "config": flat(config)}
    checkpoint.save(run.checkpoints, 4, {"model": model.state_dict()}, state, 1)
    (path / "logs").mkdir()
    (path / "logs" / "7_0_log.out").write_text("what rank 0 said\n")
    facts = {"loss": 2.3017, "images_per_second": 341.3, "seconds_left": 60.0, "restarts": "1", "reason": "it crashed"}
    run.tell("saved", step=4, total=64, started_at=0, warnings=1, host="here", pid=1, **facts)
    wandb_id.identity(run)
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs of which `bad` may be damaged."""
    for name in ("a", "bad", "z"):
        launched(tmp_path / "runs" / name)
    return tmp_path / "runs"


def replace(path: Path, make: Callable[[Path], Any]) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    make(path)


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes | Callable[[Path], Any]]] = {
    "empty": lambda old, _: b"",
    "cut": lambda old, at: old[: at.randrange(len(old))],
    "flipped": lambda old, at: (
        old[: (n := at.randrange(len(old)))] + bytes([old[n] ^ 1 << at.randrange(8)]) + old[n + 1 :]
    ),
    "zeros": lambda old, _: bytes(len(old)),
    "list": lambda old, _: b"[]",
    "number": lambda old, _: b"NaN",
    "not utf-8": lambda old, _: b"\xff\xfe" + old,
    "deep": lambda old, _: b"[" * 5000,
    "folder": lambda old, _: Path.mkdir,
    "fifo": lambda old, _: os.mkfifo,
    "loop": lambda old, _: lambda path: path.symlink_to(path),
    "missing": lambda old, _: lambda path: None,
}
VALUES = (
    None,
    True,
    -1,
    10**400,
    float("nan"),
    float("inf"),
    1e308,
    "",
    "7; rm",
    "\x1b[2J",
    [],
    {"a": 1},
    "-u",
    "[/x]",
)


def damages(path: Path) -> Iterator[tuple[str, bytes | Callable[[Path], Any]]]:
    """What can become of a file: see DAMAGE; and for a JSON object also each of its values another one, or missing."""
    old, at = path.read_bytes(), random.Random(path.name)
    for name, damage in DAMAGE.items():
        for _ in range(4 if name in ("cut", "flipped") else 1):
            yield name, damage(old, at)
    if path.suffix == ".json":
        content = json.loads(old)
        for key in content:
            yield f"without {key}", json.dumps({k: v for k, v in content.items() if k != key}).encode()
            for value in VALUES:
                yield f"{key} {value!r}"[:30], json.dumps(content | {key: value}).encode()


def damaged(path: Path) -> Iterator[str]:
    """Damage a file in one way after the other, and mend it at the end."""
    old = path.read_bytes()
    for name, new in damages(path):
        replace(path, lambda p, new=new: p.write_bytes(new) if isinstance(new, bytes) else new(p))
        yield name
    replace(path, lambda p: p.write_bytes(old))


def tdformer_(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """The command in this process: exit code, output, errors. Anything but its own end is a defect."""
    capsys.readouterr()
    before, sys.argv = sys.argv, ["tdformer", *map(str, words)]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    return int(ended.value.code or 0), *capsys.readouterr()


FILES = ("status.json", "job.json", "launch.yaml", "config.yaml", "metrics.jsonl", "health.jsonl", "wandb_id")


def test_status_shows_every_other_run_whatever_is_damaged(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def others(rows: list[jobs.Row]) -> list[jobs.Row]:
        return [row for row in rows if row["run"] != "bad"]

    whole = jobs.table(runs)
    assert [row["run"] for row in whole] == ["a", "bad", "z"]
    assert whole[1] == whole[0] | {"run": "bad"} and whole[0]["state"] == "saved" and whole[0]["reason"] == "it crashed"
    seen = 0
    for file in FILES:
        for how in damaged(runs / "bad" / file):
            rows = jobs.table(runs)
            assert others(rows) == others(whole), (file, how)
            assert json.loads(json.dumps(rows)) == rows and len(rows) == 3
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("COLUMNS", "300")
                jobs.show(runs, False)
            assert "\x1b" not in capsys.readouterr().out
            seen += rows[1] != whole[1]
    assert seen > 100  # most of what is done to the two files that it reads is told
    assert jobs.table(runs) == whole


def test_status_of_strays(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = jobs.table(runs)
    checkpoints = runs / "bad" / "checkpoints"
    for name in ("step-00000015.bak", "step-", "step-x", "step-١٢٣٤٥٦٧٨", "best.txt", os.fsdecode(b"step-\xff")):
        (checkpoints / name).mkdir()
    (runs / "notes.txt").write_text("of the user")
    (runs / "empty").mkdir()
    (runs / "loop").symlink_to(runs / "loop")
    os.mkfifo(runs / "fifo")
    assert jobs.table(runs) == whole
    shutil.copytree(runs / "a", runs / os.fsdecode(b"caf\xe9"))
    names = [row["run"] for row in jobs.table(runs)]
    assert names == ["a", "bad", "caf\udce9", "z"]
    code, out, err = tdformer_(capsys, "status", runs)
    assert code == 0 and "caf?" in out and not err
    code, out, err = tdformer_(capsys, "status", runs / "z", "--json")
    assert code == 0 and [json.loads(line)["run"] for line in out.splitlines()] == ["z"]
    code, out, err = tdformer_(capsys, "stop", runs / "empty")
    assert code == 2 and "is not a launched run" in err


def test_a_folder_that_may_not_be_read_is_a_row_and_one_line() -> None:
    """To another user, where this one is root: nobody refuses root."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        for name in ("a", "bad", "z"):
            launched(Path(place) / name)
        bad = Path(place) / "bad"
        bad.chmod(0)
        child = os.fork()
        if child == 0:
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                rows = jobs.table(Path(place))
                assert [row["state"] for row in rows] == ["saved", "damaged", "saved"]
                assert "Permission denied" in rows[1]["reason"]
                for command in (jobs.existing, located, RunFolder.summary, RunFolder.config):
                    with pytest.raises((RunError, PermissionError), match="Permission denied"):
                        command(bad if command in (jobs.existing, located) else RunFolder(bad))
                os._exit(0)
            finally:
                traceback.print_exc()
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        bad.chmod(0o755)


COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "stop": (("job.json",), ()),
    "logs": (("job.json",), ()),
    "resume": (("job.json", "launch.yaml"), ()),
    "eval": (("config.yaml", "state.json", "manifest.json", "model.safetensors"), ()),
    "export": (("config.yaml", "state.json", "manifest.json", "model.safetensors"), ("x.safetensors",)),
}
"""What each of them reads, and its other words."""


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_on_a_damaged_run_are_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Each either does what it does with a whole run, or refuses; there are no shards here, so `eval` and `resume` get
    no further than to look for them."""
    monkeypatch.chdir(runs)
    files, more = COMMANDS[command]
    without_shards = {"eval": 2, "resume": 2}.get(command, 0)
    checkpoint = runs / "bad" / "checkpoints" / "step-00000004"
    whole, _, err = tdformer_(capsys, command, runs / "bad", *more)
    assert whole == without_shards and ("index.json is missing" in err) == bool(without_shards), err
    for file in files:
        path = next(p for p in (runs / "bad" / file, checkpoint / file) if p.exists())
        refused = {True: 0, False: 0}
        for how in damaged(path):
            code, _, err = tdformer_(capsys, command, runs / "bad", *more)
            assert code in (0, 2) and "Traceback" not in err, (file, how)
            lines = [line for line in err.splitlines() if not line.startswith("warning: checkpoint")]
            assert code == 0 or (len(lines) == 1 and lines[0].startswith("error: ")), (file, how, err)
            refused[code == 2 and "index.json is missing" not in err] += 1
        assert refused[True] > refused[False], file


RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS}
train: {epochs: 1, global_batch: 160, micro_batch: 40, threads: 1}
checkpoint: {every_steps: 3, keep: 9}
log: {curves: false, every_steps: 1}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    write_shards("digits", folder / "shards", samples_per_shard=500)
    (folder / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(folder / "shards")))
    return folder / "recipe.yaml"


def train(recipe: Path, runs: Path) -> tuple[int, str]:
    process = Command("train", recipe, f"runs_dir={runs}", cwd=ROOT, merged=True)
    output, _ = process.communicate()
    assert process.returncode is not None
    return process.returncode, output


@pytest.fixture(scope="module")
def trained(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 8 steps; to be read only."""
    runs = tmp_path_factory.mktemp("trained")
    code, output = train(recipe, runs)
    assert code == 0, output
    return runs


@pytest.fixture
def killed(trained: Path, tmp_path: Path) -> RunFolder:
    """The same run as if it had been killed after step 8, when its last checkpoint was that of step 6."""
    run = RunFolder(shutil.copytree(trained, tmp_path / "killed") / "run")
    run.summary_file.unlink()
    shutil.rmtree(run.checkpoints / "step-00000008")
    return run


def state_of(run: RunFolder) -> dict[str, Any]:
    return checkpoint.load(run.checkpoints / "step-00000006")[1]


def rewrite(run: RunFolder, change: Callable[[dict[str, Any]], Any]) -> None:
    """The state of step 6 as if it had been saved after `change`."""
    state = state_of(run)
    change(state)
    parts = {p.stem: load_file(p) for p in (run.checkpoints / "step-00000006").glob("*.safetensors")}
    checkpoint.save(run.checkpoints, 6, parts, state, 9)


def test_no_changed_byte_of_the_metrics_is_accepted(killed: RunFolder) -> None:
    """Before the checkpoint's length, that is; what comes after it is written again."""
    state, whole, at = state_of(killed)["state"], killed.metrics.path.read_bytes(), random.Random(0)
    size, digest = state["metrics_bytes"], state["metrics_sha256"]
    assert digest == hashlib.sha256(whole[:size]).hexdigest() and 0 < size < len(whole)
    digits = [i for i in range(size) if whole[i : i + 1].isdigit()]
    changes = [(i, bytes([48 + (whole[i] - 47) % 10])) for i in at.sample(digits, 100)]
    changes += [(i, bytes([whole[i] ^ 1 << at.randrange(8)])) for i in at.sample(range(size), 100)]
    for place, new in changes:
        changed = whole[:place] + new + whole[place + 1 :]
        killed.metrics.path.write_bytes(changed)
        with pytest.raises(RunError, match="metrics.jsonl is not what it was .*restore the file"):
            RunFolder(killed.path).metrics.truncate(size, digest)
        assert killed.metrics.path.read_bytes() == changed
    for after in (whole, whole[:size], whole[:size] + b"\xff\n{", whole[: size + 5]):
        killed.metrics.path.write_bytes(after)
        rows = Rows(killed.metrics.path)
        rows.truncate(size, digest)
        assert killed.metrics.path.read_bytes() == whole[:size] and rows.digest() == digest
        rows.append({"step": 7})
        assert rows.digest() == hashlib.sha256(killed.metrics.path.read_bytes()).hexdigest()


def test_a_changed_digit_ends_the_start_in_one_line(killed: RunFolder, recipe: Path) -> None:
    whole = killed.metrics.path.read_bytes()
    place = whole.index(b'"loss": ') + len(b'"loss": ')
    changed = whole[:place] + b"7" + whole[place + 1 :]
    killed.metrics.path.write_bytes(changed)
    code, output = train(recipe, killed.path.parent)
    assert code == 2 and "metrics.jsonl is not what it was when the checkpoint was written" in output
    assert "Traceback" not in output and killed.metrics.path.read_bytes() == changed


def test_what_only_informs_is_left_out_and_counted(killed: RunFolder, recipe: Path, trained: Path) -> None:
    """By a start that goes on from a checkpoint of before there were digests."""

    def before(state: dict[str, Any]) -> None:
        del state["format"], state["state"]["metrics_sha256"]

    rewrite(killed, before)
    damage = b'[]\n{"step": 3, "images": "x"}\n\xff\xfe\n' + bytes(9) + b'\n{"step": NaN}\n{"half'
    for rows in (killed.speed, killed.health, killed.starts, killed.crashes, killed.clock):
        with rows.path.open("ab") as file:
            file.write(damage)
    code, output = train(recipe, killed.path.parent)
    assert code == 0 and "goes on from step 6 of 8" in output, output
    assert "speed.jsonl has 5 damaged lines" in output and "health.jsonl has 3 damaged lines" in output
    assert killed.metrics.path.read_bytes() == RunFolder(trained / "run").metrics.path.read_bytes()
    assert [row["step"] for row in killed.speed.whole("step", "seconds")[0]][-2:] == [
        7,
        8,
    ]  # none is lost after half a row
    assert killed.starts.whole("pid")[0][-1]["pid"] == killed.status()["pid"]


def newer(state: dict[str, Any]) -> None:
    state["format"] = 3


def unknown(state: dict[str, Any]) -> None:
    state["state"]["mood"] = "good"


def other_type(state: dict[str, Any]) -> None:
    state["state"]["cursor"] = []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (newer, "step-00000006 is of a newer version (format 3, this one reads up to 2); update tdformer"),
        (unknown, "step-00000006 has a state of another version"),
        (other_type, "step-00000006 has a state of another version"),
    ],
)
def test_a_state_of_another_version_is_one_line(
    killed: RunFolder, recipe: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    rewrite(killed, change)
    metrics = killed.metrics.path.read_bytes()
    code, output = train(recipe, killed.path.parent)
    assert code == 2 and said in output and "Traceback" not in output, output
    assert killed.metrics.path.read_bytes() == metrics


@pytest.mark.parametrize("line", [b"[]", b"", b"{", b'{"stfp": 3}', b'{"step": "3"}', b"\xff", b"\0" * 40])
def test_damaged_metrics_without_a_digest_are_named_by_their_line(tmp_path: Path, line: bytes) -> None:
    rows = Rows(tmp_path / "metrics.jsonl")
    rows.path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 4}\n')
    with pytest.raises(RunError, match="metrics.jsonl is damaged in line 2; restore the file"):
        rows.read("step")
    assert rows.whole("step") == ([{"step": 1}, {"step": 4}], [2])
