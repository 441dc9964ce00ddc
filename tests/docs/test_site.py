"""The site of the pages: built without a warning and without a network, with what the code says on it."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from blocks import script

import cluster.config as configs
import tdformer
from cluster.cli.app import app

ROOT = Path(__file__).parents[2]
HOW = ROOT / ".ci" / "docs"


def build(where: Path, source: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """As `make docs` does, where nothing outside this machine can be reached."""
    words = [
        "build",
        "--strict",
        "--config-file",
        source / ".ci" / "docs" / "mkdocs.yml",
        "--site-dir",
        where,
    ]
    env = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    command = [Path(sys.executable).with_name("mkdocs"), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def text(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_nothing_is_fetched_when_it_is_read(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*"', page.read_text())
        assert fetched == [], page


def test_every_command_and_setting_is_on_its_page(site: Path) -> None:
    commands, settings = text(site / "commands.html"), text(site / "settings.html")
    top = typer.main.get_command(app)
    assert top.commands
    for name, command in top.commands.items():
        assert f"tdformer {name}" in commands
        for option in (word for given in command.params for word in given.opts if word.startswith("--")):
            assert option in commands, f"{name} {option}"
    for name, value in configs.flat(configs.Config()).items():
        assert re.search(rf"^{re.escape(name)}\n{re.escape(shown(value))}\n", settings, re.M), name
    assert re.search(r"^recompute\.policy\nauto\nauto, none, block, time or unit", settings, re.M)  # with a registry's
    assert "drawn beside curves.png; plugins add some" in settings  # a comment of default.yaml


def shown(value: object) -> str:
    return str(script("reference")._code(value)).strip("`")


def test_everything_that_the_model_offers_is_on_its_page(site: Path) -> None:
    page = (site / "api.html").read_text()
    assert [name for name in tdformer.__all__ if f'id="tdformer.{name}"' not in page] == []


def test_every_page_is_in_the_navigation(site: Path) -> None:
    index = (site / "index.html").read_text()
    assert [
        p.stem for p in (ROOT / "docs").glob("*.md") if f'href="{p.stem}.html"' not in index and p.stem != "index"
    ] == []


def test_what_leads_nowhere_fails(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("docs", ".ci", ".git", "build"):
            (tree / path.name).symlink_to(path)
    shutil.copytree(ROOT / ".ci", tree / ".ci")
    rows = "| Page | |\n|---|---|\n| [Model](model.md) | |\n| [Memory](memory.md) | |\n"
    good = {"index.md": f"# Pages\n\n## Some\n\n{rows}", "model.md": "# Model\n", "memory.md": "# Memory\n"}
    wrong = {"model.md": "[gone](nowhere.md) [gone](memory.md#no-such-title)", "lost.md": "# In no table of index.md"}
    (tree / "docs").mkdir()
    for page, of_it in good.items():
        (tree / "docs" / page).write_text(of_it)
    done = build(tmp_path / "site", tree)
    assert done.returncode == 0, done.stderr
    for page, line in wrong.items():
        with (tree / "docs" / page).open("a") as file:
            file.write(f"\n{line}\n")
    done = build(tmp_path / "site", tree)
    assert done.returncode == 1
    for said in ("nowhere.md", "no-such-title", "lost.md"):
        assert said in done.stderr


def test_comments_of_a_file_of_settings() -> None:
    found = script("reference").comments(
        "# Of a.\na:\n  b: 1  # one\n         # and more\n  c: '#'\n\n# alone\n\nd: [1, 2]  # two: 2\n"
    )
    assert found == {"a": "Of a.", "a.b": "one and more", "a.c": "", "d": "two: 2"}
