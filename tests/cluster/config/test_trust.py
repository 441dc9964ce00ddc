"""What lies in run folders and beside exported files can be a stranger's: it runs nothing, and keeps no secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import config as configs
from cluster.build.shards import write_shards
from cluster.config import Config, check_commands, load, to_yaml
from cluster.errors import RunError
from cluster.jobs.launch import resume
from cluster.results.export import evaluate_export
from cluster.train.evaluate import evaluate_run

TEXTS = [
    "${oc.env:HOME}",
    "${oc.env:NOWHERE}",
    "${oc.decode:x}",
    "${nothing:x}",
    "${name}",
    "a${seed}b",
    "\\${name}",
    "\\\\${x}",
    "x\\y$z",
    "${",
    "${}",
    "$HOME {x}",
]
SECRETS = [
    "https://me:hunter2@host/set",
    "https://hunter2@host/set",
    "https://host/set?token=hunter2",
    "https:/me:hunter2@host/set",
    "http://host/set?hunter2",
    "sftp://me:hunter2@host/set",
    "gs://host/set?sig=hunter2",
    "s3://me:hunter2@host/set",
    "pipe:curl https://me:hunter2@host/{}",
    "pipe:curl 'https://host/{}?part=1&token=hunter2' | cat",
]
PUBLIC = [
    "https://host:8080/set",
    "sftp://me@host/set",
    "pipe:curl -f https://host/{}?token=$TOKEN",
    "pipe:curl https://me:$PASSWORD@host/{}",
    "pipe:ssh me@host cat '/set/{}'",
    "file:///set",
]


@pytest.mark.parametrize("text", TEXTS)
def test_stored_text_is_text(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the run has written it, in values and in lists."""
    monkeypatch.delenv("NOWHERE", raising=False)
    config = Config(name="x")
    config.data.root, config.site.setup = text, [text, "other"]
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    for read in (load(path, ["seed=3"]), configs.stored(path, ["seed=3"])):
        assert (read.data.root, read.site.setup, read.seed) == (text, [text, "other"], 3)


@pytest.mark.parametrize("text", [text for text in TEXTS if "${" in text])
@pytest.mark.parametrize("key", ["data.root", "site.setup"])
def test_nothing_stored_is_resolved(text: str, key: str) -> None:
    """Of a description that others have written: it stays as it is."""
    value = text if key == "data.root" else ["x", text]
    config = configs.stored(Path("x.json"), kept={key: value})
    assert configs.flat(config)[key] == value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder without a checkpoint, and its shards."""
    folder = tmp_path_factory.mktemp("stored")
    write_shards("digits", folder / "shards")
    (folder / "run" / "checkpoints").mkdir(parents=True)
    return folder


STEP = "step-00000001"


def stored(run: Path, key: str, value: Any) -> dict[str, Any]:
    """Settings for the run's folder and an exported file."""
    config = Config(name="run", runs_dir=str(run))
    config.data.dataset, config.data.window = "digits", 1
    flat = configs.flat(config) | {key: value}
    (run / "run" / "checkpoints" / STEP).mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({k: list(v) if isinstance(v, tuple) else v for k, v in flat.items()})
    for name in ("config.yaml", "launch.yaml"):
        (run / "run" / name).write_text(text)
    (run / "run" / "job.json").write_text(
        json.dumps({"id": "1", "slurm": False, "nodes": 1, "processes": 1, "gpus": 0})
    )
    (run / "x.safetensors").write_bytes(b"")
    described = {"model": {"name": "quickstart"}, "config": flat, "checkpoint": "step-1", "step": 1}
    (run / "x.safetensors.json").write_text(json.dumps(described))
    return flat


