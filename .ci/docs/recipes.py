"""The tables of docs/recipes.md, from the comments of the recipes: `python .ci/docs/recipes.py` writes them.

A recipe's first line is its command. Below, a line `# Table 2, WHAT: 95.11 %, 9.92 M` is a row of a published table,
with its accuracy and the millions of parameters, where these are printed. Lines right after it that are indented
further are settings of that row beside the recipe's, or a command to follow.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

CONFIGS, PAGE = ROOT / "configs", ROOT / "docs" / "recipes.md"
TABLES = re.compile(r"(?<=<!-- rows -->\n).*(?=<!-- end of rows -->)", re.S)
ROW = re.compile(r"# (Table \d|QKFormer's table), (.+): ([\d.]+(?: \+- [\d.]+)?) %(?:, ([\d.]+) M)?")
MORE = re.compile(r"#   (\S.*)")


@dataclass
class Row:
    """A row of a published table. start: the settings of the recipe's own command; settings: those of this row."""

    recipe: str
    table: str
    what: str
    accuracy: str
    millions: str | None
    start: list[str]
    settings: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def command(self) -> str:
        return " ".join(["tdformer train", self.recipe, *self.start, *self.settings])

    @cached_property
    def config(self) -> Any:
        """Of the run that it makes, without the weights that it begins with."""
        from cluster.config import load

        return load(CONFIGS / f"{self.recipe}.yaml", self.settings)

    @property
    def kind(self) -> tuple[object, ...]:
        """What the paper says of it: table, data, network, feedback, T, size on ImageNet, CM and V."""
        model, data = self.config.model, self.config.data
        size = data.size if data.dataset == "imagenet" else None
        fed = model.feedback or "none"
        return self.table, data.dataset, model.name, fed, model.time_steps or 4, size, model.cm, model.pm

    @property
    def parameters(self) -> int:
        """Of the network as it is built here."""
        return self._network[0]

    @property
    def gflop(self) -> float:
        """Of a forward pass of one image through it, 2 a multiply-add."""
        return self._network[1]

    @cached_property
    def _network(self) -> tuple[int, float]:
        from pipelines.raw import catalog

        model, data = self.config.model, self.config.data
        classes = len(getattr(catalog.get(data.dataset), "class_names", ())) or None
        options = {"num_classes": classes, "image_size": data.size} | model.options()
        return network(json.dumps({"name": model.name} | options))

    @property
    def second(self) -> bool:
        """Whether it is of a row that has another recipe, too."""
        return "neuron as published" in self.what


@functools.cache
def network(options: str) -> tuple[int, float]:
    """Parameters, and GFLOP of a forward pass of one image, of the model with these options as JSON."""
    import torch

    import tdformer
    from cluster.build.model import example
    from tdformer.measure import measure_evaluation

    with torch.device("meta"):
        model = tdformer.create_model(**json.loads(options))
        flop = measure_evaluation(model, example(model, 1, "meta")).flops
    return sum(parameter.numel() for parameter in model.parameters()), flop / 1e9


def rows() -> Iterator[Row]:
    """Those of all recipes, in the order of the files."""
    from cluster.config import recipes

    for name in recipes():
        yield from rows_of(name, (CONFIGS / f"{name}.yaml").read_text())


def rows_of(recipe: str, text: str) -> Iterator[Row]:
    first, *lines = text.splitlines()
    row, start = None, first.split()[4:]
    for line in lines:
        if found := ROW.fullmatch(line):
            if row:
                yield row
            row = Row(recipe, *found.groups(), start)
        elif row and (more := MORE.fullmatch(line)):
            if more[1].startswith("tdformer "):
                row.after.append(more[1])
            else:
                row.settings += more[1].split()
        elif row:
            yield row
            row = None
    if row:
        yield row


def tables() -> str:
    """A table for each published one."""
    of_table: dict[str, list[Row]] = {}
    for row in rows():
        of_table.setdefault(row.table, []).append(row)
    return "\n".join(_table(name, of_table[name]) for name in sorted(of_table, key=lambda name: (name[0] != "T", name)))


def _table(name: str, its: list[Row]) -> str:
    titles = ("row", "recipe", "command", "published", "parameters here", "GFLOP")
    lines = [f"### {name}", "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in its:
        commands = ", then ".join(f"`{command}`" for command in (row.command, *row.after))
        published = f"{row.accuracy} %" + (f", {row.millions} M" if row.millions else "")
        link = f"[{row.recipe}](../configs/{row.recipe}.yaml)"
        lines.append(f"| {row.what} | {link} | {commands} | {published} | {row.parameters:,} | {row.gflop:.1f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(TABLES.sub(lambda _: f"\n{tables()}\n", PAGE.read_text()))
