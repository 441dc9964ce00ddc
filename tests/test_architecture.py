"""Rules about the tree as a whole: who may import whom, and what no file may say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.name[0] != "_")
RECIPES = [path for path in RECIPES if path.parent.name != "studies"]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def tracked() -> list[Path]:
    """Every file that git keeps or would keep."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_packages_keep_the_import_rules() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_page_draws_the_house_as_it_is() -> None:
    drawn = subprocess.run([sys.executable, ROOT / ".ci" / "house.py"], cwd=ROOT, capture_output=True, text=True).stdout
    assert drawn and f"```text\n{drawn}```" in (ROOT / "docs" / "design.md").read_text(), drawn


def test_the_page_names_every_room() -> None:
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rooms = {
        room for rule in rules if rule["id"].endswith("-rooms") for room in re.findall(r"\w+", str(rule["layers"]))
    }
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "design.md").read_text()))
    assert len(rooms) > 20 and rooms <= named


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("tdformer", "cluster"),
        ("tdformer", "pipelines"),
        ("pipelines", "cluster"),
        ("pipelines", "tdformer"),
        ("tdformer", "deepspeed"),
        ("pipelines", "omegaconf"),
    ],
)
def test_the_import_rules_refuse(importer: str, imported: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("tdformer", "pipelines", "cluster"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert lint_imports(tmp_path).returncode == 0
    (tmp_path / importer / "wrong.py").write_text(f"import {imported}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert f"{importer} is not allowed to import {imported}" in result.stdout


@pytest.mark.parametrize("code", ["from typing import Any\nx: Any = 1\n", "import typing\nx: typing.Any = 1\n"])
def test_any_is_refused_where_no_library_is_the_reason(code: str) -> None:
    for name, refused in (("tdformer/new.py", True), ("cluster/run/new.py", True), ("tdformer/kernels/gpu.py", False)):
        command = [Path(sys.executable).with_name("ruff"), "check", "--stdin-filename", name, "-"]
        result = subprocess.run(command, cwd=ROOT, input=code, capture_output=True, text=True)
        assert ("TID251" in result.stdout) == refused, result.stdout + result.stderr


def test_the_list_of_files_that_may_use_any_is_that_of_those_that_do() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    imported = re.compile(r"^from typing import .*\bAny\b", re.MULTILINE)
    files = [path for package in ("tdformer", "pipelines", "cluster") for path in (ROOT / package).rglob("*.py")]
    assert {name for name in settings["per-file-ignores"] if "*" not in name} == {
        str(path.relative_to(ROOT)) for path in files if imported.search(path.read_text())
    }


def test_a_run_has_its_model_from_one_file() -> None:
    """What a configuration, a checkpoint or an export stands for is made in build/model.py."""
    made = re.compile(r"\bcreate_model\((?!name, \.\.\.)")
    others = {
        "cli/models.py",  # by name: the table, and an import
        "results/undescribed.py",  # weights of which only their header or the command line says the model
        "study/extrapolate.py",  # a fit's, by the options that a report gives
    }
    files = [path for path in (ROOT / "cluster").rglob("*.py") if made.search(path.read_text())]
    assert {str(path.relative_to(ROOT / "cluster")) for path in files} == {"build/model.py"} | others


def test_no_file_points_outside_the_repository() -> None:
    outside = b"../" + b"shared"  # in two parts, or this file would name it
    assert [str(path.relative_to(ROOT)) for path in tracked() if outside in path.read_bytes()] == []


def test_no_large_file_is_tracked() -> None:
    """Data, checkpoints and environments are made, not stored."""
    assert [path.name for path in tracked() if path.stat().st_size > 1 << 20] == []


@pytest.mark.parametrize("config", RECIPES, ids=lambda path: path.name)
def test_a_config_begins_with_the_command_that_runs_it(config: Path) -> None:
    first = config.read_text().splitlines()[0]
    assert re.fullmatch(rf"# tdformer train {re.escape(str(config.relative_to(ROOT)))}( \S+=\S+)*", first)


def test_links_between_pages_lead_somewhere() -> None:
    pages = [path for path in tracked() if path.suffix == ".md"]
    broken = [
        f"{page.relative_to(ROOT)} -> {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert pages
    assert broken == []
