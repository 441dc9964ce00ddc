"""What an install brings: the same versions for CPU and for CUDA, on every Python that is named; recipes in a wheel."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PINS = ROOT / ".ci" / "constraints.txt"
PACKAGES = ("tdformer", "pipelines", "cluster")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)]
EXTRAS = [word for extra in ("dev", "augment", "docs", "onnx") for word in ("--extra", extra)]
SOURCE_ONLY = ("assertpy", "deepspeed", "fastargs")
"""They have no wheels, and nothing to compile."""


def uv(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """uv without this machine's own wheels: what the public index says is what others get."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "PIP_"))}
    command = [Path(sys.executable).with_name("uv"), *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def pinned(text: str) -> dict[str, Version]:
    """Name and version of each line `name==version`, which may have a marker."""
    lines = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    return {r.name: Version(str(r.specifier).removeprefix("==")) for r in lines}


def for_gpus(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-"))


@pytest.fixture(scope="module")
def cpu_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an installer reads of torch's CPU build, which the public index has not: it asks for no GPU
    packages, and may be the one that is installed here."""
    version = f"{Version(importlib.metadata.version('torch')).public}+cpu"
    needs = [r for r in importlib.metadata.requires("torch") or () if not for_gpus(r) and not r.startswith("triton")]
    facts = ["Metadata-Version: 2.1", "Name: torch", f"Version: {version}", *(f"Requires-Dist: {r}" for r in needs)]
    folder = tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        for name, content in (("METADATA", "\n".join(facts)), ("WHEEL", "Wheel-Version: 1.0"), ("RECORD", "")):
            wheel.writestr(f"torch-{version}.dist-info/{name}", content)
    return folder


def resolve(python: str, pins: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """What an install on Linux takes, by the metadata alone; nothing large is fetched."""
    wheels = ["--only-binary", ":all:", *(word for name in SOURCE_ONLY for word in ("--no-binary", name))]
    where = ["--python", sys.executable, "--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    what = ["pyproject.toml", *EXTRAS, "--group", "needs", "--constraint", pins]
    shown = ["--quiet", "--no-header", "--no-annotate", "--strip-extras"]
    return uv("pip", "compile", *shown, *where, *wheels, *what, *words)


@pytest.mark.network
@pytest.mark.parametrize("python", PYTHONS)
def test_everything_resolves_to_its_pin_for_cpu_and_for_cuda(python: str, cpu_build: Path) -> None:
    pins = pinned(PINS.read_text())
    cuda, cpu = resolve(python, PINS), resolve(python, PINS, "--find-links", cpu_build)
    assert cuda.returncode == cpu.returncode == 0, cuda.stderr + cpu.stderr
    on_cuda, on_cpu = pinned(cuda.stdout), pinned(cpu.stdout)
    assert on_cuda == {name: pins[name] for name in on_cuda}
    assert on_cpu["torch"].local == "cpu"
    assert on_cpu | {"torch": on_cuda["torch"]} == {n: v for n, v in on_cuda.items() if not for_gpus(n)}
    assert {"nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton"} <= on_cuda.keys()


@pytest.mark.network
def test_a_pin_that_cuda_builds_refuse_is_seen(cpu_build: Path, tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text(re.sub(r"^triton==\S+", "triton==3.9.0", PINS.read_text(), flags=re.M))
    assert resolve("3.11", pins, "--find-links", cpu_build).returncode == 0
    refused = resolve("3.11", pins)
    assert refused.returncode == 1
    assert re.search(r"torch==2\.13\.0 depends on\s+triton", refused.stderr), refused.stderr


def test_what_is_installed_here_is_what_is_pinned() -> None:
    """The Triton of these tests is the one that the CUDA build of torch asks for."""
    pins = pinned(PINS.read_text())
    found = [(canonicalize_name(d.name), Version(d.version)) for d in importlib.metadata.distributions()]
    versions = dict(reversed(found))  # the first is what is imported; setuptools has copies of its own
    here = {name: Version(version.public) for name, version in versions.items() if name in pins}
    assert {"torch", "torchvision", "triton", "deepspeed", "numpy", "uv"} <= here.keys()
    assert here == {name: pins[name] for name in here}


@pytest.mark.network
def test_the_pins_are_what_make_lock_writes(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run([tmp_path / ".ci" / "lock.sh"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".ci" / "constraints.txt").read_text() == PINS.read_text()


def test_the_pins_name_no_server() -> None:
    assert not re.search(r"://|@|^-", PINS.read_text(), re.M)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, built as a wheel and installed into a folder, without its requirements."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    how = ("--quiet", "--offline", "--no-deps", "--no-build-isolation", "--python", sys.executable, "--target", folder)
    done = uv("pip", "install", *how, source)
    assert done.returncode == 0, done.stderr
    return folder


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed command, in another folder."""
    env = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, installed / "bin" / "tdformer", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_wheel_has_every_package_and_every_recipe(installed: Path) -> None:
    expected = {path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert {path.relative_to(installed) for name in PACKAGES for path in (installed / name).rglob("*.py")} == expected
    recipes = contents(ROOT / "configs")
    assert contents(installed / "cluster" / "recipes") == recipes
    assert {"quickstart.yaml", "imagenet/hst_10_768.yaml", "imagenet/_scratch.yaml"} <= recipes.keys()
    assert {path.name for path in installed.iterdir() if path.is_dir()} == {
        *PACKAGES,
        "bin",
        f"tdformer-{PROJECT['version']}.dist-info",
    }


def test_an_installed_command_finds_its_recipes_anywhere(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "config", "show", "quickstart", "train.epochs=7")
    assert done.returncode == 0, done.stderr
    assert "name: quickstart\n" in done.stdout
    assert "  epochs: 7\n" in done.stdout
    over_bases = run(installed, tmp_path, "config", "show", "ablation/sdt_2_256_cm3_v4")
    assert (over_bases.returncode, "  epochs: 310\n" in over_bases.stdout) == (0, True), over_bases.stderr
    refused = run(installed, tmp_path, "train", "quikstart")
    assert (refused.returncode, refused.stderr) == (
        2,
        "error: quikstart: no such configuration file; recipes: quickstart\n",
    )
    prepared = run(installed, tmp_path, "prepare", "digits")
    assert (prepared.returncode, prepared.stdout) == (0, f"{installed / 'cluster' / 'recipes' / 'digits.yaml'}\n")
    assert sorted(p.name for p in (tmp_path / "data" / "digits").iterdir() if p.is_dir()) == ["test", "train"]


def test_the_pythons_that_it_installs_on_are_those_it_names() -> None:
    known = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(8, 20) if f"3.{minor}.0" in known] == PYTHONS
