"""What others count differently, and how much that is on one network.

    python -m benchmarks.counting RUN [KEY=VALUE ...] [--images 32]

RUN is a trained run; its operations are counted exactly on images of its test set (`tdformer energy`), and then one
thing at a time is counted as others do. Then the same for the shapes of hst_10_768, where no spike is zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from cluster.paper.energy import counted
from cluster.paper.opening import Run
from tdformer.measure import Counted, Row
from tdformer.measure.energy import AC, LAYERS, MAC, PRICES, arithmetic, conventional, energies, firing_rate

from . import machine, table
from .dense import count

FLOAT, INTEGER = PRICES[0], PRICES[1]


def pj(rows: Sequence[Row]) -> float:
    return sum(arithmetic(row, FLOAT) for row in rows)


def by_rate(row: Row) -> float:
    """pJ where the mean of what comes in stands for events: those in the padding and between strides count too."""
    return MAC * row.dense if row.mac else AC * row.dense * row.values / max(1, row.inputs)


def one_sided(rows: Sequence[Row]) -> float:
    """pJ of attention as Q (K^T V) where each product is of one side's spikes: the fewer of K and V, and Q."""
    found = 0.0
    for block in sorted({row.unit for row in rows if row.operation == "product"}):
        attention = block.rpartition(".")[0]
        q, k, v = (firing_rate([r for r in rows if r.unit.startswith(f"{attention}.{one}.")]) or 0.0 for one in "qkv")
        dense = sum(row.dense for row in rows if row.unit == block and row.operation == "product")
        found += AC * dense / 2 * (min(k, v) + q)
    return found


def ways(found: Counted, steps: int) -> list[tuple[str, float]]:
    """What is counted otherwise, and pJ of all images then. steps: of a segment."""
    rows, exact = found.rows, pj(found.rows)
    layers = [row for row in rows if row.operation in LAYERS]
    spiking = [row for row in layers if not row.mac]
    picture = pj([row for row in layers if row.operation == "convolution" and row.mac])
    products = [row for row in rows if row.operation == "product"]

    def without(which: Callable[[Row], bool]) -> float:
        return exact - pj([row for row in rows if which(row)])

    rate, dense = firing_rate(rows) or 0.0, sum(row.dense for row in spiking)
    several = sum((row.additions - row.several) * AC for row in layers)
    as_real = sum(arithmetic(row, FLOAT, by_additions=False) for row in rows)
    told = [
        ("exact", exact),
        ("the picture's convolution is left out", exact - picture),
        ("it is done again at each step", exact + (steps - 1) * picture),
        ("BatchNorm is not folded: a multiply-add a value", exact + MAC * sum(row.norm for row in rows)),
        ("neurons are left out", without(lambda row: row.operation == "neuron")),
        ("all but layers and products is left out", pj(layers)),
        ("a sum of spikes is one spike", exact - several),
        ("a sum of spikes is a real number: a multiply-add", as_real),
        ("mean rates stand for events", exact - pj(layers) + sum(map(by_rate, layers))),
        ("one mean rate of the network stands for all", exact - pj(spiking) + AC * rate * dense),
        ("the rate is not taken times T", exact - pj(spiking) * (1 - 1 / (steps * (1 + max(r.segment for r in rows))))),
        ("Eqs 109-110", conventional(found) * found.images),
    ]
    if products:
        told.insert(5, ("attention's products are left out", exact - pj(products)))
        told.insert(6, ("attention's products are of one side", exact - pj(products) + one_sided(rows)))
    return told


def trained(run: Run, images: int) -> str:
    found = counted(run, images)
    told = ways(found, run.model.time_steps // run.model.segments)
    exact = told[0][1]
    rows = [[what, f"{value / found.images / 1e9:.6f}", f"{value / exact - 1:+.1%}"] for what, value in told]
    for arithmetic_alone, whole in ((FLOAT, PRICES[3]), (INTEGER, PRICES[4])):
        ours, with_memory = (sum(map(sum, energies(found, prices))) for prices in (arithmetic_alone, whole))
        more = f"{whole.name}: beside {arithmetic_alone.name}"
        rows.append([more, f"{with_memory / 1e9:.6f}", f"{with_memory / ours:.0f} times"])
    spiking = [row for row in found.rows if row.operation in LAYERS and not row.mac]
    mean = sum(row.dense * row.values / max(1, row.inputs) for row in spiking) / sum(row.dense for row in spiking)
    line = f"The mean of what comes into a layer, weighted by multiply-adds: {mean:.3f}; firing rate"
    head = [f"mJ of an image, of {found.images}", "mJ", "against exact"]
    return f"{line} {firing_rate(found.rows):.3f}\n\n{table(head, rows)}"


def dense() -> str:
    """Shares of the multiply-adds of hst_10_768's layers, by pixels."""
    rows: dict[str, list[str]] = {}
    for pixels in (224, 288, 384):
        c, _ = count("hst_10_768", image_size=pixels)
        fed = count("hst_10_768", image_size=pixels, feedback="all", segments=4)[0] - c
        shares = {
            "the picture's convolution": c.first,
            "attention as Q (K^T V)": c.linear,
            "attention as (Q K^T) V": c.quadratic,
            "BatchNorm, 2 a value": 2 * c.norm,
            "biases": c.bias,
            "neurons, 1 a value": c.neurons,
            "poolings, 1 a value": c.pooled,
            "feedback of seven blocks, 3 of 4 steps": fed.products + fed.core,
        }
        rows.setdefault("multiply-adds of layers, all steps, 10^9", []).append(f"{c.products / 1e9:.2f}")
        for what, share in shares.items():
            rows.setdefault(what, []).append(f"{share / c.products:.2%}")
    return table(["hst_10_768, T = 4", "224", "288", "384"], [[what, *cells] for what, cells in rows.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--images", type=int, default=32)
    given = parser.parse_args()
    run = Run.open(given.run, given.overrides)
    facts = f"`{run.model.config['name']}`, width {run.model.config['width']}, T = {run.model.time_steps}"
    print(machine(), f"{facts}, N = {run.model.segments}", trained(run, given.images), dense(), sep="\n\n")


if __name__ == "__main__":
    main()
