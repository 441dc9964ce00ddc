"""The table of large sizes in docs/model.md: `python .ci/docs/sizes.py` writes it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

PAGE = ROOT / "docs" / "model.md"
TABLE = re.compile(r"(?<=<!-- sizes -->\n).*(?=<!-- end of sizes -->)", re.S)
GPUS = 8
SIZES = (
    ("hst_10_768",),
    ("hst_10_768", "model.width=1024", "model.depths=[1,2,9]", "model.heads=16"),
    ("spikformer_8_768", "model.width=2048", "model.heads=32"),
    ("sdt_8_768", "model.width=2048", "model.depths=[12]"),
    ("hst_10_768", "model.width=2048", "model.depths=[1,2,16]", "model.heads=32"),
    ("hst_10_768", "model.width=3072", "model.depths=[1,2,15]", "model.heads=48"),
)


def table() -> str:
    titles = ["model", "settings", "parameters", "GFLOP", *(f"ZeRO {stage}" for stage in range(4))]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows())]) + "\n"


def rows() -> Iterator[list[str]]:
    """Of each size: with two segments and feedback to the last block, 224 x 224 pixels, T = 4, AdamW."""
    import torch

    import tdformer
    from cluster.build.model import example
    from cluster.build.planner import state_bytes
    from cluster.config import load, resolve
    from tdformer.measure import measure_evaluation

    for name, *settings in SIZES:
        config = load(None, [f"model.name={name}", "model.segments=2", "model.feedback=last", *settings])
        with torch.device("meta"):
            model = tdformer.create_model(name, **config.model.options())
            flop = measure_evaluation(model, example(model, 1, "meta")).flops
        plan, memory = resolve(config, GPUS), []
        for stage in range(4):
            config.engine = replace(config.engine, zero_stage=stage)
            memory.append(f"{state_bytes(model, config, plan) / 2**30:.1f}")
        count = sum(parameter.numel() for parameter in model.parameters())
        shown = " ".join(f"`{word}`" for word in settings) or "its own"
        yield [f"`{name}`", shown, f"{count:,}", f"{flop / 1e9:,.0f}", *memory]


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: f"\n{table()}\n", PAGE.read_text()))
