"""The `tdformer` command in real processes: what it prints, what it leaves, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Command
from PIL import Image

import tdformer
from cluster.build import shards as prepares
from cluster.build.data import training_data
from cluster.build.model import build_model
from cluster.config import load, resolve
from pipelines.raw import fashion_mnist
from pipelines.store.tars import TarDataset
from tdformer.backbones import MODELS

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"

SMALL = """\
name: small
model: {time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: shards}
train: {epochs: 1, global_batch: 250, threads: 1}
log: {every_steps: 2}
"""


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that refused what it was given."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def test_config_show_prints_what_it_loads(cli: Any, tmp_path: Path):
    done = cli("config", "show", CONFIGS / "digits.yaml", "train.lr=1e-4", "name=mine")
    assert done.returncode == 0, done.stderr
    (tmp_path / "shown.yaml").write_text(done.stdout)
    assert load(tmp_path / "shown.yaml") == load(CONFIGS / "digits.yaml", ["train.lr=1e-4", "name=mine"])
    assert "lr: 0.5" in cli("config", "show", "train.lr=0.5").stdout


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


def test_import_refuses_models_and_options_that_there_are_not(cli: Any, tmp_path: Path):
    (tmp_path / "w.pth").write_bytes(b"")
    words = ("import", "w.pth", "--out", "w.safetensors", "--model")
    assert "did you mean 'hst_10_384'" in refused(cli(*words, "hst_10_383"))
    assert "model.leaky is not a setting; the nearest is model.leaky_proj_lif" in refused(
        cli(*words, "hst_2_256", "leaky=true")
    )
    assert "leaky_proj_lif belongs to QKFormer" in refused(cli(*words, "sdt_2_256", "leaky_proj_lif=true"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w.pth"]


def test_import_writes_a_model_that_starts_as_the_backbone(cli: Any, on_small_disk: Any, tmp_path: Path):
    torch.manual_seed(0)
    plain = tdformer.create_model("quickstart", image_size=8).eval()
    tdformer.save_pretrained(plain, tmp_path / "plain.safetensors")
    options = ("image_size=8", "feedback=all")
    words = ("import", "plain.safetensors", *options, "--model", "quickstart", "--out")
    done = cli(*words, "fed.safetensors")
    assert done.returncode == 0, done.stderr
    fed = tdformer.from_pretrained(tmp_path / "fed.safetensors").eval()
    assert fed.config["feedback"] == [0]
    assert f"{len(plain.state_dict())} loaded" in done.stdout
    new = fed.state_dict().keys() - plain.state_dict().keys()
    assert new and all(f"new {name}: " in done.stdout for name in new)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(fed(images), plain(images))
    line = refused(on_small_disk("-m", "cluster.cli", *words, "disk/fed.safetensors"))
    assert line.startswith("no space left to write disk/fed.safetensors")


MINE = """
from tdformer.backbones import MODELS, Entry, Spikformer, SpikformerSizes
sizes = SpikformerSizes(16, 1, 2, (False, False, True, True), bias=True)
MODELS.register("mine", Entry(Spikformer, sizes, 16, 3, 2))
"""


def test_plugins_bring_models_to_the_table_and_to_import(cli: Any, tmp_path: Path):
    (tmp_path / "mine.py").write_text(MINE)
    weights = tdformer.create_model("spikformer_2_384", width=8, depths=1, heads=2, num_classes=2, image_size=16)
    tdformer.save_pretrained(weights, tmp_path / "w.safetensors")
    words = ("import", "w.safetensors", "--model", "mine", "--out", "mine.safetensors", "width=8")
    assert "model 'mine' is unknown" in refused(cli(*words))
    done = cli(*words, "plugins=[./mine.py]")
    assert done.returncode == 0 and f"{len(weights.state_dict())} loaded" in done.stdout, done.stderr
    (line,) = (row for row in cli("models", "plugins=[./mine.py]").stdout.splitlines() if row.startswith("mine "))
    assert line.endswith("  16 x 16 x 3    4   Spikformer  width=16 depths=[1] heads=2 mlp_ratio=4")


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits as shards and a small run that was trained, by the command. The first use of a command
    on it begins an interpreter, as a user's does; others are forked."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(SMALL)
    for words in (["shard", "digits", "shards", "--samples-per-shard", "500"], ["train", "small.yaml"]):
        done = _tdformer(folder, *words)
        assert done.returncode == 0, done.stderr
    return folder


def _tdformer(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cluster.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


def test_a_run_leaves_what_it_should(trained: Path):
    run = trained / "runs" / "small"
    names = {p.name for p in run.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "speed.jsonl", "curves.png", "checkpoints", "summary.json"}
    assert load(run / "config.yaml") == load(trained / "small.yaml", ["train.norm_batch=125"])  # what is derived, too
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4, 5]  # 1,437 images in batches of 250; the last row is the evaluation
    assert rows[0]["loss"] > 0
    assert 0 <= rows[-1]["eval_accuracy"] <= 1
    assert json.loads((run / "summary.json").read_text())["step"] == 5


def test_the_same_command_again_says_that_it_is_finished(trained: Path):
    before = (trained / "runs/small/metrics.jsonl").read_bytes()
    done = Command("train", "small.yaml", cwd=trained).completed()
    assert done.returncode == 0, done.stderr
    assert "runs/small is finished" in done.stdout
    assert (trained / "runs/small/metrics.jsonl").read_bytes() == before


def test_other_settings_in_a_run_folder_are_refused(trained: Path):
    line = refused(Command("train", "small.yaml", "train.lr=0.5", cwd=trained).completed())
    assert "train.lr (0.001, now 0.5)" in line
    assert "name=" in line


def test_a_run_folder_in_use_is_refused(trained: Path, python: Any):
    program = (
        "import sys; from cluster.run.folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock():\n    print('held', flush=True); sys.stdin.readline()"
    )
    holder = python(program, trained / "runs/small")
    assert holder.stdout.readline() == "held\n"
    in_use = Command("train", "small.yaml", cwd=trained).completed()
    assert f"runs/small is in use by process {holder.pid}" in refused(in_use)


def test_eval_prints_what_training_measured(trained: Path):
    done = _tdformer(trained, "eval", "runs/small")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (trained / "runs/small/metrics.jsonl").read_text().splitlines()]
    assert result["accuracy"] == rows[-1]["eval_accuracy"]
    assert result["samples"] == 360


def test_predict_needs_the_run_alone(trained: Path, tmp_path: Path):
    shutil.copytree(trained / "runs" / "small", tmp_path / "moved")
    data = TarDataset(trained / "shards" / "test")
    (tmp_path / "digit.png").write_bytes(data.read(0)[0])
    done = _tdformer(tmp_path, "predict", "moved", "digit.png", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["image"] == "digit.png" and len(row["logits"]) == 10 and len(row["top"]) == 5
    assert [one["class"] for one in row["top"]] == [data.class_names[one["number"]] for one in row["top"]]


def test_shards_are_verified_and_damage_is_named(trained: Path, tmp_path: Path):
    done = _tdformer(trained, "shard", "verify", "shards")
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


def test_prepare_takes_the_digits_where_there_is_no_fashion_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(fashion_mnist, "FOLDER", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    assert prepares.prepare(CONFIGS / "quickstart.yaml") == CONFIGS / "digits.yaml"
    assert "fashion_mnist is not on this machine: taking digits instead" in capsys.readouterr().err
    assert (tmp_path / "data/digits/test/index.json").exists()
    assert not (tmp_path / "data/fashion_mnist/train").exists()


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


def test_data_that_nobody_has_written_names_the_command_that_does(cli: Any, tmp_path: Path):
    line = refused(cli("train", CONFIGS / "digits.yaml", "data.root=my shards"))
    assert line.startswith("my shards/train/index.json is missing: no shards are there yet; write them with: ")
    command = line.rpartition("write them with: ")[2]
    assert command == "tdformer shard digits 'my shards'"
    assert cli(*shlex.split(command)[1:]).returncode == 0
    ffcv = refused(cli("train", CONFIGS / "digits.yaml", "data.root=my shards", "data.format=ffcv"))
    assert ffcv.endswith("tdformer shard digits 'my shards' --to ffcv")
    (tmp_path / "mine.yaml").write_text("data: {dataset: folder, source: /my/pictures}")
    given = refused(cli("train", "mine.yaml"))
    assert given.endswith("tdformer shard folder data/folder --source /my/pictures")
    asked = refused(cli("launch", CONFIGS / "digits.yaml", "--where", "local", "data.dataset=cifar10"))
    assert asked.endswith(f"tdformer shard cifar10 {tmp_path}/data/cifar10 --source FOLDER_OF_THE_RAW_FILES")


def test_a_resolved_configuration_trains_the_same_and_has_no_open_ends(trained: Path):
    done = _tdformer(trained, "config", "show", "small.yaml", "--resolved", "--processes", "2")
    assert done.returncode == 0, done.stderr
    (trained / "resolved.yaml").write_text(done.stdout)
    asked, found = load(trained / "small.yaml"), load(trained / "resolved.yaml")
    data, _ = training_data(load(trained / "small.yaml", [f"data.root={trained / 'shards'}"]))
    assert build_model(found, data).config == build_model(asked, data).config
    assert resolve(found, 2) == resolve(asked, 2)
    assert None not in (found.model.num_classes, found.model.image_size, found.train.norm_batch, found.train.alphas)
    assert (found.model.num_classes, found.train.micro_batch, found.train.processes) == (10, 125, 2)
    notes = [line for line in done.stdout.splitlines() if line.startswith("# ")]
    assert "# training samples: 1437, steps: 5, of an epoch: 5" in notes and any("GiB planned" in n for n in notes)
    words = ("config", "show", "small.yaml", "data.root=none", "--resolved")
    without = Command(*words, cwd=trained).completed().stdout
    assert "none/train/index.json is missing" in without and "num_classes: null" in without


def test_a_start_says_what_it_does_before_each_thing_that_takes_long(trained: Path):
    """In a log, where each is a line; nothing of it is in the rows of the run."""
    done = _tdformer(trained, "train", "small.yaml", "name=again", "--processes", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    waits = [line for line in lines if line.startswith("... ")]
    assert waits == [
        *("... loading PyTorch", "... reading shards", "... planning the memory of a step"),
        *("... loading DeepSpeed", "... joining 2 ranks", "... the first step"),
    ]
    names = [line.split()[0] for line in lines[3:9]]
    assert names == ["model", "data", "steps", "device", "memory", "folder"] and lines[9] == "... loading DeepSpeed"
    block = "\n".join(lines[3:9])
    assert "quickstart, 0.33 M parameters, T = 2 in 2 segments" in block
    assert "1,437 pictures of 8 x 8 x 1 in 10 classes, 360 to test on; digits in shards" in block
    assert "5 in 1 epoch, each of 250 = 2 processes x 125" in block
    assert "2 x CPU, 1 thread, fp32" in block and "recompute none: at most" in block and "runs/again" in block
    for file in ("metrics.jsonl", "speed.jsonl"):
        one, other = (trained / "runs" / name / file for name in ("small", "again"))
        assert [list(json.loads(row)) for row in one.open()] == [list(json.loads(row)) for row in other.open()]


def test_version_models_and_what_a_shell_completes(cli: Any, monkeypatch: pytest.MonkeyPatch):
    said = cli("--version").stdout
    assert re.fullmatch(r"tdformer \S+ \((commit [0-9a-f]{12}(, changed)?; )?torch 2\.\S+\)\n", said)
    table = cli("models").stdout.splitlines()
    assert table[0].split() == ["name", "parameters", "GFLOP", "input", "T", "family", "options"]
    rows = [json.loads(line) for line in cli("models", "--json").stdout.splitlines()]
    own = [name for name in tdformer.list_models() if MODELS.origin(name).startswith("tdformer.")]
    assert [line.split()[0] for line in table[1:]] == [row["name"] for row in rows] == own
    (row,) = (row for row in rows if row["name"] == "quickstart")
    count = sum(p.numel() for p in tdformer.create_model("quickstart").parameters())
    assert row["parameters"] == count and row["input"] == [1, 28, 28] and row["family"] == "QKFormer"
    size = {"width": 96, "depths": [1, 1, 1], "heads": 4, "mlp_ratio": 4}
    assert row["options"] == size | {"leaky_proj_lif": False} and 0.02 < row["gflop"] < 0.04
    refused = cli("models", "model.width=48")
    assert refused.returncode == 2 and "model.width changes nothing in this table" in refused.stderr

    def completed(*words: str) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setenv("_TDFORMER_COMPLETE", "complete_bash")
            patch.setenv("COMP_WORDS", " ".join(["tdformer", *words]))
            patch.setenv("COMP_CWORD", str(len(words)))
            return cli().stdout.split()

    assert completed("train", "quick") == ["quickstart"]
    assert completed("train", "quickstart", "train.ep") == ["train.epochs=", "train.eps="]
    assert completed("train", "quickstart", "train.epo") == ["train.epochs=", "train.epochs=1"]
    assert completed("import", "--model", "hst_10_7") == ["hst_10_768"]
    assert "tdformer" in cli("--show-completion", "bash").stdout + cli("--show-completion").stdout


@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits_the_terminal_and_calls_things_by_their_names(tmp_path: Path, columns: int):
    def page(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
        done = Command(*words, "--help", cwd=tmp_path, env=environment).completed()
        assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= columns, words
        assert not re.search("<[a-z]| range", done.stdout), words
        return done.stdout

    _, *groups = re.split("^[A-Z][a-z]+:\n", page(), flags=re.MULTILINE)  # the first: options
    listed = re.findall("^  ([a-z]+) ", "".join(groups[1:]), re.MULTILINE)
    assert {"train", "launch", "shard", "models", "config"} < set(listed) and "..." not in "".join(groups)
    for command in listed:
        page(command)
    assert "--val-share SHARE" in page("shard", "write") and "--resolved" in page("config", "show")


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
