"""A study's file: what it asks for, each key read by its type and checked, in the words of the configuration."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

import yaml

from ..config import Config, load, named, show
from ..config import document as documents
from ..config.check import check_limits
from ..config.layers import of_node
from ..config.recipes import STUDIES, recipe
from ..config.schema import Limits, each, flat, setting, types
from ..config.values import Raw, Word, as_type, filled
from ..config.words import either, expected, nearest
from ..errors import RunError

SHAPE = {"nodes": 1, "processes": 1, "gpus": 0}
"""Axes that are no settings: machines, and processes and GPUs on each; without an axis."""
SHARE = "share"
"""The axis that is written so for short: `data.share`."""
CASE = "case"
"""In a case: what it is called in names and tables."""


@dataclass
class Constraints:
    """What is equal in all cells. global_batch: fixed (strong scaling), or per_process: that of the base times the
    processes (weak scaling). images: seen by each cell; flop: of its training; the epochs follow."""

    global_batch: str = setting("fixed", choices=("fixed", "per_process"))
    images: int | None = setting(None, least=1)
    flop: float | None = setting(None, above=0)


@dataclass
class Stop:
    """When a cell is ended early: at a logged loss above `loss_above` after `after_step`; at a step that is left out
    because its loss is not finite."""

    loss_above: float | None = setting(None, above=0)
    after_step: int = setting(0, least=0)
    not_finite: bool = False

    def __bool__(self) -> bool:
        return self.loss_above is not None or self.not_finite


@dataclass
class Failures:
    """Kills that are asked for. mtbf_hours: mean hours between failures of one GPU, or without GPUs of one machine;
    kills: all processes of a cell, or one of them; seed: of the times."""

    mtbf_hours: float | None = setting(None, above=0)
    kills: str = setting("all", choices=("all", "one"))
    seed: int = setting(0, least=0)

    def __bool__(self) -> bool:
        return self.mtbf_hours is not None


@dataclass
class Options:
    """The plain keys of a study. budget_gpu_hours: of all cells, a process an hour without GPUs; None: no limit.
    at_once: cells that run at the same time; tries: of a cell that crashes."""

    name: str = ""
    config: str = ""
    seeds: list[int] = field(default_factory=list, metadata={"least": 0})
    repeats: int = setting(1, least=1)
    budget_gpu_hours: float | None = setting(None, above=0)
    at_once: int = setting(1, least=1)
    where: str = setting("auto", choices=("auto", "slurm", "local"))
    tries: int = setting(3, least=1)
    constraints: Constraints = field(default_factory=Constraints)
    stop: Stop = field(default_factory=Stop)
    failures: Failures = field(default_factory=Failures)


Point = Mapping[str, str]
"""What an axis sets at one of its places: keys, and each value as it is written."""


class Report(TypedDict, total=False):
    """The section `report`, as it is where `report.check` has looked at it."""

    title: str
    text: str
    figures: list[object]
    fits: list[Mapping[str, object]]
    plugins: list[object]


@dataclass(frozen=True)
class Study:
    """A study as its file gives it. base: the configuration of all cells; axes: by name, the points of each; `report`
    goes to reports and fits as it is."""

    options: Options
    base: Config
    axes: Mapping[str, Sequence[Point]]
    report: Report | None

    @property
    def path(self) -> Path:
        """Its folder."""
        return Path(self.base.runs_dir) / self.options.name

    def at(self, where: str) -> Study:
        """The same study elsewhere. Raises RunError for a place that is none."""
        check_limits("--where", where, _known()["where"][1])
        return replace(self, options=replace(self.options, where=where))

    def to_yaml(self, base: str) -> str:
        """A study's file that gives the same, over the configuration in the file `base`."""
        usual = flat(Options())
        given = {k: v for k, v in flat(replace(self.options, config=base)).items() if v != usual[k]}
        lines = [yaml.safe_dump(_nested(given), sort_keys=False, allow_unicode=True)]
        axes = dict(self.axes)
        cases = axes.pop("cases", ())
        if axes:
            values = ((name, ", ".join(point[name] for point in points)) for name, points in axes.items())
            lines.append("grid:\n" + "".join(f"  {name}: [{given}]\n" for name, given in values))
        if cases:
            lines.append("cases:\n" + "".join(f"- {_flow(point)}\n" for point in cases))
        if self.report is not None:
            lines.append(yaml.safe_dump({"report": self.report}, sort_keys=False, allow_unicode=True))
        return "".join(lines)


def _nested(plain: Mapping[str, object]) -> dict[str, object]:
    tree: dict[str, object] = {}
    sections = {"": tree}
    for key, value in plain.items():
        section, _, last = key.rpartition(".")
        if section not in sections:
            tree[section] = sections[section] = {}
        sections[section][last] = value
    return tree


def _flow(point: Point) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in point.items()) + "}"


