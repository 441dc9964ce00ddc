"""The `tdformer` command as a whole: what it refuses, its exit codes, and what it does without."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import refused

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"


@pytest.mark.parametrize(
    "module",
    [
        "cli",
        "run.folder",
        "jobs.status",
        "jobs.launch",
        "jobs.aftermath",
        "jobs.waiting",
        "study.element",
        "study.status",
    ],
)
def test_commands_that_need_no_model_do_not_import_it(module: str):
    """help, status, stop, logs, and the last line of every job."""
    program = f"import sys, cluster.{module}; sys.exit(any(m in sys.modules for m in ('torch', 'wandb')))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "none.yaml"], "none.yaml: no such configuration file"),
        (["train", CONFIGS / "digits.yaml", "train.lrr=1"], "the nearest is train.lr"),
        (["train", CONFIGS / "digits.yaml", "train.lr=fast"], "expected a number"),
        (["train", CONFIGS / "digits.yaml", "train.global_batch=9", "--processes", "2"], "not divisible by the 2"),
        (["train", CONFIGS / "digits.yaml", "model.segments=3"], "choose 1, 2 or 4"),
        (["config", "show", "nothing=1"], "nothing is not a setting"),
        (["train", CONFIGS / "digits.yaml", "site.minutes=5"], "site.minutes changes nothing here: it is for Slurm"),
        (["train", CONFIGS / "digits.yaml", "train.processes=2", "--processes", "3"], "train.processes=2 differ"),
        (["launch", CONFIGS / "digits.yaml", "train.processes=2"], "train.processes changes nothing here"),
        (["launch", CONFIGS / "digits.yaml", "--where", "local", "site.qos=a"], "site.qos changes nothing here"),
        (
            [
                "launch",
                CONFIGS / "digits.yaml",
                "--where",
                "local",
                "--site",
                CONFIGS.parent / "tests/cluster/site.yaml",
            ],
            "site.yaml is for Slurm",
        ),
        (["prepare", CONFIGS / "digits.yaml", "train.lr=1"], "train.lr is not of where the data lie"),
        (["status", ".", "--json", "-w"], "choose one"),
        (["export", "runs/none", "m.pt", "--batch", "2"], "--batch is of .pt2 and .onnx programs"),
        (["shard", "digits", "data", "--stored", "files"], "--stored is of FFCV files"),
        (["shard", "digits", "data", "--max-side", "9"], "--max-side is of FFCV files"),
        (["import", "w", "--model", "hst_2_256", "--out", "x", "name=hst_4_384"], "name is what --model says"),
        (["eval", "runs/none"], "no such run folder"),
        (["eval", "."], "neither a run folder nor a checkpoint"),
        (["shard", "digit", "data"], "did you mean digits?"),
        (["shard", "digits", "data", "--source", "none"], "no such folder to read digits from"),
        (["shard", "verify", "."], "holds no shards"),
        (["import", "none.pth", "--model", "hst_10_384", "--out", "x.safetensors"], "no such file"),
    ],
    ids=lambda x: " ".join(str(w) for w in x if not isinstance(w, Path)) if isinstance(x, list) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(cli: Any, tmp_path: Path, words: list[Any], expected: str):
    before = sorted(tmp_path.rglob("*"))
    assert expected in refused(cli(*words))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_wrong_command_is_a_usage_error(cli: Any):
    done = cli("trian")
    assert done.returncode == 2
    assert "train" in done.stderr


def test_an_interrupt_ends_with_130(tmp_path: Path, python: Any):
    # A suite in the background of a shell has SIGINT ignored, and so have its children.
    listen = "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler)"
    tell = "sleep = time.sleep; time.sleep = lambda seconds: (print('on', flush=True), sleep(seconds))"
    process = python(f"{listen}; {tell}; from cluster.cli import main; main()", "status", "--watch", tmp_path)
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err


def test_the_version_says_its_commit_and_torch(cli: Any):
    said = cli("--version").stdout
    assert re.fullmatch(r"tdformer \S+ \((commit [0-9a-f]{12}(, changed)?; )?torch 2\.\S+\)\n", said)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "train.epochs=2", "quickstart"], "comes first: tdformer train quickstart train.epochs=2"),
        (["eval", "data.root=here", "runs/a"], "comes first: tdformer eval runs/quickstart data.root=here"),
        (["config", "show", "--processes", "2"], "add --resolved"),
        (["shard", "folder", "out", "--source", ".", "--val-share", "10"], "--val-share is 10; it is a share"),
        (["shard", "digits", "out", "--val-share", "0.1"], "digits has a test set; leave it out"),
    ],
)
def test_what_a_newcomer_types_is_one_line_that_helps(cli: Any, tmp_path: Path, words: list[str], expected: str):
    assert expected in refused(cli(*words))
    assert not list(tmp_path.iterdir())


def test_usage_errors_say_what_is_missing(cli: Any):
    assert "Missing argument 'CONFIG'. A YAML file, or a recipe such as quickstart" in cli("train").stderr
    assert (
        "No such option: --epochs; it is a setting: train.epochs=..." in cli("train", "digits", "--epochs", "2").stderr
    )
    assert cli("train", "-h").stdout == cli("train", "--help").stdout
