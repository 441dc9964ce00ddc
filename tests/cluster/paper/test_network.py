"""Fig 2: what stands in the picture is in the model, and nothing of the model is missing."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch

import tdformer
from cluster.build.model import example
from cluster.paper import style
from cluster.paper.figure import Drawn
from cluster.paper.network import groups, picture
from tdformer.measure.outline import Outline, outline

CASES: list[tuple[str, dict[str, Any]]] = [
    ("quickstart", {"segments": 2, "feedback": "all"}),
    ("hst_10_768", {"segments": 4, "feedback": "all", "num_classes": 7}),
    ("spikformer_4_384", {"segments": 2, "feedback": [1, 2], "mixer": "processing"}),
    ("sdt_2_256", {"segments": 2, "feedback": "all", "cm": 2}),
    ("quickstart", {"time_steps": 16, "segments": 8, "feedback": "all", "cm": 3}),
    ("spikformer_4_384", {}),
]


@functools.cache
def drawn_of(number: int) -> tuple[tdformer.TDFormer, Outline, Drawn]:
    """A picture, in which all texts have a place."""
    name, options = CASES[number]
    with torch.device("meta"):
        model = tdformer.create_model(name, **options).eval()
    seen = outline(model, example(model, 1, "meta"))
    with style.applied():
        drawn = picture(model, seen)
        drawn.figure.draw_without_rendering()
    return model, seen, drawn


@pytest.mark.parametrize("number", range(len(CASES)))
def test_units_parameters_and_edges_of_the_picture_are_the_models(number: int) -> None:
    model, seen, drawn = drawn_of(number)
    [axes] = drawn.figure.axes
    texts = [(text.get_position(), text.get_text()) for text in axes.texts]
    total = sum(parameter.numel() for parameter in model.parameters())
    right = 3.1  # inches: right of it are the segments

    shown = 0
    for group in groups(seen.parts):
        rows = [0] * len(group.rows)
        for (x, y), text in texts:
            for i in range(len(rows)):
                if x < right + 0.1 and group.row(i) < y < group.row(i) + 0.16 and text:
                    rows[i] += _count(text, alone=len(group.rows[i]) == 1, last=x > right - 0.1)
        assert rows == [sum(box.parameters for box in row) for row in group.rows]
        names = " ".join(text for (x, y), text in texts if x < right and group.bottom < y < group.top)
        assert all(box.name.rpartition(".")[2] in names or "PM w" in names for box in group.parts[0].boxes)
        shown += sum(rows) * len(group.parts)
    assert shown == total
    assert f"{total:,} parameters in {len(seen.boxes)} units" in drawn.caption

    columns = min(model.segments, 4)
    assert sum(text.startswith("segment ") for _, text in texts) == columns
    drawn_edges = sum(text == "PM" for _, text in texts)
    more = sum(int(found[1]) - 1 for _, text in texts if (found := re.fullmatch(r"× (\d+)", text)))
    fed = len(model.config["feedback"]) if model.segments > 1 else 0
    assert drawn_edges + more == fed * (columns - 1) == len([e for e in seen.edges if e.target < columns])
    assert ("Nothing is fed back" in drawn.caption) == (fed == 0)

    units = [row for row in drawn.rows if "parameters" in row]
    assert sum(row["parameters"] for row in units) == total and len(units) == len(seen.boxes)
    edges = [(row["from"], row["to"], row["part"]) for row in drawn.rows if "from" in row]
    assert edges == [(edge.source + 1, edge.target + 1, edge.part) for edge in seen.edges]


def _count(text: str, alone: bool, last: bool) -> int:
    """The parameters that a text in a row of units says: alone in its row, the last one; else its last word."""
    word = text.split(" ")[-1].replace(",", "")
    return int(word) if word.isdigit() and (last or not alone) else 0


@pytest.mark.parametrize("number", range(len(CASES)))
def test_no_text_lies_over_another_or_beyond_the_edge(number: int) -> None:
    figure = drawn_of(number)[2].figure
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    width, height = figure.bbox.width, figure.bbox.height
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height for b in boxes)
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.shrunk(0.98, 0.7).overlaps(b)]
