"""What the host does in a training step: how often it asks a GPU for something, and how long that takes, without a GPU.

    python -m benchmarks.host [--trees FOLDER ...] [--model hst_10_768] [--batch 64] [--pixels 224] [--rounds 9]

T = 4, bf16, by policy and segments. Tensors are on the meta device, which computes nothing, and the kernels are the
GPU's, whose launches are counted and not made. Counted are launches of a whole step: forward, backward, BatchNorm's
running statistics, the gradient's norm and clipping, AdamW, the average of the weights, and what is logged. `passes`
are those of them that `engine.graph` records: forward and backward, and what is logged.
A convolution is as many as cuDNN makes of it, and an operator over a list of tensors as many as it is cut into.

Times are seconds of the host's CPU, without the driver's. `meta ms` is the whole step on the meta device, most of which
is PyTorch's own Python for that device. `host ms` is forward, backward and statistics of a model 48 wide on one picture
of 32 x 32 on the CPU, where operators cost about what they cost the host of a GPU; Triton's launches are left out
there, too, and spikes are whatever was in memory.

--trees: other trees of this repository, such as one of an earlier commit. Each case is timed in all of them in turn, in
processes of their own; a ratio is to the first tree that can do it, in the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[1]
CASES = [(policy, segments) for policy in ("none", "unit", "block") for segments in (1, 2, 4)]
"""Policy, and segments; from the second segment on all blocks are fed back."""

_aten = torch.ops.aten
_ALLOCATE = {_aten.empty, _aten.new_empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty_strided}
_CONVOLUTIONS = {_aten.convolution: (1, 3), _aten.convolution_backward: (2, 6)}
"""Kernels of cuDNN, where channels lie last and where they do not: then each tensor's layout is changed."""
TENSORS, CHUNK, BLOCKS = (110, 64, 48, 36, 30), 65536, 320
"""Of a launch over lists of tensors (ATen's MultiTensorApply.cuh): how many of them, by the number of lists; elements
of a block; blocks."""


