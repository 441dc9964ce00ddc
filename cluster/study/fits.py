"""Fits of a study: `report.fits` of its YAML says which, the rows of its table are what is fitted."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module

from ..config.words import either, show
from ..errors import RunError
from .fitted import Fit, Refused, Spec
from .keys import read
from .table import Row

KINDS = {
    "power": "curves.Power",
    "scaling_law": "curves.ScalingLaw",
    "linear": "curves.Linear",
    "amdahl": "curves.Amdahl",
    "efficiency": "curves.Efficiency",
    "checkpoint": "curves.Checkpoint",
    "paired": "paired.Paired",
    "extrapolate": "extrapolate.Extrapolate",
}
"""By name, the module and the class, which is imported where a study asks for it: they take seconds."""


def kind_of(name: str) -> type[Spec]:
    module, _, its = KINDS[name].partition(".")
    found: type[Spec] = getattr(import_module(f".{module}", __package__), its)
    return found


def check(fits: object) -> list[Spec]:
    """What `report.fits` asks for. Raises RunError for what cannot be, whatever the rows."""
    if not isinstance(fits, list):
        raise RunError(f"report.fits is {show(fits)}; it takes a list of fits, each with a name and a kind")
    specs = [_spec(one, f"report.fits[{place}]") for place, one in enumerate(fits)]
    names = [spec.name for spec in specs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RunError(f"report.fits has two of the name {twice}; give each its own")
    return specs


def _spec(given: object, place: str) -> Spec:
    if not isinstance(given, Mapping):
        raise RunError(f"{place} is {show(given)}; a fit has a name, a kind, x and y")
    if isinstance(given.get("name"), str):
        place += f" ({given['name']})"
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, 1)
        known = f"did you mean {near[0]}?" if near else f"choose from {either(list(KINDS))}"
        raise RunError(f"{place}: kind is {show(kind)}; {known}")
    return read(kind_of(kind), {key: value for key, value in given.items() if key != "kind"}, place)


def fit(rows: Sequence[Row], given: Mapping[str, object]) -> Fit:
    """One entry of `report.fits`, of the rows of a study. Where there can be no numbers the note says why. Raises
    RunError for an entry that cannot be."""
    spec = _spec(given, "report.fits")
    rows = [row for row in rows if all(row.get(key) == value for key, value in spec.where.items())]
    if spec.group is None:
        return _fitted(rows, spec)
    column = spec.group
    groups = sorted({str(row[column]) for row in rows if row.get(column) is not None})
    if not groups:
        return Fit(spec.name, spec.x, spec.y, "", {}, [], f"no cell has {column}, which `group` names")
    found = {
        name: _fitted([row for row in rows if str(row.get(column)) == name], replace(spec, name=f"{spec.name}: {name}"))
        for name in groups
    }
    first = next((one for one in found.values() if one.points), next(iter(found.values())))
    return Fit(
        spec.name,
        first.x,
        first.y,
        first.formula,
        {f"{name}: {key}": value for name, one in found.items() for key, value in one.parameters.items()},
        [point._replace(group=name) for name, one in found.items() for point in one.points],
        "; ".join(f"{name}: {one.note}" for name, one in found.items() if one.note) or None,
        [{**row, "group": name} for name, one in found.items() for row in one.curve],
        [assumed for one in found.values() for assumed in one.assumptions],
    )


def _fitted(rows: Sequence[Row], spec: Spec) -> Fit:
    try:
        return spec.fit(rows)
    except Refused as refused:
        return Fit(spec.name, spec.x, spec.y, "", {}, [], str(refused))
