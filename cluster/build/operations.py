"""How many operations a training step takes for an image: of the model, and with what is computed again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from . import planner
from .memory import Memory
from .setup import Setup

COUNTED = ("flop_image", "flop_image_done")


def operations(setup: Setup, memory: Memory, before: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What starts.jsonl notes of a start: its ranks, the model's parameters, and the operations of forward and backward
    for one image as `measure_step` counts them on meta (of convolutions and matrix products, dense, 2 a multiply-add):
    `flop_image` where nothing is computed again, `flop_image_done` with what the policy of the first rank computes
    again; None where they cannot be counted.

    before: rows of earlier starts. Where one computed alike, or the plan of the memory has priced these steps, nothing
    is counted; else it takes 0.05 to 1 s.
    """
    model, config, plan = setup.outline, setup.config, setup.plan
    facts: dict[str, Any] = {"world": plan.world, "parameters": sum(p.numel() for p in model.parameters())}
    try:
        with torch.device("meta"):
            chosen = planner.expected(model, config, plan, memory)
            alike = {"micro_batch": plan.micro_batch, "policy": chosen.policy, "borders": chosen.borders}
            facts |= alike
            for row in before:
                if row.get("flop_image") and alike.items() <= row.items():
                    return facts | {key: row[key] for key in COUNTED}
            choices = (("none", 1), (chosen.policy, chosen.borders))
            costs = [planner.price(model, config, plan, *choice).cost for choice in choices]
    except Exception:  # a user's model runs here: that it cannot be counted must not keep it from training
        return facts | dict.fromkeys(COUNTED)
    counts = [None if cost is None else round(cost.flops / plan.micro_batch) for cost in costs]
    return facts | dict(zip(COUNTED, counts, strict=True))
