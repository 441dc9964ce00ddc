"""Modules of others that a configuration names: imported before its choices are checked, not as it is stored."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import config as configs
from cluster.build.optimizers import OPTIMIZERS
from cluster.config import Config, check_commands, load
from cluster.config.plugins import noted, source
from cluster.errors import RunError

PLUGIN = """
from pathlib import Path
from cluster.build.optimizers import OPTIMIZERS
Path(__file__).with_name("ran").touch()
OPTIMIZERS.register("of_plugin", OPTIMIZERS.get("sgd"))
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test's imports are another's."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(OPTIMIZERS, "_entries", {**OPTIMIZERS._entries})
    modules = {*sys.modules}
    yield
    for name in [name for name in sys.modules if name not in modules and name.startswith("lab")]:
        del sys.modules[name]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A configuration with a plugin's optimizer, and beside it the plugin: a file and a package."""
    (tmp_path / "lab_file.py").write_text(PLUGIN)
    (tmp_path / "lab" / "deep").mkdir(parents=True)
    (tmp_path / "lab" / "__init__.py").write_text("")
    (tmp_path / "lab" / "deep" / "__init__.py").write_text(PLUGIN + "from .. import helper\n")
    (tmp_path / "lab" / "helper.py").write_text("VALUE = 1\n")
    (tmp_path / "recipe.yaml").write_text("name: x\ntrain: {optimizer: of_plugin}\n")
    return tmp_path / "recipe.yaml"


def with_plugins(recipe: Path, *plugins: str) -> Path:
    recipe.write_text(recipe.read_text() + f"plugins: [{', '.join(plugins)}]\n")
    return recipe


@pytest.mark.parametrize("entry", ["lab.deep", "lab_file", "./lab_file.py", "lab/deep/"])
def test_what_a_plugin_adds_is_a_choice(recipe: Path, entry: str) -> None:
    """By its name, looked for beside the file too, or by its path from there."""
    with pytest.raises(RunError, match="train.optimizer is of_plugin; choose adamw, lamb or sgd"):
        load(recipe)
    if entry == "lab/deep/":
        (recipe.parent / "lab" / "deep" / "__init__.py").write_text(PLUGIN)  # alone it has no package above it
    config = load(with_plugins(recipe, entry))
    assert config.train.optimizer == "of_plugin" and OPTIMIZERS.origin("of_plugin").startswith(("lab", "deep"))
    sys.modules.pop("deep", None)


def test_the_command_line_names_them_from_where_one_is(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent / "lab")
    config = load(recipe, ["plugins=[../lab_file.py]"])
    assert config.plugins == [f"{recipe.parent}/lab/../lab_file.py"]
    assert source(config.plugins[0]).name == "lab_file.py"


@pytest.mark.parametrize(
    ("plugin", "content", "said"),
    [
        (
            "lab_none",
            None,
            "lab_none, which cannot be imported (ModuleNotFoundError: No module named 'lab_none'); install",
        ),
        ("./lab_none.py", None, "lab_none.py, where no Python file or package is; mend the path"),
        (
            "lab_broken",
            "x = 1\nraise ValueError('so\\nit is')",
            "(ValueError: so, {}, line 2); mend it, or leave it out",
        ),
        ("./lab_broken.py", "import sys\nsys.exit(3)", "(SystemExit: 3, {}, line 2); mend it, or leave it out"),
        ("lab_broken", "import lab_other", "(ModuleNotFoundError: No module named 'lab_other', {}, line 1); mend it"),
        ("lab_broken", "def", "lab_broken, which cannot be imported (SyntaxError: "),
        ("./lab-broken.py", "", "lab-broken.py, which is no module's name; call it by letters, digits and _"),
        ("./json.py", "", "json.py, whose name is that of another module ("),
    ],
)
def test_one_that_cannot_be_imported_is_told_in_a_line(
    recipe: Path, plugin: str, content: str | None, said: str
) -> None:
    file = recipe.parent / f"{Path(plugin).name.removesuffix('.py')}.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RunError) as error:
        load(with_plugins(recipe, plugin))
    assert str(error.value).startswith(f"{recipe}: plugins has ") and "\n" not in str(error.value)
    assert said.format(file) in str(error.value)
    assert file.stem == "json" or file.stem not in sys.modules


def test_what_is_stored_imports_nothing_until_it_is_named_again(recipe: Path) -> None:
    ran = recipe.parent / "ran"
    stored = with_plugins(recipe, str(recipe.parent / "lab_file.py"))
    config = configs.stored(stored)
    assert config.train.optimizer == "of_plugin" and not ran.exists()
    with pytest.raises(
        RunError, match=r"has a stored command, plugins=\[.*lab_file.py\], which is only run where it is"
    ):
        check_commands(config, stored, ["train.lr=1"])
    words = [f"plugins=[{recipe.parent}/lab_file.py]"]
    check_commands(configs.stored(stored, words), stored, words)
    assert ran.exists()


def test_a_run_is_the_same_with_a_plugin_that_lies_elsewhere(recipe: Path) -> None:
    here, there = Config(plugins=["lab_file"]), Config(plugins=["/other/lab_file.py"])
    assert configs.differences(here, there) == []
    assert configs.differences(Config(), here) == ["plugins ([], now [lab_file])"]


def test_what_is_noted_tells_another_content(recipe: Path) -> None:
    config = load(with_plugins(recipe, "lab.deep"))
    before = noted(config.plugins)
    (recipe.parent / "lab" / "helper.py").write_text("VALUE = 2\n")
    assert before.keys() == {"lab.deep"} and noted(config.plugins) != before
    assert source("lab.deep") == recipe.parent / "lab"