def commands(run: Path, key: str) -> list[Any]:
    """Every command that takes up stored settings and would run what `key` holds."""
    every: list[Any] = [lambda *words: resume(run / "run", list(words))]
    if key == "data.root":
        every.append(lambda *words: list(evaluate_run(run / "run" / "checkpoints" / STEP, words)))
        every.append(lambda *words: evaluate_export(run / "x.safetensors", words))
    return every


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("data.root", lambda touch: f"pipe:{touch}; cat {{}}"),
        ("data.root", lambda touch: f"PIPE:/bin/{touch} {{}}"),
        ("site.setup", lambda touch: [touch]),
        ("site.srun", lambda touch: [f"--task-prolog={touch}"]),
        ("site.sbatch", lambda touch: [f"prolog={touch}"]),
        ("site.python", lambda touch: f"{touch}; python"),
    ],
    ids=["pipe", "upper", "setup", "srun", "sbatch", "python"],
)
def test_a_stored_command_is_not_run(run: Path, tmp_path: Path, key: str, make: Any) -> None:
    stored(run, key, make(f"touch {tmp_path}/ran"))
    for command in commands(run, key):
        with pytest.raises(RunError, match=f"has a stored command, {key}=.*touch .*only run where it is given again"):
            command()
        with pytest.raises(RunError, match="has a stored command"):
            command("data.workers=0")
    assert not (tmp_path / "ran").exists()
    path, site = run / "run" / "config.yaml", tmp_path / "site.yaml"
    site.write_text("setup: [module load cuda]\nsbatch: [exclusive]\nsrun: []\npython: null\n")
    none = "null" if key in ("data.root", "site.python") else "[]"
    for words, file in (([f"{key}={none}"], None), (["data.root=x"], site)):
        config = configs.stored(path, words, site=file)
        check_commands(config, path, words, site=file)
    assert (config.site.setup, config.site.sbatch, config.site.srun) == (["module load cuda"], ["exclusive"], [])


@pytest.mark.parametrize("key", ["name", "runs_dir", "site.account", "site.partition", "site.mail_on", "site.sbatch"])
def test_a_setting_is_one_line_of_the_jobs_script(key: str) -> None:
    """A second one would be a command."""
    value: Any = "x\ntouch ran #"
    with pytest.raises(RunError, match=f"{key} is .*becomes a line of the job's script, so it must be one"):
        configs.stored(Path("x.yaml"), kept={key: [value] if key == "site.sbatch" else value})


def test_a_command_that_is_given_now_is_run(run: Path, tmp_path: Path) -> None:
    command = f"pipe:touch {tmp_path}/ran; cat {run}/shards/{{}}"
    stored(run, "data.root", command)
    words = [f"data.root='{command}'", f"data.cache={tmp_path / 'cache'}"]
    with pytest.raises(RunError, match=STEP):  # nothing is in it: it gets that far
        list(evaluate_run(run / "run" / "checkpoints" / STEP, words))
    with pytest.raises(Exception, match="safetensors"):
        evaluate_export(run / "x.safetensors", words)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("root", SECRETS)
def test_a_secret_in_a_url_is_refused_and_not_shown(cli: Any, tmp_path: Path, root: str) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"data": {"root": root, "window": 2}}))
    for words in ([tmp_path / "recipe.yaml", []], [None, [f"data.root='{root}'" if "'" not in root else "seed=0"]]):
        if words[1] == ["seed=0"]:
            continue
        with pytest.raises(RunError) as error:
            load(*words)
        assert "hunter2" not in str(error.value) and "\n" not in str(error.value)
    done = cli("train", "recipe.yaml")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "hunter2" not in done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml"]


@pytest.mark.parametrize("root", PUBLIC)
def test_a_root_without_one_is_taken(root: str, tmp_path: Path) -> None:
    config = Config()
    config.data.root, config.data.window = root, 2
    (tmp_path / "x.yaml").write_text(to_yaml(config))
    assert load(tmp_path / "x.yaml").data.root == root


def test_a_secret_that_an_earlier_version_stored_is_refused_where_it_is_used(run: Path) -> None:
    flat = stored(run, "data.root", "https://host/set?token=hunter2")
    assert configs.stored(run / "run" / "config.yaml").data.root == flat["data.root"]
    with pytest.raises(Exception, match=r"data.root|https://host/set\?\*\*\* has a password or a query") as error:
        evaluate_export(run / "x.safetensors")
    assert "hunter2" not in str(error.value)
