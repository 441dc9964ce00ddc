"""What the hook `health` costs: training steps with it and without it, taken in turn.

    python -m benchmarks.health [--rounds 20]

Each round is a logged step with the hook `firing`, which all runs have, and one with `health` besides: forward,
backward and AdamW. A ratio is the median over the rounds of the second one's time over the first one's. On a CPU times
are those of the process, since others may be on the machine, and one thread is used; on a GPU they are the clock's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch

import tdformer
from cluster.config import Config
from cluster.train.hooks.health import Health
from cluster.train.step import Step
from tdformer.measure import measure_firing

from . import machine, table

MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "quickstart": ({"segments": 2, "feedback": "all"}, 64),
    "spikformer_2_256": ({"width": 64, "time_steps": 4, "image_size": 28, "in_channels": 1, "segments": 2}, 64),
    "sdt_2_256": ({"width": 64, "image_size": 28, "in_channels": 1, "segments": 2}, 64),  # its H_n are currents
}
"""Options and images of a step."""
EVERY = Config().log.every_steps


def measured(name: str, rounds: int, device: torch.device) -> list[str]:
    options, count = MODELS[name]
    torch.manual_seed(0)
    model = tdformer.create_model(name, **options).to(device)
    images = torch.rand(count, model.config["in_channels"], *model.config["image_size"], device=device)
    targets = torch.randint(model.config["num_classes"], (count,), device=device)
    adamw = torch.optim.AdamW(model.parameters(), 1e-3)
    hook = Health(Config())
    hook.run = SimpleNamespace(
        rank=0, engine=SimpleNamespace(module=model), monitor=SimpleNamespace(warn=lambda *a, **k: None)
    )  # type: ignore[assignment]
    own: list[float] = []

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def train() -> None:
        tdformer.segment_loss(model(images), targets).backward()
        adamw.step()
        adamw.zero_grad()

    def step(health: bool) -> float:
        now, begun = Step(1, 0, 0.1, True, count, 0.0, 0.0), clock()
        with measure_firing(model) as now.firing:
            if health:
                with hook.during(now):
                    train()
            else:
                train()
        if health:
            before = clock()
            hook.step(now)
            own.append(clock() - before)
        return clock() - begun

    times = [(step(False), step(True)) for _ in range(rounds + 2)][2:]  # the first ones compile
    plain, ratio = statistics.median(a for a, _ in times), statistics.median(b / a for a, b in times)
    share = statistics.median(own[2:]) / plain
    cells = f"{1e3 * plain:.1f}", f"{1e3 * statistics.median(own[2:]):.2f}", f"{share:.2%}", f"{ratio:.4f}"
    return [f"{name}, {count} images", *cells, f"{share / EVERY:.3%}"]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.health")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    given = parser.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{machine()}; {given.rounds} rounds\n")
    head = [
        "model",
        "ms of a step",
        "ms after it",
        "of a logged step",
        "with / without",
        f"of all, every {EVERY}th logged",
    ]
    print(table(head, [measured(name, given.rounds, device) for name in given.models]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
