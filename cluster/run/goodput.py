"""Goodput: which share of its devices' time a run spent on steps that it did not do before, and where the rest went.

From clock.jsonl alone, whose rows are sums since a start began (`clock`). Its seconds are those of a clock that nobody
sets, so only the wait in a queue depends on the time of day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mode
from typing import TypeGuard

from .clock import PARTS
from .folder import RunFolder
from .kept import Beat
from .lock import heard
from .speed import WARM_UP

CAUSES = ("start", "data", "checkpoint", "recomputed", "evaluation", "queue", "other")
"""Why time is not good: imports, joining, loading and what the first WARM_UP steps take longer than others; waits for
data; what a save stops training for; steps that an earlier start had done; evaluation; from a job's submission, or the
end of the start before, to its start; what is left."""
Sums = Mapping[str, float]
"""The numbers of a row of clock.jsonl."""
SUMS = (*PARTS, "step", "steps")
"""And the last step of the run, and how many this start has done."""
LONGEST = 3600.0
"""Seconds that a start without a step is taken to have lasted at most, by its last sign of life."""


@dataclass(frozen=True)
class Goodput:
    """spent: device-seconds by cause, `good` among them; starts; again: steps that a start did again."""

    spent: Mapping[str, float]
    starts: int
    again: int

    @property
    def device_hours(self) -> float:
        """Of all starts, from the beginning of their first process to their end, times their ranks; without queues."""
        return sum(seconds for cause, seconds in self.spent.items() if cause != "queue") / 3600

    def row(self) -> dict[str, float | None]:
        """Columns of a study's table: `gpu_hours`, and the shares `good` and `bad.CAUSE` of the time with the wait in
        queues, which sum to 1; None where no time has passed."""
        total = sum(self.spent.values())
        shares = {name: round(self.spent.get(name, 0.0) / total, 6) if total else None for name in ("good", *CAUSES)}
        named = {name if name == "good" else f"bad.{name}": share for name, share in shares.items()}
        return {"gpu_hours": round(self.device_hours, 6), **named}

    def __str__(self) -> str:
        """For people: the causes, the greatest first."""
        total = sum(self.spent.values())
        if not total:
            return "no time is accounted for"
        bad = sorted(((self.spent.get(cause, 0.0) / total, cause) for cause in CAUSES), reverse=True)
        words = [f"{cause} {share:.1%}" for share, cause in bad if share >= 0.0005]
        whole = f"{self.device_hours:.3g} device-hours in {self.starts} start{'s' * (self.starts != 1)}"
        again = f"; {self.again} steps were done again" if self.again else ""
        return f"{self.spent.get('good', 0.0) / total:.1%} of {whole}; {', '.join(words)}{again}"


def account(folder: RunFolder) -> Goodput:
    """Where the time of a run went so far. Starts of the folder that it is a copy of, and those of earlier versions,
    which kept no clock, are not counted. Of a start that was killed, what came after its last row is not known to be
    anything: it ends with that row, or without a step with the last sign of life that it gave."""
    starts = _starts(folder)
    usual = [found for start in starts if (found := start.usual()) is not None]
    spent: Counter[str] = Counter()
    high = again = 0
    before: _Start | None = None
    for start in starts:
        step, known = start.step, start.parts
        typical = start.usual() or (sum(usual) / len(usual) if usual else 0.0)
        kept = min(known["warm_up"], start.warm * typical)
        training = _up_to(start.trained(kept), step)
        done_before = _up_to(start.trained(kept), min(high, step)) if high > start.first else 0.0
        unused = start.loading + known["warm_up"] - kept
        parts = {
            "good": training - done_before,
            "recomputed": done_before,
            "start": unused,
            **{cause: known[cause] for cause in ("data", "checkpoint", "evaluation")},
        }
        parts |= {"other": max(0.0, start.seconds - sum(parts.values())), "queue": start.queued(before)}
        spent.update({cause: start.world * seconds for cause, seconds in parts.items()})
        again += max(0, min(high, step) - start.first)
        high, before = max(high, step), start
    return Goodput(dict(spent), len(starts), again)


def steps(folder: RunFolder) -> dict[str, float | None]:
    """Columns of a study's table: median and quartiles of the seconds of a step, and the medians of its parts, without
    the first WARM_UP of each start. What is told apart is what lies between two rows of clock.jsonl: the mean of the
    log.every_steps steps of a row, or fewer, where a row came between; each counts as often as it has steps."""
    found: list[tuple[float, float, int]] = []
    for start in _starts(folder):
        rows = [row for row in start.rows if row["steps"] >= WARM_UP]
        for a, b in pairwise(rows):
            if (count := int(b["steps"] - a["steps"])) > 0:
                found.append(((b["data"] - a["data"]) / count, (b["train"] - a["train"]) / count, count))
    whole = [(data + train, count) for data, train, count in found]
    return {
        "seconds_step": _quantile(whole, 0.5),
        "seconds_step_low": _quantile(whole, 0.25),
        "seconds_step_high": _quantile(whole, 0.75),
        "seconds.data": _quantile([(data, count) for data, _, count in found], 0.5),
        "seconds.compute": _quantile([(train, count) for _, train, count in found], 0.5),
    }


@dataclass(frozen=True)
class _Start:
    """One start. begun: its first row, {} where that is damaged; rows: those with PARTS, in order; seconds: from its
    beginning to its end, or as far as is known."""

    begun: Beat
    rows: Sequence[Sums]
    seconds: float
    world: int

    @property
    def parts(self) -> Sums:
        return self.rows[-1] if self.rows else dict.fromkeys(PARTS, 0.0)

    @property
    def loading(self) -> float:
        return self.parts["loading"] if self.rows else self.seconds

    @property
    def step(self) -> int:
        """The last one that it did, in the whole run."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def first(self) -> int:
        """The one before its first."""
        return self.step - (int(self.rows[-1]["steps"]) if self.rows else 0)

    @property
    def warm(self) -> int:
        """How many of its steps are of the warm-up."""
        return min(WARM_UP, self.step - self.first)

    def usual(self) -> float | None:
        """Seconds of a step after the warm-up; None: there was none."""
        count = self.step - self.first - self.warm
        return (self.parts["data"] + self.parts["train"]) / count if count else None

    def trained(self, warm_up: float) -> list[tuple[int, float]]:
        """Steps, and the seconds of training up to each, of which the warm-up has so many."""
        after = [(int(row["step"]), warm_up + row["train"]) for row in self.rows if row["steps"] > WARM_UP]
        return [(self.first, 0.0), (self.first + self.warm, warm_up), *after]

    @property
    def at(self) -> float | None:
        """The time of day at which it began; None: nobody knows."""
        return self.begun["time"] - self.begun["seconds"] if self.begun else None

    def queued(self, before: _Start | None) -> float:
        """Seconds that its job waited: since it was submitted, or since the start before, where that was of the job."""
        job, since = self.begun.get("job"), self.begun.get("submitted")
        if before is not None and before.at is not None and before.begun.get("job") == job:
            since = before.at + before.seconds
        if not job or self.at is None or not isinstance(since, int | float):
            return 0.0
        return max(0.0, self.at - since)


