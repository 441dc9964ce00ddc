"""Memory of one training step: live tensor bytes without parameters and gradients, against the published style.

    python -m benchmarks.memory [--model hst_10_768] [--device cpu|meta] [--pictures FOLDER]

One image, fp32, T = 4. `--device meta` computes nothing and counts the same bytes in seconds (`tdformer.measure`).
Three tables: kept for backward and peak by policy; growth with time steps at one step a segment; and, on the meta
device, the largest batch at 384 pixels in 80 GiB. With spikingjelly installed its `memopt` is a row of the first
(`peer.py`; on the CPU only).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import tdformer
from tdformer.measure import Cost, LiveBytes, measure_step

from . import machine, peer, table
from .published import Published

MIB, GIB = 2**20, 2**30
POLICIES: list[tuple[str, int, str]] = [
    ("none", 1, "fp32"),
    ("block", 1, "fp32"),
    ("time", 1, "fp32"),
    ("unit", 1, "fp32"),
    ("unit", 2, "fp32"),
    ("unit", 4, "fp32"),
    ("unit", 1, "bf16"),
]


def model_of(name: str, policy: str, borders: int = 1, border_dtype: str = "fp32", **options: object) -> nn.Module:
    """The baseline for the policy "published", the peer for "memopt, by block" and "memopt, by unit", else ours."""
    if policy.startswith("memopt"):
        return peer.memopt(name, policy.split()[-1], images=torch.rand(1, 3, 224, 224), **options)  # type: ignore[arg-type]
    if policy == "published":
        return Published(name, options["segments"], options["time_steps"])  # type: ignore[arg-type]
    model = tdformer.create_model(name, border_dtype=border_dtype, **options)  # type: ignore[arg-type]
    model.set_recompute(policy, borders)
    return model


def words(policy: str, borders: int = 1, border_dtype: str = "fp32") -> str:
    kept = "" if borders == 1 else f", borders={borders}"
    return f"{policy}{kept}{', bf16 borders' if border_dtype == 'bf16' else ''}"


def measured(
    device: str, name: str, segments: int, *policy: object, time_steps: int = 4, size: int = 224
) -> tuple[Cost, LiveBytes]:
    torch.manual_seed(0)
    with torch.device(device):
        model = model_of(name, *policy, segments=segments, time_steps=time_steps)  # type: ignore[arg-type]
        return measure_step(model, torch.rand(1, 3, size, size))


def by_policy(name: str, device: str) -> str:
    rows = []
    published = {n: measured(device, name, n, "published")[0] for n in (1, 2, 4)}
    for n in (1, 2, 4):
        rows.append([str(n), "published", *_numbers(published[n], published[n])])
        for policy in POLICIES:
            if (n < 2 and (policy[0] == "time" or policy[1:] != (1, "fp32"))) or policy[1] > n:
                continue
            rows.append([str(n), words(*policy), *_numbers(measured(device, name, n, *policy)[0], published[n])])
        for by in ("memopt, by block", "memopt, by unit") if peer.INSTALLED and device == "cpu" else ():
            rows.append([str(n), by, *_numbers(measured(device, name, n, by)[0], published[n])])
    head = ["N", "policy", "kept MiB", "ratio", "peak MiB", "ratio", "operations"]
    return table(head, rows)


def _numbers(cost: Cost, base: Cost) -> list[str]:
    return [
        f"{cost.kept / MIB:.1f}",
        f"{cost.kept / base.kept:.4f}",
        f"{cost.peak / MIB:.1f}",
        f"{cost.peak / base.peak:.4f}",
        f"{cost.flops / base.flops:.3f}",
    ]


GROWTH: list[tuple[object, ...]] = [("published",), ("none",), ("unit",), ("unit", 4), ("unit", 4, "bf16")]
STEPS = (1, 2, 4, 8)


def growth(name: str, device: str, size: int) -> dict[str, list[Cost]]:
    """Costs by policy for T = N in STEPS."""
    return {
        words(*policy): [measured(device, name, t, *policy, time_steps=t, size=size)[0] for t in STEPS]  # type: ignore[arg-type]
        for policy in GROWTH
    }


def growth_table(costs: dict[str, list[Cost]]) -> str:
    slopes = {k: (v[-1].kept - v[0].kept) / (STEPS[-1] - STEPS[0]) / MIB for k, v in costs.items()}
    head = ["policy, N = T", *(f"kept MiB, T = {t}" for t in STEPS), "MiB a step", "ratio"]
    rows = [
        [k, *(f"{c.kept / MIB:.1f}" for c in v), f"{slopes[k]:.2f}", f"1 / {slopes['published'] / slopes[k]:.1f}"]
        for k, v in costs.items()
    ]
    return table(head, rows)


def largest_batch(name: str) -> str:
    """The largest micro-batch whose peak and training state (weights, gradients, AdamW: 16 bytes a parameter) fit.

    The baseline is counted with everything in bf16, which is less than autocast keeps.
    """
    rows = []
    for n, feedback, policy in (
        (1, "none", ("published",)),
        (1, "none", ("unit",)),
        (2, "all", ("unit",)),
        (2, "all", ("unit", 2)),
        (4, "all", ("unit", 2)),
    ):
        with torch.device("meta"):
            ours = policy != ("published",)
            options = {"feedback": feedback, "image_size": 384} if ours else {}
            model = model_of(name, *policy, segments=n, time_steps=4, **options)  # type: ignore[arg-type]
            limit = 80 * GIB - 16 * sum(p.numel() for p in model.parameters())
            model = model if ours else model.bfloat16()
            dtype = None if ours else torch.bfloat16

            def peak(batch: int) -> int:
                return measure_step(model, torch.rand(batch, 3, 384, 384, dtype=dtype), bf16=ours)[0].peak  # noqa: B023

            low, high = 0, 8
            while peak(high) <= limit:
                low, high = high, high * 2
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if peak(middle) <= limit else (low, middle)
        rows.append([str(n), feedback, words(*policy), str(low)])  # type: ignore[arg-type]
    return table(["N", "feedback", "policy", "largest batch"], rows)


def pictures(folder: Path, name: str, device: str, costs: dict[str, list[Cost]]) -> None:
    """memory-step.svg: one step at N = 1; memory-time.svg: kept and peak against T = N."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "tdformer"})
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    for policy in ("published", "none", "block", "unit"):
        line = [n / MIB for n in measured(device, name, 1, policy)[1].timeline]
        every = max(1, len(line) // 600)
        places = range(0, len(line), every)
        axes.plot([i / len(line) for i in places], [max(line[i : i + every]) for i in places], label=policy, lw=1)
    axes.set(
        xlabel="share of the step's operators, forward, then backward", ylabel="live MiB", yscale="log", ylim=(1, None)
    )
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(folder / "memory-step.svg", metadata={"Date": None})
    figure, both = plt.subplots(1, 2, figsize=(6.4, 3.2), sharey=True)
    for axes, title in zip(both, ("kept", "peak"), strict=True):
        for policy_words, found in costs.items():
            axes.plot(STEPS, [getattr(c, title) / MIB for c in found], marker="o", ms=3, lw=1, label=policy_words)
        axes.set(xlabel="time steps T = segments N", ylabel="MiB", title=title, yscale="log", xscale="log")
        axes.minorticks_off()
        axes.set_xticks(STEPS, [str(t) for t in STEPS])
    figure.tight_layout(rect=(0, 0, 1, 0.86))
    figure.legend(*both[0].get_legend_handles_labels(), loc="upper center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(folder / "memory-time.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.memory")
    parser.add_argument("--model", default="hst_10_768")
    parser.add_argument("--device", default="cpu", choices=("cpu", "meta"))
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args()
    print(f"{machine()}; {given.model}, 1 image of 224 x 224, fp32, {given.device}\n", flush=True)
    print(by_policy(given.model, given.device), "\n", flush=True)
    costs = growth(given.model, given.device, 224)
    print(growth_table(costs), "\n", flush=True)
    print("At 384 x 384 in 80 GiB, bf16, T = 4, on the meta device:\n")
    print(largest_batch(given.model))
    if given.pictures is not None:
        pictures(given.pictures, given.model, given.device, costs)


if __name__ == "__main__":
    main()
