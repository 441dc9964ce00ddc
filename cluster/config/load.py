"""A configuration from its file or recipe and the command line, checked; and back to YAML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pipelines.errors import DataError
from pipelines.remote import check_public

from ..errors import RunError
from . import document, plugins
from .bases import with_bases
from .batches import split
from .check import check, check_registered
from .layers import TYPED, Layer, merged, named, of_document, of_override, of_site
from .recipes import recipe
from .schema import Config


def load(path: str | Path | None = None, overrides: Sequence[str] = (), site: Path | None = None) -> Config:
    """The defaults, the keys of the section `site` in the YAML file `site`, the YAML file or recipe `path` over its
    bases, then `key=value` overrides; checked. `${...}` is replaced by the setting or the environment's variable that
    it names. Its plugins are imported. Raises RunError."""
    files = [] if path is None else with_bases(recipe(path))
    config = _checked([of_site(site), *(layer for _, layer in files), *map(of_override, overrides)])
    given = take_given(config, overrides)
    naming = [file for file, layer in files if "plugins" in layer]
    if naming and not given:
        config.plugins = plugins.beside(config.plugins, naming[-1].parent)
        plugins.take(config.plugins, str(naming[-1]))
    check_registered(config)
    if config.data.root is not None:
        try:
            check_public(config.data.root)
        except DataError as e:
            raise RunError(f"data.root: {e}") from e
    return config


def stored(path: Path, overrides: Sequence[str] = (), kept: object = None, site: Path | None = None) -> Config:
    """A configuration that `to_yaml` wrote to the file at `path`, or `kept`, what `flat` gave and that file has; then
    the keys of the section `site` in a file, and overrides. It is whole, and maybe a stranger's: nothing in it is
    resolved, and no plugin imported but those that the overrides name. Raises RunError."""
    try:
        text = document.file_text(path) if kept is None else document.dump(kept)
    except UnicodeEncodeError as e:
        raise RunError(f"{path}: its configuration has a text that is not UTF-8") from e
    config = _checked([of_document(text, str(path), literal=True), of_site(site), *map(of_override, overrides)])
    take_given(config, overrides)
    return config


def take_given(config: Config, overrides: Sequence[str]) -> bool:
    """Import the plugins of a configuration where `overrides` name them; returns whether they do."""
    given = "plugins" in named(overrides)
    if given:
        config.plugins = plugins.beside(config.plugins, Path.cwd())
        plugins.take(config.plugins, TYPED)
    return given


def _checked(layers: Iterable[Layer]) -> Config:
    config = merged(layers)
    check(config)
    split(config, None)
    return config


def to_yaml(config: Config) -> str:
    """The whole configuration, as `load` and `stored` read it."""
    return document.dump(asdict(config))
