"""The table of a study: a row for each cell, from which reports and fits are made; its columns and its CSV.

A row is flat, so that a CSV holds it. Missing values are None, an empty field in the CSV. Columns:

cell, digest                the cell's name, and the digest of what decides its numbers and of the code's revision
axis.KEY                    the values of the study's axes, by setting (`axis.model.time_steps`) or by `nodes`,
                            `processes` (on each node), `gpus`, `share` (of the training samples)
state                       finished, running, queued, saved, failed, stopped, waiting
revision, machine, date     commit, what ran it ("2 x AMD EPYC ..." or the GPU's name), day of its last start
simulated                   true: modelled and not run; a report draws it hollow
world, parameters, images, steps, flop_image, flop_image_done
                            ranks; of the model; samples seen; optimizer steps; operations of a training step for one
                            image (2 a multiply-add), and those done with recomputation
loss, accuracy, eval_loss   of the last row of metrics.jsonl, of the last evaluation
energy_mj                   of an image, by Eqs 109-110, of the last row; where train.hooks names energy
CLOCK                       columns that a clock has decided: two runs of a study differ in these alone
seconds_step, seconds_step_low, seconds_step_high
                            median and quartiles of a step, without the first three of each start
seconds.PART                of which spent in a part: data, compute, other
images_second, tflops, mfu, hfu
peak_gib                    of one process: tensors on its GPU, on a CPU its resident set, libraries too
gpu_hours                   of all starts, from their beginning to their end, times world
good, bad.CAUSE             shares of these and of the waits in queues, which sum to 1: good, and by cause start, data,
                            checkpoint, recomputed, evaluation, queue, other
failures, again             kills that the study asked for, steps done again
predicted.good, predicted.failures, predicted.again, predicted.best_every
                            the same by the plan's formula, and the steps between saves that it holds best: failures.py
predicted.seconds_step, predicted.peak_gib, predicted.seconds.PART, predicted.gib.PART
                            what `tdformer plan` says, the peak of what peak_gib is of
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import RunError
from ..run.records import check_file

Row = dict[str, object]

FIRST = ("cell", "digest", "state", "simulated", "revision")
CLOCK = (
    *("date", "machine", "seconds", "images_second", "tflops", "mfu", "hfu", "peak_gib", "gpu_hours", "good", "bad"),
    *("failures", "again", "predicted.good", "predicted.failures", "predicted.again", "predicted.best_every"),
)
"""A column that is called so, or begins so before a dot or an underscore, is of a clock or a machine."""


def number(row: Mapping[str, object], column: str) -> float | None:
    """A value of a row as a number; None: it has none, or no finite one."""
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def of_clock(column: str) -> bool:
    """Whether two runs of the same study may differ in it."""
    return any(column == word or column.startswith((f"{word}.", f"{word}_")) for word in CLOCK)


def without_clock(rows: Iterable[Mapping[str, object]]) -> list[Row]:
    """The rows without what two runs of the same study may differ in."""
    return [{key: value for key, value in row.items() if not of_clock(key)} for row in rows]


def columns(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """All that the rows have: FIRST, then the axes, then the others in alphabetical order, those of a clock last."""
    names = {name for row in rows for name in row}
    axes = sorted(name for name in names if name.startswith("axis."))
    rest = sorted(names - {*FIRST, *axes}, key=lambda name: (of_clock(name), name))
    return [*(name for name in FIRST if name in names), *axes, *rest]


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Lists and the like are written as JSON."""
    names = columns(rows)
    lines = [["" if row.get(name) is None else _word(name, row[name]) for name in names] for row in rows]
    return "".join(_line(fields) for fields in (names, *lines))


def _line(fields: Sequence[str]) -> str:
    """The writer puts quotes round what ends its lines; both kinds of ends must be in them to be read again."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerow(fields)
    return f"{out.getvalue()[:-2]}\n"


def from_csv(text: str) -> list[Row]:
    """The rows again, with numbers as numbers."""
    lines = csv.DictReader(io.StringIO(text, newline=""))
    return [{key: _value(key, word) for key, word in row.items()} for row in lines]


def read(path: Path) -> list[Row]:
    """The rows of a file. Raises RunError, in one line, for one that is not a study's table."""
    check_file(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise RunError(f"{path}: cannot be read (byte {e.start} is not UTF-8); give a study's cells.csv") from e
    except OSError as e:
        raise RunError(f"{path}: cannot be read ({e.strerror}); give a study's cells.csv") from e
    try:
        head, *rest = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as e:
        raise RunError(f"{path}: not a CSV ({e}); give a study's cells.csv") from e
    if "cell" not in head:
        raise RunError(f"{path}: no column is called cell; give a study's cells.csv")
    for number, fields in enumerate(rest, 2):
        if fields and len(fields) != len(head):
            raise RunError(f"{path}, row {number}: {len(fields)} fields, and the first has {len(head)}; write it anew")
    return from_csv(text)


_WORDS = ("cell", "digest", "state", "revision", "machine", "date")
"""Columns that hold texts, also where one looks like a number."""


def _word(key: str, value: object) -> str:
    """A text as it is, unless it would be read as something else: "1" of a setting that is a text, or an empty one."""
    if isinstance(value, str) and (key in _WORDS or _value(key, value) == value):
        return value
    return json.dumps(value)


def _value(key: str, word: str) -> object:
    if word == "":
        return None
    if key in _WORDS:
        return word
    try:
        return json.loads(word)
    except (ValueError, RecursionError):
        return word
