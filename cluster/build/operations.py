"""How many operations a training step takes for an image: of the model, and with what is computed again."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..run.kept import Start
from . import planner
from .memory import Memory
from .setup import Setup


def operations(setup: Setup, memory: Memory, before: Iterable[Start] = ()) -> Start:
    """What starts.jsonl notes of a start: its ranks, the model's parameters, and the operations of forward and backward
    for one image as `measure_step` counts them on meta (of convolutions and matrix products, dense, 2 a multiply-add):
    `flop_image` where nothing is computed again, `flop_image_done` with what the policy of the first rank computes
    again; None where they cannot be counted.

    before: rows of earlier starts. Where one computed alike, or the plan of the memory has priced these steps, nothing
    is counted; else it takes 0.05 to 1 s.
    """
    model, config, plan = setup.outline, setup.config, setup.plan
    facts: Start = {"world": plan.world, "parameters": sum(p.numel() for p in model.parameters())}
    try:
        with torch.device("meta"):
            chosen = planner.expected(model, config, plan, memory)
            alike: Start = {"micro_batch": plan.micro_batch, "policy": chosen.policy, "borders": chosen.borders}
            facts |= alike
            for row in before:
                if row.get("flop_image") and alike.items() <= row.items():
                    return facts | {"flop_image": row["flop_image"], "flop_image_done": row["flop_image_done"]}
            choices = (("none", 1), (chosen.policy, chosen.borders))
            costs = [planner.price(model, config, plan, *choice).cost for choice in choices]
    except Exception:  # a user's model runs here: that it cannot be counted must not keep it from training
        return facts | {"flop_image": None, "flop_image_done": None}
    once, done = (None if cost is None else round(cost.flops / plan.micro_batch) for cost in costs)
    return facts | {"flop_image": once, "flop_image_done": done}
