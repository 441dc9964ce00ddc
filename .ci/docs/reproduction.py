"""The tables of docs/reproduction.md: what the paper prints (docs/paper.yaml), the command for it, and what was run
(benchmarks/results/runs). `python .ci/docs/reproduction.py` writes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import recipes  # noqa: E402

from cluster.run.states import RunState  # noqa: E402

PAGE = ROOT / "docs" / "reproduction.md"
EVIDENCE = ROOT / "docs" / "evidence"
WRITTEN = re.compile(r"(?<=<!-- made: reproduction -->\n).*(?=<!-- end -->)", re.S)


def tables() -> str:
    """A section for each table, one for the figures, one for the study of feedback and one for runs that are of no
    row."""
    from benchmarks import reproduction

    paper, results = reproduction.paper(), reproduction.results()
    sections = [_table(table, results) for table in paper["tables"]]
    others = _others([r for r in results if r["row"] is None])
    return "\n".join([*sections, _figures(paper["figures"]), feedback(), others])


def _table(table: Mapping[str, Any], results: list[dict[str, Any]]) -> str:
    extra = {"power": "mJ", "gflop": "GFLOP"}
    printed = [key for key in extra if any(key in row for row in table["rows"])]
    sizes = any("params" in row for row in table["rows"])
    head = ["row", *["M parameters: paper / here"] * sizes, *(extra[key] for key in printed), "paper, %", "run here, %"]
    lines = [f"## Table {table['table']}: {table['title']}", "", _line([*head, "owed", "command"])]
    lines.append("|---" * (len(head) + 2) + "|")
    for row in table["rows"]:
        its = [result for result in results if result["row"] == row["row"]]
        front = [row["label"], *[_sizes(row)] * sizes, *(f"{row[key]:.2f}" if key in row else "" for key in printed)]
        front.append(f"{row['accuracy']:.2f}" + (f" ± {row['deviation']:.2f}" if "deviation" in row else ""))
        lines.append(_line([*front, *_here(row, its)]))
    return "\n".join([*lines, ""])


def _here(row: Mapping[str, Any], results: list[dict[str, Any]]) -> list[str]:
    """What was run, what is owed, and the command."""
    if row["model"] is None:
        return ["", "nothing: cited there", ""]
    its = command(row)
    return [
        "; ".join(_result(result, its) for result in results) or "not run",
        _owed(row, results, its),
        ", then ".join(f"`{line}`" for line in (its.command, *its.after)),
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _sizes(row: Mapping[str, Any]) -> str:
    if row["model"] is None or "params" not in row:
        return ""
    return f"{row['params']:.2f} / {command(row).parameters // 10_000 / 100:.2f}"


@cache
def _commands() -> dict[tuple[object, ...], recipes.Row]:
    return {row.kind: row for row in recipes.rows() if not row.second}


def kind(row: Mapping[str, Any]) -> tuple[object, ...]:
    """What a row of docs/paper.yaml is of, as `recipes.Row.kind`."""
    cell = [row["model"].get(key) for key in ("name", "feedback", "time_steps", "image_size", "cm", "pm")]
    return f"Table {row['row'].partition('/')[0]}", row["dataset"], *cell


def command(row: Mapping[str, Any]) -> recipes.Row:
    """The row of a recipe that it is."""
    return _commands()[kind(row)]


def _result(result: Mapping[str, Any], its: recipes.Row) -> str:
    """One run, and at which scale."""
    scale = f"{result['epochs']} epochs, seed {result['seed']}" + (f", {result['note']}" if result["note"] else "")
    other = _apart(result, its)
    return f"{result['accuracy'] * 100:.2f} ({scale}, {'otherwise: ' + ', '.join(other) if other else 'as the recipe'})"


def _apart(result: Mapping[str, Any], its: recipes.Row) -> list[str]:
    """Settings of a run that are not those of the row's command; null: it has the default."""
    from benchmarks.reproduction import settings
    from cluster.config import show

    own, theirs = result["settings"], settings(its.config)
    return [f"{k}={show(own.get(k))}" for k in sorted({*own, *theirs}) if own.get(k) != _plain(theirs.get(k))]