def find(given: str | Path) -> Path:
    """The file of a study: a path, the folder of one that was begun, or the name of one that comes with us. Raises
    RunError."""
    path = Path(given)
    if (path / "study.yaml").is_file():
        return path / "study.yaml"
    ours = STUDIES / f"{given}.yaml"
    if path.exists() or path.is_absolute() or ".." in path.parts or not ours.is_file():
        return path
    return ours


def names() -> list[str]:
    """Of the studies that come with us."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def read(path: Path, overrides: Sequence[str] = (), site: Path | None = None) -> Study:
    """The study in a file. overrides: of its base, after its own settings. Raises RunError with the file, the key and
    what to do, for a key that is none, a value of another type or beyond its limits, an axis without values."""
    where = str(path)
    text = documents.file_text(path, lambda _: f"; studies: {', '.join(names())}")
    root = documents.compose(text, where)
    if not isinstance(root, yaml.MappingNode):
        raise RunError(f"{where}: a study is a mapping of keys to values; it has at least name, config and grid")
    plain: dict[str, object] = {}
    settings: list[str] = []
    axes: dict[str, Sequence[Point]] = {}
    seen: set[str] = set()
    for node, value in root.value:
        documents.check_tag(node, where)
        key = show(node)
        if key in seen:
            raise RunError(f"{where}, line {node.start_mark.line + 1}: {key} is set twice; keep one")
        seen.add(key)
        if key == "settings":
            settings = [f"{name}={text}" for name, text in _written(of_node("", value, f"{where}: settings")).items()]
        elif key == "grid":
            axes = _grid(value, where) | axes
        elif key == "cases":
            axes["cases"] = _cases(value, where)
        elif key != "report":
            plain |= dict(_plain(key, value, where))
    options = _options(plain, where)
    return _study(path, options, [*settings, *overrides], axes, _report(text, where), site)


def _study(
    path: Path,
    options: Options,
    settings: list[str],
    axes: dict[str, Sequence[Point]],
    report: Report | None,
    site: Path | None,
) -> Study:
    if not options.config:
        raise RunError(f"{path}: config is missing: the recipe or file that all cells build on, such as quickstart")
    beside = path.parent / options.config
    base = load(beside if beside.is_file() else recipe(options.config), settings, site)
    if "name" in named(settings):
        options = replace(options, name=base.name)
    if not options.name or options.name in (".", "..") or re.search("[/\0\n]", options.name):
        raise RunError(f"{path}: name is {show(options.name)}; it becomes a folder in runs_dir, so give a plain name")
    if options.seeds and "seed" in axes:
        raise RunError(f"{path}: seed is varied by grid and by seeds; keep one")
    if options.seeds:
        axes = {"seed": [{"seed": str(seed)} for seed in options.seeds]} | axes
    axes = _checked(axes, options, str(path))
    return Study(replace(options, seeds=[]), base, axes, report)


def _checked(axes: dict[str, Sequence[Point]], options: Options, where: str) -> dict[str, Sequence[Point]]:
    """Raises RunError for what could only be a mistake: no axis, a key in two of them, a constraint that an axis
    breaks."""
    if not axes and options.repeats == 1:
        raise RunError(f"{where}: nothing varies; give a grid, cases, seeds or repeats")
    owner: dict[str, str] = {}
    for axis, points in axes.items():
        for key in dict.fromkeys(key for point in points for key in point if key != CASE):
            setting_key = "data.share" if key == SHARE else key
            if setting_key in owner:
                raise RunError(f"{where}: {key} is varied by {owner[setting_key]} and by {axis}; keep one")
            owner[setting_key] = "seeds" if axis == "seed" and options.seeds else axis
    kept = options.constraints
    if kept.images and kept.flop:
        raise RunError(f"{where}: constraints.images and constraints.flop both decide the epochs; keep one")
    for key, so in (
        ("train.epochs", bool(kept.images or kept.flop)),
        ("train.global_batch", kept.global_batch == "per_process"),
    ):
        if so and key in owner:
            raise RunError(f"{where}: {key} is an axis, and the constraints decide it; leave one of the two out")
    for key in ("name", "runs_dir", "plugins"):
        if key in owner:
            raise RunError(f"{where}: {key} cannot be an axis: it changes no cell's numbers")
    return axes


def _plain(key: str, node: yaml.Node, where: str) -> Iterator[tuple[str, object]]:
    """The plain keys that stand below `key`, each with its value."""
    known = _known()
    if any(name.startswith(f"{key}.") for name in known):
        if documents.is_null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            raise RunError(f"{where}: {key} is a section; set one of its keys, like {_first(known, key)}")
        for inner, value in node.value:
            documents.check_tag(inner, where)
            yield from _plain(f"{key}.{show(inner)}", value, where)
        return
    if key not in known:
        all_keys = [*known, "settings", "grid", "cases", "report"]
        raise RunError(f"{where}: {key} is no key of a study; the nearest is {nearest(key, all_keys)}")
    kind, limits = known[key]
    try:
        value = as_type(documents.raw(node, where), kind, None)
    except ValueError as error:
        raise RunError(f"{where}: {key} is {show(node)}; expected {expected(kind, None)}") from error
    try:
        check_limits(key, value, limits)
    except RunError as error:
        raise RunError(f"{where}: {error}") from None
    yield key, value


def _options(plain: Mapping[str, object], where: str) -> Options:
    parts: dict[str, dict[str, object]] = {"": {}}
    for key, value in plain.items():
        section, _, last = key.rpartition(".")
        parts.setdefault(section, {})[last] = value
    stop, kept = filled(Stop, parts.get("stop", {})), filled(Constraints, parts.get("constraints", {}))
    if stop.after_step and stop.loss_above is None:
        raise RunError(f"{where}: stop.after_step is of stop.loss_above; set that too")
    failures = filled(Failures, parts.get("failures", {}))
    options = filled(Options, {**parts[""], "stop": stop, "constraints": kept, "failures": failures})
    if failures != Failures() and not failures:
        raise RunError(f"{where}: failures is without failures.mtbf_hours; set that too")
    if failures and options.budget_gpu_hours is None:
        raise RunError(
            f"{where}: failures need budget_gpu_hours: a cell that is killed before each checkpoint would never end"
        )
    return options


@functools.cache
def _known() -> dict[str, tuple[str, Limits]]:
    """The plain keys, with type and limits."""
    return {key: (str(f.type), f.metadata) for key, _, f in each(Options())}


def _first(keys: Mapping[str, object], section: str) -> str:
    return next(key for key in keys if key.startswith(f"{section}."))


def _grid(node: yaml.Node, where: str) -> dict[str, Sequence[Point]]:
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise RunError(f"{where}: grid is {show(node)}; give each axis its values, such as model.time_steps: [1, 2]")
    axes: dict[str, Sequence[Point]] = {}
    for inner, values in node.value:
        documents.check_tag(inner, where)
        key = show(inner)
        if key in axes:
            raise RunError(f"{where}, line {inner.start_mark.line + 1}: grid has {key} twice; keep one")
        if not isinstance(values, yaml.SequenceNode):
            raise RunError(f"{where}: grid has {key}: {show(values)}; give a list of values, such as [{show(values)}]")
        if not values.value:
            raise RunError(f"{where}: grid has {key} without values; list some, or leave it out")
        axes[key] = [_point(key, value, where) for value in values.value]
    return axes


def _cases(node: yaml.Node, where: str) -> list[Point]:
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise RunError(f"{where}: cases is {show(node)}; list mappings of settings that go together")
    found: list[Point] = []
    for case in node.value:
        if not isinstance(case, yaml.MappingNode) or not case.value:
            line = case.start_mark.line + 1
            raise RunError(f"{where}, line {line}: a case is {show(case)}; give settings, key: value")
        point: dict[str, str] = {}
        for inner, value in case.value:
            documents.check_tag(inner, where)
            if show(inner) == CASE:
                point[CASE] = _flow_text(documents.raw(value, where))
            else:
                point |= _point(show(inner), value, where)
        found.append(point)
    return found


def _point(key: str, node: yaml.Node, where: str) -> Point:
    if key in SHAPE:
        try:
            number = as_type(documents.raw(node, where), "int", None)
        except ValueError as error:
            raise RunError(f"{where}: {key} is {show(node)}; expected {expected('int', None)}") from error
        assert isinstance(number, int)
        if number < (least := 0 if key == "gpus" else 1):
            raise RunError(f"{where}: {key} is {number}; it must be at least {least}")
        return {key: str(number)}
    if key == SHARE:
        return {SHARE: _written(of_node("data.share", node, where))["data.share"]}
    if key not in types() and "." not in key:
        own = [*SHAPE, SHARE]
        near = nearest(key, [*types(), *own])
        raise RunError(f"{where}: {key} is no axis, neither a setting nor {either(own)}; the nearest is {near}")
    return _written(of_node(key, node, where))


def _written(settings: Mapping[str, Raw]) -> dict[str, str]:
    return {key: _flow_text(raw) for key, raw in settings.items()}


def _flow_text(raw: Raw) -> str:
    """As it may stand in YAML's braces and after `key=`."""
    if isinstance(raw, list):
        return f"[{', '.join(map(_flow_text, raw))}]"
    return _word(raw)


def _word(word: Word) -> str:
    return json.dumps(word.text) if word.quoted or re.search(r"[\[\]{},:#&*!|>'\"%@`]|^\s*$", word.text) else word.text


def _report(text: str, where: str) -> Report | None:
    try:
        return (yaml.safe_load(text) or {}).get("report")
    except yaml.YAMLError as error:
        raise RunError(f"{where}: not valid YAML ({getattr(error, 'problem', None) or 'a tag'})") from error


def overrides(point: Point) -> list[str]:
    """What a point sets, as `key=value` words of the configuration."""
    return [
        f"{'data.share' if key == SHARE else key}={value}"
        for key, value in point.items()
        if key not in SHAPE and key != CASE
    ]
