"""Time of the fused neuron's kernels against plain PyTorch, side by side, and the bytes a second that they reach.

    python -m benchmarks.neuron [--device cuda|cpu] [--dtype fp32] [--rounds 20]

Units of hst_10_768 without their convolution, 8 images of 224 x 224, T = 4. The contenders take turns; a ratio is the
median over the rounds of PyTorch's time divided by theirs in the same round. Bytes: each of the four functions reads
its inputs once and writes its outputs once; between the passes of backward a CPU writes the gradient of each current in
fp32 and reads it, a GPU reads that of the spikes again. Tensors lie as the device keeps them. What fits the cache can
be faster than memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tdformer.kernels import Backend, Drive, Means, Norm, laid
from tdformer.options import NeuronOptions

from . import machine, table

BACKENDS = {"cuda": ("reference", "gpu"), "cpu": ("reference", "cpu")}
"""Modules of `tdformer.kernels` by device; the others are compared to the first."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STEPS = 4
SHAPES: list[tuple[tuple[int, ...], bool]] = [
    ((1, 8, 96, 224, 224), True),  # behind the first convolution: the same picture at each step
    ((4, 8, 192, 112, 112), True),
    ((4, 8, 192, 56, 56), False),
    ((4, 8, 768, 14, 14), False),
    ((4, 8, 3072, 14, 14), False),
]


def unit(backend: Backend, y: Tensor, pool: bool, grad: Tensor | None) -> None:
    """Statistics and neuron, and with grad, that of the spikes, their gradients; y is then written over."""
    one, count, o = torch.ones(y.shape[2], device=y.device), y.numel() / y.shape[2], NeuronOptions()
    mean, var = backend.statistics(y)
    invstd = (var + 1e-5).rsqrt()
    norm = Norm(mean, invstd, invstd, one - mean * invstd)
    drive = Drive(y, norm, None, one / o.tau, o, pool)
    backend.fire(drive, STEPS)
    if grad is not None:
        got = backend.fire_backward(drive, grad, None)
        means = Means(got.total / count, got.total_normal / count)
        backend.norm_backward(drive, grad, None, got, means, True)


def moved(y: Tensor, spikes: Tensor, backward: bool) -> int:
    """Bytes, as the head of this file counts them."""
    potential = 4 * spikes[0].numel()
    between = spikes.nbytes if y.is_cuda else 2 * potential * len(y)
    return 2 * y.nbytes + spikes.nbytes + potential + backward * (3 * y.nbytes + spikes.nbytes + between)


def seconds(device: str, backend: Backend, *call: Any) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    unit(backend, *call)
    wait()
    return time.perf_counter() - begun


def measured(device: str, dtype: torch.dtype, rounds: int) -> list[list[str]]:
    backends = {name: import_module(f"tdformer.kernels.{name}") for name in BACKENDS[device]}
    rows = []
    for shape, pool in SHAPES:
        source = laid(torch.randn(shape, device=device).to(dtype))
        out = [(n + 1) // 2 for n in shape[3:]] if pool else shape[3:]
        grad = laid(torch.randn(STEPS, *shape[1:3], *out, device=device).to(dtype))
        y = source.clone()
        for backward in (False, True):
            times: dict[str, list[float]] = {name: [] for name in backends}
            for turn in range(rounds + 2):  # the first two compile and warm up
                for name, backend in backends.items():
                    y.copy_(source)
                    taken = seconds(device, backend, y, pool, grad if backward else None)
                    if turn > 1:
                        times[name].append(taken)
            base = next(iter(times.values()))
            for name, own in times.items():
                middle = statistics.median(own)
                ratio = statistics.median(a / b for a, b in zip(base, own, strict=True))
                speed = moved(y, grad, backward) / middle / 1e9
                what = f"{list(shape)}{', pooled' if pool else ''}", "both" if backward else "forward", name
                rows.append([*what, f"{middle * 1e3:.3f}", f"{ratio:.2f}", f"{speed:.0f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.neuron")
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=here, choices=BACKENDS)
    parser.add_argument("--dtype", default="fp32", choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda needs a CUDA device, and there is none here", file=sys.stderr)
        sys.exit(2)
    print(f"{machine()}; T = {STEPS}, {given.dtype}, {given.rounds} rounds\n")
    head = ["y", "direction", "kernels", "ms", "times as fast", "GB/s"]
    print(table(head, measured(given.device, DTYPES[given.dtype], given.rounds)))


if __name__ == "__main__":
    main()