def _over_lists(args: tuple[Any, ...], result: object) -> int:
    """Launches of an operator over lists of tensors."""
    lists = [a for a in args if isinstance(a, (list, tuple)) and a and all(isinstance(t, Tensor) for t in a)]
    lists += [result] if isinstance(result, (list, tuple)) and result else []
    blocks = sum(-(-t.numel() // CHUNK) for t in lists[0])
    return max(-(-len(lists[0]) // TENSORS[min(len(lists), 5) - 1]), -(-blocks // BLOCKS))


class Launches(TorchDispatchMode):
    """Counts what a GPU would be asked for meanwhile."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = self.launches = self.passes = 0

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        result, packet = func(*args, **(kwargs or {})), func._overloadpacket
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        there = {leaf.untyped_storage()._cdata for leaf in read}
        works = func._schema.is_mutable or any(leaf.untyped_storage()._cdata not in there for leaf in made)
        if not works or packet in _ALLOCATE or not any(leaf.is_meta for leaf in read + made):
            return result
        self.operators += 1
        if packet in _CONVOLUTIONS:
            last = all(leaf.is_contiguous(memory_format=torch.channels_last) for leaf in read if leaf.dim() == 4)
            self.launches += _CONVOLUTIONS[packet][not last]
        elif str(packet).startswith(("aten._foreach_", "aten._fused_")):
            self.launches += _over_lists(args, result)
        else:
            self.launches += 1
        return result

    def kernel(self, *args: object, **options: object) -> None:
        """In place of Triton's launch."""
        self.operators += 1
        self.launches += 1


def kernels_of_gpu() -> Launches:
    """From here on meta tensors have the GPU's kernels, whose launches count only inside what is returned."""
    from triton.runtime.jit import JITFunction

    from tdformer import kernels
    from tdformer.kernels import gpu, reference

    found, packing = Launches(), reference
    with contextlib.suppress(ImportError):
        from tdformer.kernels import gpu_packing as packing  # type: ignore[no-redef]
        from tdformer.kernels import layout

        layout._standing, layout.interpreted = "cuda", lambda: True  # what meta and the CPU are taken for
    with contextlib.suppress(ImportError):
        from tdformer.kernels import nhwc

        def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
            """As on CUDA, where what comes out has the type from the start."""
            return torch.empty_like(a @ b, dtype=dtype)

        nhwc._product = product
    JITFunction.run = found.kernel
    kernels.chosen, kernels._packer = lambda x: gpu, lambda x: packing
    return found


def averaged(model: nn.Module) -> Callable[[], None]:
    """What moves the average of a model's weights after a step."""
    if not (Path.cwd() / "cluster" / "train").exists():  # commit 7590ad3
        average = {name: value.detach().clone() for name, value in model.state_dict().items()}

        def moved() -> None:
            with torch.no_grad():
                for name, value in [*model.named_parameters(), *model.named_buffers()]:
                    average[name].lerp_(value.detach().float(), 0.001)

        return moved
    from cluster.config import load
    from cluster.train.hooks.ema import EMA

    ema = EMA(load(None, ["train.ema_decay=0.999"]))
    ema.begin(SimpleNamespace(engine=SimpleNamespace(module=model)), [])  # type: ignore[arg-type]
    return lambda: ema.step(SimpleNamespace(applied=True))  # type: ignore[arg-type]


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW as it takes its steps on a GPU: of a list of parameters at a time, or of all."""
    found = torch.optim.AdamW(model.parameters(), lr=1e-3)
    fuse = None
    if (Path.cwd() / "cluster" / "train").exists():
        from cluster.build import optimizers

        fuse = getattr(optimizers, "fuse", None)
    for group in found.param_groups:
        group["foreach"] = fuse is None
    if fuse is not None:
        fuse(found)
        found.found_inf = torch.zeros((), device="meta")  # type: ignore[attr-defined]
    for parameter in model.parameters():
        count = torch.zeros((), device=None if fuse is None else "meta")
        moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        found.state[parameter] = {"step": count} | moments
    return found


def narrow(policy: str, segments: int) -> Callable[[], None]:
    """Forward, backward and statistics of a narrow model on the CPU."""
    import tdformer
    from tdformer import norm, registry

    options: dict[str, Any] = {"image_size": 32, "time_steps": 4, "segments": segments}
    options["feedback"] = "all" if segments > 1 else "none"
    try:
        model = tdformer.create_model("hst_10_768", width=48, heads=2, **options).train()
    except TypeError:  # commit 7590ad3
        registry.MODELS["narrow"] = registry._hst(48, 2)  # type: ignore[attr-defined, index]
        model = tdformer.create_model("narrow", **options).train()
    model.set_recompute(policy)
    images, labels = torch.rand(1, 3, 32, 32), torch.zeros(1, dtype=torch.long)
    collected = getattr(norm, "step_statistics", contextlib.nullcontext)

    def step() -> None:
        with collected() as found:
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            tdformer.segment_loss(logits, labels).backward()
        if found is not None:
            found.move(found.means())
        model.zero_grad()

    return step


def step_of(policy: str, segments: int, name: str, batch: int, pixels: int, counter: Launches) -> Callable[[], None]:
    """A whole training step of a tree's model."""
    import tdformer
    from tdformer import norm
    from tdformer.precision import autocast

    options: dict[str, Any] = {"image_size": pixels, "time_steps": 4, "segments": segments}
    with torch.device("meta"):
        model = tdformer.create_model(name, feedback="all" if segments > 1 else "none", **options).train()
        images = torch.zeros(batch, model.config["in_channels"], pixels, pixels)
        labels = torch.zeros(batch, dtype=torch.long)
    model.set_recompute(policy)
    adamw, average = optimizer(model), averaged(model)
    parameters = list(model.parameters())
    buffers = [b for m in model.modules() if isinstance(m, norm.BatchNorm) for b in m.buffers()]
    collects = hasattr(norm, "step_statistics")

    def step() -> None:
        if not collects:  # commit 7590ad3, so that a step can be undone
            before = [buffer.clone() for buffer in buffers]
        with norm.step_statistics() if collects else contextlib.nullcontext() as found:
            with autocast(images, torch.bfloat16):
                logits = model(images)
            loss = tdformer.segment_loss(logits, labels)
            (loss * (1 + 0 * loss.detach())).backward()
        correct = (logits[-1].argmax(1) == labels).sum()
        torch.stack([loss.detach() * batch, correct, torch.full_like(correct, batch)])
        counter.passes = counter.launches
        total = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, total, foreach=True)
        adamw.step()
        for parameter in parameters:
            parameter.grad = None
        if collects:
            found.move(found.means())
        else:
            del before
        average()

    return step


def inside() -> None:
    """In a process of one tree: for each case that comes tell what a step launches, and for each other line how long
    the last one's step takes, on meta or narrow."""
    torch.nn.utils.clip_grad._device_has_foreach_support = lambda device: True  # meta stands for CUDA
    torch.nn.utils.clip_grad._has_foreach_support = lambda tensors, device: True
    counter = kernels_of_gpu()
    torch.set_flush_denormal(True)
    for line in map(str.strip, sys.stdin):
        if line not in ("meta", "host"):
            case = json.loads(line)
            steps = {"meta": step_of(**case, counter=counter), "host": narrow(case["policy"], case["segments"])}
            try:
                for step in (*steps.values(), steps["host"]):
                    step()
                counter.operators = counter.launches = 0
                with counter:
                    steps["meta"]()
                print(json.dumps([counter.operators, counter.launches, counter.passes]), flush=True)
            except torch.utils.checkpoint.CheckpointError:  # before commit 772418a, of `block` in bf16 on meta
                print("null", flush=True)
        else:
            begun = time.process_time()
            steps[line]()
            print((time.process_time() - begun) * 1e3, flush=True)


INSIDE = """
import os, runpy, sys
sys.path[0] = os.getcwd()
runpy.run_path(sys.argv[1])["inside"]()
"""
"""This file, with another tree's packages."""


@contextlib.contextmanager
def started(tree: Path) -> Iterator[Callable[[str], Any]]:
    """A process of a tree; what it says to a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", INSIDE, str(Path(__file__).resolve())],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def said(line: str) -> Any:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        if not (answer := process.stdout.readline()):
            raise SystemExit(f"the process of {tree} ended with {process.wait()}")
        return json.loads(answer)

    try:
        yield said
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    from benchmarks import machine, table

    parser = argparse.ArgumentParser(prog="benchmarks.host")
    parser.add_argument("--trees", type=Path, nargs="*", default=[])
    parser.add_argument("--model", default="hst_10_768")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    trees = [*(tree.resolve() for tree in given.trees), ROOT]
    print(f"{machine()}; {given.model}, batch {given.batch}, {given.pixels} x {given.pixels}, T = 4, bf16, meta\n")
    rows = []
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(started(tree)) for tree in trees]
        for policy, segments in CASES:
            case = {"policy": policy, "segments": segments, "name": given.model}
            counts = [said(json.dumps(case | {"batch": given.batch, "pixels": given.pixels})) for said in running]
            able = [i for i, count in enumerate(counts) if count is not None]
            timed = {way: [{i: running[i](way) for i in able} for _ in range(given.rounds)] for way in ("meta", "host")}
            for i in able:
                row = [f"{policy}, N = {segments}", trees[i].name, *map(str, counts[i])]
                row.append(f"{counts[i][1] / counts[able[0]][1]:.3f}")
                for rounds in timed.values():
                    row.append(f"{statistics.median(one[i] for one in rounds):.0f}")
                    row.append(f"{statistics.median(one[i] / one[able[0]] for one in rounds):.2f}")
                rows.append(row)
    print(
        table(
            ["step", "tree", "operators", "launches", "passes", "ratio", "meta ms", "ratio", "host ms", "ratio"], rows
        )
    )


if __name__ == "__main__":
    main()
