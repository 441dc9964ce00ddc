"""Runs with and without feedback on corrupted pictures: the paper's Table 7, with intervals over seeds.

Runs that differ in their seed alone are one group. A group with feedback is compared, seed by seed, with one of the
same network without: of as many time steps, and two segments of one step also with one step. That is how the paper's
T = 1 in two feedforward stages is read here: a T of 1 cannot be cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipelines.views.corruptions import BENCHMARK
from tdformer.options import Options

from ..config import NEUTRAL, flat, norm_batch, show
from ..errors import RunError
from ..paper.opening import FEEDBACK
from ..results.corruption import CLEAN, Measured, Results
from .fitted import Estimate, Refused
from .folder import StudyFolder
from .paired import PAIRS, Paired, holm, mean_of
from .robustness_page import Compared, Interval, Ran, Seeds, Table

Value = Callable[[Measured], float]
"""A number of a run."""


def runs_of(given: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The runs, with the finished cells of studies for their folders, and lines about the cells that are left out.
    Raises RunError for a study without a finished cell."""
    found: list[Path] = []
    lines = []
    for path in given:
        study = StudyFolder(path)
        if not study.file.is_file():
            found.append(path)
            continue
        done = [cell.path for cell in study.cells if cell.run.summary() is not None]
        if not done:
            raise RunError(f"{path} has no finished cell; run it first")
        if len(done) < len(study.cells):
            lines.append(
                f"{path}: {len(study.cells) - len(done)} of {len(study.cells)} cells are not finished: left out"
            )
        found += done
    return found, lines


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone; settings: those that they share, of their models and of their training."""

    name: str
    runs: Mapping[int, Measured]
    settings: Mapping[str, object]

    @property
    def options(self) -> Options:
        """Of their models."""
        return next(iter(self.runs.values())).options

    @property
    def steps(self) -> int:
        return int(self.options["time_steps"])

    @property
    def segments(self) -> int:
        return int(self.options["segments"])

    @property
    def fed(self) -> bool:
        return bool(self.options["feedback"]) and self.segments > 1

    def estimate(self, of: Value, name: str) -> Estimate:
        """The mean over the seeds."""
        return mean_of([of(run) for run in self.runs.values()], f"{name}, {self.name}")


class Difference(NamedTuple):
    """A mean over pairs, its interval, and the p of its t-test; None: it cannot be said."""

    value: float
    low: float | None
    high: float | None
    pairs: int
    p: float | None


@dataclass(frozen=True)
class Comparison:
    """A group with feedback and one without."""

    fed: Group
    base: Group

    @property
    def name(self) -> str:
        return f"{self.fed.name} - {self.base.name.removeprefix(str(self.fed.options['name'])).strip()}"

    @property
    def stages(self) -> bool:
        """Whether it is that of a T of 1."""
        return self.fed.steps != self.base.steps

    def seeds(self) -> list[int]:
        return [seed for seed in self.base.runs if seed in self.fed.runs]

    def difference(self, of: Value, name: str) -> Difference | None:
        """With feedback minus without, over the seeds that both have; None: there are none."""
        pairs = [(of(self.fed.runs[seed]), of(self.base.runs[seed])) for seed in self.seeds()]
        return _difference(pairs, f"{name}, {self.name}")

    def corruption_error(self, kinds: Sequence[str], severities: Sequence[int], name: str) -> Estimate | None:
        """Mean corruption error (Hendrycks and Dietterich 2019): errors of a kind, summed over severities, over those
        of the baseline, here the same seed's without feedback; their mean over kinds. None where a baseline has no
        error, or no seed is in both."""

        def errors(run: Measured, kind: str) -> float:
            return sum(1 - run.accuracies[kind, severity] for severity in severities)

        ratios = []
        for seed in self.seeds():
            fed, base = self.fed.runs[seed], self.base.runs[seed]
            if not all(errors(base, kind) for kind in kinds):
                return None
            ratios.append(sum(errors(fed, kind) / errors(base, kind) for kind in kinds) / len(kinds))
        return mean_of(ratios, f"{name}, {self.name}") if ratios else None


def _difference(pairs: Sequence[tuple[float, float]], name: str) -> Difference | None:
    if not pairs:
        return None
    sides = [("fed", fed, i) for i, (fed, _) in enumerate(pairs)] + [
        ("base", base, i) for i, (_, base) in enumerate(pairs)
    ]
    rows = [{"side": side, "value": value, "pair": i} for side, value, i in sides]
    try:
        found = Paired(name=name, y="value", x=("side",), base="base", over="pair", where={}).fit(rows).parameters
    except Refused:  # too few pairs
        return Difference(sum(fed - base for fed, base in pairs) / len(pairs), None, None, len(pairs), None)
    p = found.get("p of t, fed - base")
    return Difference(*found["difference, fed - base"], len(pairs), p and p.value)


def groups(runs: Sequence[Measured]) -> list[Group]:
    """In order of the model, T and segments. Raises RunError where two runs are alike, also in their seed."""
    found: dict[str, tuple[dict[str, object], dict[int, Measured]]] = {}
    for run in runs:
        settings = _settings(run)
        _, its = found.setdefault(repr(settings), (settings, {}))
        seed = run.config.seed
        if seed in its:
            raise RunError(f"{run.path} and {its[seed].path} differ in nothing that decides numbers; leave one out")
        its[seed] = run
    sets = sorted(
        found.values(), key=lambda one: [one[0][f"model.{key}"] for key in ("name", "time_steps", "segments")]
    )
    names = _names([settings for settings, _ in sets])
    return [Group(name, dict(sorted(its.items())), settings) for name, (settings, its) in zip(names, sets, strict=True)]


def _settings(run: Measured) -> dict[str, object]:
    own = flat(run.config) | {"train.norm_batch": norm_batch(run.config)}
    training = {k: v for k, v in own.items() if not k.startswith(("model.", "plugins")) and k not in {*NEUTRAL, "seed"}}
    model = {f"model.{key}": value for key, value in run.options.items() if key != "recompute"}
    return dict(sorted(model.items())) | training


def _names(sets: Sequence[Mapping[str, object]]) -> list[str]:
    """Of groups by what tells them apart."""
    fed = [bool(one["model.feedback"]) for one in sets]
    models = {one["model.name"] for one in sets}
    mixers = {one["model.mixer"] for one, so in zip(sets, fed, strict=True) if so}
    names = []
    for one, so in zip(sets, fed, strict=True):
        words = [str(one["model.name"])] * (len(models) > 1) + [f"T={one['model.time_steps']}"]
        words += [f"N={one['model.segments']}"] * (one["model.segments"] != 1)
        names.append(" ".join(words + ["feedback"] * so + [str(one["model.mixer"])] * (so and len(mixers) > 1)))
    for name in {name for name in names if names.count(name) > 1}:
        same = [i for i, other in enumerate(names) if other == name]
        keys = [key for key in sets[same[0]] if len({repr(sets[i].get(key)) for i in same}) > 1]
        for i in same:
            names[i] += "".join(f" {key}={show(sets[i].get(key))}" for key in keys)
    return names


def comparisons(of: Sequence[Group]) -> list[Comparison]:
    """Each group with feedback and those of the same network without, trained alike where there are some."""
    found = []
    for fed in (group for group in of if group.fed):
        bases = [base for base in of if not base.fed and _network(base) == _network(fed) and _steps_fit(fed, base)]
        alike = [base for base in bases if _training(base) == _training(fed)]
        found += [Comparison(fed, base) for base in bases if base in alike or not _has(alike, base.steps)]
    return found


def _has(of: Sequence[Group], steps: int) -> bool:
    return any(group.steps == steps for group in of)


def _network(group: Group) -> dict[str, object]:
    apart = {f"model.{key}" for key in (*FEEDBACK, "time_steps")}
    return {key: value for key, value in group.settings.items() if key.startswith("model.") and key not in apart}


def _training(group: Group) -> dict[str, object]:
    return {k: v for k, v in group.settings.items() if not k.startswith("model.") and k != "train.alphas"}


def _steps_fit(fed: Group, base: Group) -> bool:
    return base.steps == fed.steps or (base.steps == 1 and fed.steps == fed.segments == 2)


def table(results: Results, notes: Sequence[str] = ()) -> Table:
    """All of it, for JSON; accuracies are shares. `rows` has the means over severities of clean pictures, of each kind,
    of all kinds, and of the 15 of the benchmark; `comparisons` the differences of their means and the mean corruption
    errors."""
    found = groups(results.runs)
    pairs = comparisons(found)
    sets = {f"mean of {len(results.kinds)}": results.kinds}
    if set(BENCHMARK) < set(results.kinds):
        sets["mean of the benchmark's 15"] = BENCHMARK
    rows = {"clean": (CLEAN[0],), **{kind: (kind,) for kind in results.kinds}, **sets}

    def value(kinds: Sequence[str]) -> Value:
        severities = (CLEAN[1],) if kinds == (CLEAN[0],) else results.severities
        which = [(kind, severity) for kind in kinds for severity in severities]
        return lambda run: sum(run.accuracies[one] for one in which) / len(which)

    overall = next(iter(sets))
    means = {pair.name: pair.difference(value(results.kinds), overall) for pair in pairs}
    p = holm({name: found.p for name, found in means.items() if found is not None and found.p is not None})
    said = [*notes]
    if results.left_out:
        said.append(f"{len(results.kinds)} kinds: the pictures are grey, which {', '.join(results.left_out)} needs")
    if not results.published:
        said.append("the pictures were corrupted here: they are not CIFAR-10-C, and not to be compared with Table 7")
    if any(pair.stages for pair in pairs):
        said.append(
            "against T=1: one step twice, the second steered by the first, which is how T = 1 in two stages is read"
        )
    if any(len(group.runs) < PAIRS for group in found):
        said.append(f"fewer than {PAIRS} seeds have no interval")
    if not pairs:
        said.append("no two groups are the same network with and without feedback")
    return {
        "table": "robustness",
        "pictures": results.pictures,
        "published": results.published,
        "images": results.images,
        "kinds": list(results.kinds),
        "severities": list(results.severities),
        "notes": said,
        "groups": [_group(group, results) for group in found],
        "rows": [
            {
                "row": name,
                "groups": {group.name: _interval(group.estimate(value(kinds), name)) for group in found},
                "differences": {pair.name: _compared(pair.difference(value(kinds), name)) for pair in pairs},
            }
            for name, kinds in rows.items()
        ],
        "comparisons": [
            {
                "name": pair.name,
                "fed": pair.fed.name,
                "base": pair.base.name,
                "two_stages": pair.stages,
                "seeds": pair.seeds(),
                "difference": _compared(means[pair.name]),
                "p_holm": p.get(pair.name),
                "mce": {
                    name: None if error is None else _interval(error)
                    for name, kinds in sets.items()
                    for error in [pair.corruption_error(kinds, results.severities, name)]
                },
            }
            for pair in pairs
        ],
    }


def _interval(found: Difference | Estimate) -> Interval:
    return {"value": found.value, "low": found.low, "high": found.high}


def _compared(found: Difference | None) -> Compared | None:
    return None if found is None else {**_interval(found), "pairs": found.pairs, "p": found.p}


def _group(group: Group, results: Results) -> Seeds:
    def of_run(run: Measured) -> Ran:
        by_kind = {kind: [run.accuracies[kind, s] for s in results.severities] for kind in results.kinds}
        every = [accuracy for of in by_kind.values() for accuracy in of]
        return {
            "run": str(run.path),
            "seed": run.config.seed,
            "step": run.step,
            "weights": run.weights,
            "clean": run.accuracies[CLEAN],
            "mean": sum(every) / len(every),
            "accuracy": by_kind,
        }

    return {"name": group.name, "settings": dict(group.settings), "runs": [of_run(run) for run in group.runs.values()]}