def _plain(value: Any) -> Any:
    """As it is in JSON."""
    return list(value) if isinstance(value, tuple) else value


def _owed(row: Mapping[str, Any], own: list[dict[str, Any]], its: recipes.Row) -> str:
    whole = {result["seed"] for result in own if not _apart(result, its)}
    if "seeds" not in row:
        return "nothing" if whole else "the run"
    left = [seed for seed in row["seeds"] if seed not in whole]
    return f"{len(left)} runs of {len(row['seeds'])}" if left else "nothing"


def _figures(figures: list[dict[str, Any]]) -> str:
    lines = ["## Figures", "", "| figure | what it shows | drawn here | owed | command |", "|---|---|---|---|---|"]
    for one in figures:
        number = str(one["figure"])
        command = f"[`tdformer figures {number} --from RUN`](figures.md#{one['how']})"
        lines.append(_line([number, one["what"], _drawn(EVIDENCE / f"figure-{number}.md"), one["owed"], command]))
    return "\n".join([*lines, ""])


def _drawn(page: Path) -> str:
    """Of which runs, as the page that `tdformer figures` wrote beside a figure says."""
    if not page.exists():
        return "not drawn"
    runs = [line[2:-2].split(" | ") for line in page.read_text().splitlines() if line.startswith("| `")]
    data = sorted({of.partition(",")[0] for *_, of in runs})
    return f"[of {len(runs)} run{'s' * (len(runs) != 1)} on {', '.join(data)}](evidence/{page.name})"


def feedback() -> str:
    """The study `feedback`, as far as it was run."""
    from benchmarks import feedback as study
    from benchmarks import table

    lines, cells = ["## Feedback on Fashion-MNIST", ""], study.rows()
    if not cells:
        return "\n".join([*lines, "The study `feedback` was not run; `tdformer scale run feedback`.", ""])
    done = sum(row["state"] == RunState.FINISHED for row in cells)
    facts = [sorted({str(row[key]) for row in cells if row.get(key)}) for key in ("date", "machine", "revision")]
    images = ", ".join(sorted({f"{row['images']:,}" for row in cells if row.get("images")}))
    lines += [
        f"{done} of {len(cells)} cells of [the study](evidence.md) are finished, of {images} "
        f"images; {'; '.join(', '.join(fact) for fact in facts)}. Accuracy on the test set after the last epoch: mean "
        "and deviation over the seeds. Differences to no feedback are of pairs of one seed; p is of Student's t-test, "
        "by Holm over all lines; d_z is the mean difference over its deviation.",
        "",
        table(study.HEAD, study.lines(cells)),
        "",
    ]
    if any(row[study.CASE] == study.CONTROL for row in cells):
        lines += [
            "The same beside the control: two segments and no feedback, whose output is that of the last segment, as "
            "with feedback.",
            "",
            table(study.HEAD, study.lines(cells, study.CONTROL)),
            "",
        ]
    return "\n".join(lines)


def _others(results: list[dict[str, Any]]) -> str:
    head = ["run", "data", "accuracy, %", "seed", "steps x batch, epochs", "note", "machine", "revision", "command"]
    lines = ["## Runs that are no row", "", _line(head), "|---" * len(head) + "|"]
    return "\n".join([*lines, *_rows_of(results), ""])


def _rows_of(results: list[dict[str, Any]]) -> Iterator[str]:
    for r in results:
        machine = f"{r['device']}, {r['processes']} process{'es' * (r['processes'] != 1)}, torch {r['torch']}"
        revision = (r["commit"] or "")[:7] + (", changed" if r["dirty"] else "")
        size = f"{r['steps']} x {r['global_batch']}, {r['epochs']}"
        cells = [r["run"], r["dataset"], f"{r['accuracy'] * 100:.2f}", str(r["seed"]), size, r["note"] or ""]
        yield _line([*cells, machine, revision, f"`{r['command']}`"])


MADE = {"reproduction": tables}

if __name__ == "__main__":
    PAGE.write_text(WRITTEN.sub(lambda _: f"\n{tables()}\n", PAGE.read_text()))