def _starts(folder: RunFolder) -> list[_Start]:
    """Those of this folder that kept a clock, in order."""
    groups: dict[int, list[Beat]] = {}
    for row in folder.clock.whole("start", "time", "seconds", "world")[0]:
        if row["seconds"] >= 0 and row["world"] >= 1:
            groups.setdefault(row["start"], []).append(row)
    found: list[_Start] = []
    following: list[list[Beat] | None] = [*list(groups.values())[1:], None]
    for rows, later in zip(groups.values(), following, strict=False):
        begun: Beat = next((row for row in rows if isinstance(row.get("host"), str) and "monotonic" in row), Beat())
        if isinstance(begun.get("folder"), str) and not folder.made(begun):
            continue
        told = _whole(rows)
        seconds = max([rows[-1]["seconds"], *(row["seconds"] for row in told[-1:])])
        if not told and not any("exit_code" in row for row in rows):
            heard_of = (row.get("heard") for row in later or () if "host" in row)  # by the start after it
            sign = heard(folder.path) if later is None else next(heard_of, None)
            seconds = max(seconds, _lasted(begun, sign))
        found.append(_Start(begun, told, seconds, mode(row["world"] for row in rows)))
    return found


def _whole(rows: Iterable[Beat]) -> list[Sums]:
    """Those with PARTS that can be: a damaged line may be JSON all the same, so sums that are above later ones go."""
    kept: list[Sums] = []
    numbers = [{key: value for key, value in row.items() if _is_number(value)} for row in rows]
    for row in reversed([row for row in numbers if all(row.get(key, -1) >= 0 for key in SUMS)]):
        lower = not kept or all(row[key] <= kept[-1][key] for key in (*SUMS, "seconds"))
        if lower and sum(row[part] for part in PARTS) <= row["seconds"] + 1 and row["steps"] <= row["step"]:
            kept.append(row)
    return kept[::-1]


def _lasted(begun: Beat, sign: object) -> float:
    """Seconds from a start's beginning to the last sign of life of the process that wrote its first row."""
    if not isinstance(sign, Mapping) or not _is_number(sign.get("time")) or not begun:
        return 0.0
    own = [sign.get(key) == begun.get(key) for key in ("pid", "host")]
    lasted = float(sign["time"] - begun["time"] + begun["seconds"])
    return min(lasted, LONGEST) if all(own) else 0.0


def _up_to(points: Sequence[tuple[int, float]], step: int) -> float:
    """The seconds at a step, between two points in proportion."""
    for (a, x), (b, y) in pairwise(points):
        if step <= b:
            return x + (y - x) * (step - a) / (b - a) if b > a else x
    return points[-1][1]


def _quantile(values: Sequence[tuple[float, int]], share: float) -> float | None:
    """The value below which this share of them is, each as often as its count says; None of nothing."""
    left = share * sum(count for _, count in values)
    for value, count in sorted(values):
        left -= count
        if left <= 0:
            return round(value, 6)
    return None


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)
