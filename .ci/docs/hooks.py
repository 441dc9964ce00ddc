"""What MkDocs does not do by itself: the navigation from docs/index.md, links out of docs/, and pages made from code.

Between `<!-- made: NAME -->` and `<!-- end -->` a page says where the same can be read in the tree; on the site the
text of a function of `reference` or `reproduction` takes its place.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import reference  # noqa: E402 - they lie beside this file
import reproduction  # noqa: E402

OUTSIDE = "tree"
"""The folder of the site for files of the repository that pages lead to: the site is whole without the repository."""
LINK = re.compile(r"(\]\()([^)#\s]+)")
MADE = re.compile(r"<!-- made: (\w+) -->.*?<!-- end -->", re.S)
ROW = re.compile(r"\| \[([^\]]+)\]\(([^)]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: a section for each `##` of docs/index.md, a page for each row of the table below it."""
    nav: list[Any] = ["index.md"]
    for line in Path(config.docs_dir, "index.md").read_text().splitlines():
        if line.startswith("## "):
            nav.append({line[3:]: []})
        elif found := ROW.match(line):
            title, target = found.groups()
            [pages] = nav[-1].values()
            pages.append({title: in_site(f"docs/{target}")})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in what pages lead to, and what those pages lead to."""
    waiting = [file for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for target in links(Path(page.abs_src_path or "").read_text(), in_tree(page.src_uri)):
            uri = in_site(target)
            if uri.startswith(f"{OUTSIDE}/") and files.get_file_from_path(uri) is None and (ROOT / target).is_file():
                file = File.generated(config, uri, abs_src_path=str(ROOT / target), inclusion=InclusionLevel.NOT_IN_NAV)
                files.append(file)
                if file.is_documentation_page():
                    waiting.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here, uri = in_tree(page.file.src_uri), page.file.src_uri

    def lead(found: re.Match[str]) -> str:
        if is_outer(found[2]):
            return found[0]
        return found[1] + posixpath.relpath(in_site(resolved(found[2], here)), posixpath.dirname(uri) or ".")

    made: dict[str, Callable[[], str]] = reference.MADE | reproduction.MADE
    return LINK.sub(lead, MADE.sub(lambda found: made[found[1]](), markdown))


def links(markdown: str, here: str) -> Iterable[str]:
    """The files of the repository that a page, `here` in it, leads to."""
    return (resolved(found[2], here) for found in LINK.finditer(markdown) if not is_outer(found[2]))


def is_outer(target: str) -> bool:
    return "://" in target or target.startswith("mailto:")


def resolved(target: str, here: str) -> str:
    return os.path.normpath(posixpath.join(posixpath.dirname(here), target))


def in_tree(uri: str) -> str:
    """The path in the repository of a file of the site."""
    return uri.removeprefix(f"{OUTSIDE}/") if uri.startswith(f"{OUTSIDE}/") else f"docs/{uri}"


def in_site(path: str) -> str:
    path = os.path.normpath(path)
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{OUTSIDE}/{path}"
