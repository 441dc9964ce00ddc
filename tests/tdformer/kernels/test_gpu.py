"""The GPU kernels against plain PyTorch: interpreted on CPU, compiled for a GPU that need not be there, and on one.

Triton decides when it is imported whether it interprets, and another test may have imported it: each way has a process
of its own, and this file is what those processes run.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tdformer import create_model
from tdformer.backbones import SDT, Entry, QKFormer, QKFormerSizes, SDTSizes
from tdformer.kernels import Drive, Means, Norm, reference
from tdformer.options import NeuronOptions


class Case(NamedTuple):
    o: NeuronOptions | None = NeuronOptions()
    steps: int = 3
    given: int | None = None  # steps of y, where it is not one for each
    size: tuple[int, int] = (7, 6)
    batch: int = 2
    normed: bool = True
    carried: bool = True
    pool: bool = False
    dtype: torch.dtype = torch.float32
    channels: int = 3
    last: bool = True  # whether what is given lies channels last
    learned: bool = True


NEURONS = {
    "hard": NeuronOptions(),
    "hard, through the reset": NeuronOptions(v_reset=-0.2, surrogate="rectangular", alpha=1.0, detach_reset=False),
    "above zero": NeuronOptions(v_reset=0.3, surrogate="arctan", threshold=1.2),
    "soft": NeuronOptions(v_reset=None, surrogate="rectangular", alpha=0.8, threshold=0.7),
    "soft, through the reset": NeuronOptions(v_reset=None, surrogate="arctan", alpha=2.0, detach_reset=False),
    "sigmoid through the reset": NeuronOptions(v_reset=0.1, alpha=3.0, detach_reset=False),
}
NAN = Case(steps=2, given=1, batch=1, pool=True)
CASES = {
    f"{name}; {'pooled' if pool else 'flat'}; {'one input' if given else 'an input a step'}": Case(
        o, given=given, pool=pool, batch=1 if pool else 2, carried=i % 2 == 0, size=(6, 7) if i % 2 else (7, 6)
    )
    for i, (name, o) in enumerate(NEURONS.items())
    for pool, given in (((False, None), (True, 1)) if i % 2 else ((False, 1), (True, None)))
} | {
    "pooled without a norm": Case(pool=True, normed=False, batch=1),
    "bf16": Case(dtype=torch.bfloat16),
    "bf16 pooled": Case(dtype=torch.bfloat16, pool=True, carried=False, batch=1),
    "without a norm": Case(normed=False),
    "fp16 pooled": Case(dtype=torch.float16, pool=True, given=1, batch=1),
    "fp16 without a norm": Case(dtype=torch.float16, normed=False, size=(1, 1)),
    "one step": Case(steps=1, size=(5, 5)),
    "sixteen steps": Case(steps=16, given=1, batch=1),
    "steps over the batch": Case(steps=20, batch=1, size=(2, 3), carried=False),
    "blocks": Case(steps=2, batch=1, size=(35, 33)),
    "blocks pooled": Case(steps=2, batch=1, size=(34, 32), pool=True),
    "a pixel": Case(size=(1, 1), pool=True, steps=2, batch=1),
    "NaN": NAN,
    "a row": Case(size=(1, 9), pool=True, steps=2, batch=1),
    "planes": Case(last=False),
    "planes pooled": Case(last=False, pool=True, dtype=torch.bfloat16),
    "eight channels": Case(channels=8, last=False),
    "blocks of channels": Case(channels=72, steps=2, size=(5, 4), learned=False),
    "forty channels pooled": Case(channels=40, steps=2, size=(5, 6), pool=True, dtype=torch.bfloat16, learned=False),
    "more steps than registers": Case(steps=12, size=(5, 6), channels=8),
    "more steps, pooled": Case(steps=8, size=(5, 6), pool=True, batch=1),
    "a prime of steps, one input": Case(steps=7, given=1, size=(5, 6), pool=True, batch=1),
    "a current": Case(None, carried=False, channels=8),
    "a current, pooled": Case(None, carried=False, pool=True, dtype=torch.bfloat16),
    "a current, the same at each step": Case(None, given=1, steps=1, carried=False, pool=True, batch=1),
}
LARGE = {
    f"112 x 112; {'pooled' if pool else 'flat'}; {dtype}": Case(
        size=(112, 112), steps=4, pool=pool, dtype=dtype, channels=8
    )
    for pool in (False, True)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
}
"""For a GPU alone."""


def lying(x: Tensor, last: bool) -> Tensor:
    """The same numbers with the channels or the pixels side by side."""
    return x.movedim(-3, -1).contiguous().movedim(-1, -3) if last else x.contiguous()


def check(gpu: Any, device: str, case: Case) -> None:
    """Both directions of one case; y is a part of a larger tensor, as a slice of the batch is."""
    torch.manual_seed(0)
    o, pool, channels, given = case.o, case.pool, case.channels, case.given or case.steps
    y = (torch.randn(given, case.batch + 1, channels, *case.size) * 2).round(decimals=1)  # equal values in a window
    y = lying(y.to(device, case.dtype), case.last)[:, 1:]
    mean, var = reference.statistics(y.flatten(0, 1))
    for a, b in zip(gpu.statistics(y if case.last else y.flatten(0, 1)), (mean, var), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    invstd = (var + 1e-5).rsqrt()
    scale = torch.tensor([1.5, -1.0, 0.0], device=device).repeat(channels // 3 + 1)[:channels] * invstd
    norm = Norm(mean, invstd, scale, 0.7 - mean * scale) if case.normed else None
    out = tuple((n + 1) // 2 for n in case.size) if pool else case.size
    membrane = lying(torch.randn(case.batch, channels, *out).to(device), case.last) if case.carried else None
    decay = None
    if o is not None:
        decay = (torch.rand(channels) * 0.5 + 0.3).to(device).requires_grad_(case.learned)
    drive = Drive(y, norm, membrane, decay, o, pool)

    got, want = gpu.fire(drive, case.steps, bits=True), reference.fire(drive, case.steps)
    spikes = got.spikes
    assert spikes.dtype == y.dtype and spikes.movedim(2, -1).is_contiguous()
    if o is None:
        close = {"rtol": 1e-6, "atol": 1e-6} if y.dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
        torch.testing.assert_close(spikes, want.spikes, **close)
    else:
        assert torch.equal(spikes, want.spikes) and 0 < spikes.float().mean() < 1
        torch.testing.assert_close(got.membrane, want.membrane, rtol=1e-6, atol=1e-6)
        assert gpu.fire(drive, case.steps, last=True).membrane is None
        assert (got.bits is None) == bool(channels % 8)
        if got.bits is not None:
            lines = spikes.movedim(2, -1).flatten(0, 1)
            assert torch.equal(got.bits.flatten(0, 1), reference.pack(lines, 1))

    shape = (case.steps, case.batch, channels, *out)
    grad_spikes = lying(torch.randn(case.steps, case.batch, 1, *out).to(device, case.dtype).expand(shape), case.last)
    grad_v = lying(torch.randn_like(got.membrane), case.last) if case.carried and o is not None else None
    found, expected = (f.fire_backward(drive, grad_spikes, grad_v) for f in (gpu, reference))
    assert (found.current is None) == (norm is not None and not pool)  # then nothing of the size of y is stored
    assert found.current is None or found.current.dtype == y.dtype
    names = {"membrane"} | ({"decay"} if o is not None and case.learned else set())
    names |= {"total", "total_normal"} if norm is not None else {"current"}
    for name in names:
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if a is not None:
            # One of 1e5 values may be near 0: in fp32 the reference's own is 6e-5 from its sum in fp64.
            sums = math.sqrt(math.prod(shape) / channels) if name in ("decay", "total", "total_normal") else 0.0
            close = {"rtol": 1e-5, "atol": max(1e-5, 1e-6 * sums)}
            if a.dtype != torch.float32:
                close = {"rtol": 1e-2, "atol": 1e-2}
            torch.testing.assert_close(a.to(b), b, **close, msg=lambda m, name=name: f"{name}: {m}")

    if device == "cuda":  # where programs run beside each other: twice the same
        twice = gpu.fire_backward(drive, grad_spikes, grad_v)
        for name in names | {"current", "winners"}:
            a, b = getattr(found, name), getattr(twice, name)
            assert (a is None and b is None) or torch.equal(a, b), name

    if norm is not None:
        means = Means(*torch.randn(2, channels).to(device))
        close = {"rtol": 1e-5, "atol": 1e-5} if y.dtype == torch.float32 else {"rtol": 3e-2, "atol": 3e-2}
        theirs = reference.norm_backward(drive, grad_spikes, grad_v, expected, means, False)
        before = y.clone()
        again = gpu.norm_backward(drive, grad_spikes, grad_v, found, means, False)
        assert torch.equal(y, before) and again.dtype == y.dtype and again.movedim(2, -1).is_contiguous()
        torch.testing.assert_close(again, theirs, **close)
        spare = lying(y, True).clone()
        over = gpu.norm_backward(drive._replace(y=spare), grad_spikes, grad_v, found, means, True)
        assert over.data_ptr() == spare.data_ptr() and torch.equal(over, again)


def check_packing(packing: Any, device: str) -> None:
    """Each width, and sums, against the reference."""
    for bits, shape in ((1, (3, 7, 5, 9)), (2, (2, 3, 2050)), (4, (1, 16)), (8, (2, 3))):
        x = torch.randint(0, 1 << bits, shape).to(device)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            data = packing.pack(x.to(dtype), bits)
            assert torch.equal(data, reference.pack(x, bits))
            again = packing.unpack(data, bits, x[0].numel(), dtype)
            assert again.dtype == dtype and torch.equal(again.view_as(x), x.to(dtype))
        half = (x // 2).bfloat16()
        total, data = packing.add_pack(half, x.bfloat16() - half, bits)
        assert torch.equal(total, x.bfloat16()) and torch.equal(data, reference.pack(x, bits))


def check_nan(gpu: Any, device: str) -> None:
    """A NaN passes through pooling and neuron, and wins its window."""
    y = torch.randn(1, 1, 2, 6, 6).to(device)
    y[0, 0, 0, 3, 3] = float("nan")
    one = torch.ones(2, device=device)
    norm = Norm(0 * one, one, one, 0 * one)
    drive = Drive(y, norm, None, one / 2, NeuronOptions(), True)
    for a, b in zip(*(f.fire(drive, 2)[:2] for f in (gpu, reference)), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    grad = torch.randn(2, 1, 2, 3, 3).to(device)
    zero = Means(0 * one, 0 * one)
    a, b = (
        f.norm_backward(drive, grad, None, f.fire_backward(drive, grad, None), zero, False) for f in (gpu, reference)
    )
    assert torch.equal(a.isnan(), b.isnan()) and b.isnan().any()
    torch.testing.assert_close(a, b, equal_nan=True)


def check_peer() -> None:
    """What the benchmark gives a peer for a neuron, in the layout that its layers have: nothing is copied."""
    from benchmarks.gpu.steps import Fused
    from benchmarks.published import LIF

    for shape in ((4, 2, 8, 5, 5), (2, 2, 16, 32)):
        x = torch.randn(*shape)
        got, want = Fused(0.5)(x), LIF(0.5)(x)
        assert got.is_contiguous() and torch.equal(got, want) and 0 < got.mean() < 1


SMALL = {
    "hst": Entry(QKFormer, QKFormerSizes("cifar", (8, 8, 16), (1, 1, 1), 2), 16, 3, 5),
    "sdt": Entry(SDT, SDTSizes(16, 1, (False, False, False, True)), 16, 3, 5),
}
MODELS = {"hst, N = 2": ("block", "unit"), "sdt, N = 1": ("time", "unit")}
"""Steps of small models, and policies beside `none`."""


def check_model(name: str, segments: int, policies: tuple[str, ...]) -> None:
    """A step of a small model under each policy, all in the layout and the kernels of a GPU: the same to the bit; and
    what PyTorch's kernels make of it, in a CPU's layout, up to rounding."""
    from tdformer import kernels, segment_loss
    from tdformer.backbones import MODELS as named
    from tdformer.norm import BatchNorm

    named.register(name, SMALL[name])
    x, found = torch.rand(2, 3, 16, 16), {}
    for way in ("none", *policies, "reference"):
        os.environ["TDFORMER_KERNELS"] = "reference" if way == "reference" else "gpu"
        assert kernels.channels_last(x) == (way != "reference")
        torch.manual_seed(0)
        policy = "none" if way == "reference" else way
        options = {"segments": segments, "feedback": "all", "neuron": "plif", "time_steps": 2}
        model = create_model(name, recompute=policy, **options)
        for module in model.modules():
            if isinstance(module, BatchNorm) and module.bias is not None:
                torch.nn.init.uniform_(module.bias, 0.5, 1.5)  # so that every layer fires
        logits = model(x)
        segment_loss(logits, torch.tensor([0, 3])).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert all(g.any() for n, g in grads.items() if n.endswith("conv.weight"))
        found[way] = [logits.detach(), *grads.values(), *model.buffers()]
    for policy in policies:
        assert all(torch.equal(a, b) for a, b in zip(found["none"], found[policy], strict=True)), policy
    whole, plain = (torch.cat([t.flatten() for t in found[way]]) for way in ("none", "reference"))
    assert (whole - plain).norm() < 1e-3 * plain.norm()


def compile_only(arch: int) -> list[Any]:
    """Let each call of a kernel only compile it, for a GPU of that kind; all of them, as they are compiled."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import JITFunction, driver

    class Absent:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", arch, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    made: list[Any] = []
    driver.set_active(Absent())
    JITFunction.__getitem__ = lambda self, grid: (
        lambda *args, **options: made.append(self.run(*args, grid=grid, warmup=True, **options))
    )
    return made


def call_all(gpu: Any, case: Case) -> None:
    """Every function once, whatever comes out."""
    y = torch.empty(case.given or case.steps, case.batch, case.channels, *case.size, dtype=case.dtype)
    y = lying(y, case.last)
    out = tuple((n + 1) // 2 for n in case.size) if case.pool else case.size
    spikes, v, one = y.new_empty(case.steps, *y.shape[1:3], *out), None, torch.ones(case.channels)
    if case.carried:
        v = spikes[0].float()
    norm = Norm(one, one, one, one) if case.normed else None
    decay = None if case.o is None else one.clone().requires_grad_(case.learned)
    drive = Drive(y, norm, v, decay, case.o, case.pool)
    gpu.statistics(y)
    gpu.fire(drive, case.steps, bits=True)
    found = gpu.fire_backward(drive, spikes, v)
    if norm is not None:
        gpu.norm_backward(drive, spikes, v, found, Means(one, one), False)


REAL = {
    "the first unit": Case(steps=4, given=1, size=(224, 224), pool=True, channels=96),
    "the second": Case(steps=4, size=(112, 112), pool=True, channels=192),
    "56 x 56": Case(steps=4, size=(56, 56), channels=192),
    "14 x 14": Case(steps=4, size=(14, 14), channels=3072),
}
"""Shapes of hst_10_768, of which a batch of 64 differs in nothing that is compiled."""
REGISTERS = {"fire": 128, "backward": 255, "scatter": 64, "statistics": 64, "join": 64, "pack": 64, "unpack": 64}
"""A thread's, at most: 255 is all there are, with which two blocks of four warps share a multiprocessor."""

SHARED = 99 << 10
"""Bytes of shared memory that a program may have on sm_86 and sm_89, the fewest of all GPUs that a plan knows."""


def check_registers(made: list[Any]) -> None:
    """No kernel keeps a value in memory because registers do not do, and none has more of either than it may."""
    for kernel in made:
        used = usage(kernel)
        assert used["STACK"] == used["LOCAL"] == 0, (kernel.name, used)
        assert used["REG"] <= REGISTERS[kernel.name], (kernel.name, used)
        assert kernel.metadata.shared <= SHARED, kernel.name


def usage(kernel: Any) -> dict[str, int]:
    """Registers of a compiled kernel's thread, and bytes of memory in their place: STACK and LOCAL."""
    from triton.backends import nvidia

    file = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    file.write_bytes(kernel.asm["cubin"])
    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    said = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}


def check_real(gpu: Any, case: Case, made: list[Any]) -> None:
    made.clear()
    call_all(gpu, case._replace(dtype=torch.bfloat16, batch=1, carried=False, learned=False))
    check_registers(made)


def check_packing_registers(made: list[Any]) -> None:
    from tdformer.kernels import gpu_packing

    made.clear()
    x = torch.zeros(4, 1024, dtype=torch.bfloat16)
    for bits in (1, 2, 4):
        gpu_packing.add_pack(x, x, bits)
        gpu_packing.unpack(gpu_packing.pack(x, bits), bits, 1024, x.dtype)
    check_registers(made)


def check_last_batches() -> None:
    """A batch of another size compiles nothing anew, in training or in evaluation: Triton's own keys of programs, which
    it asks whether to compile."""
    from triton import knobs

    from tdformer import kernels, segment_loss
    from tdformer.kernels import gpu, gpu_packing

    def asked(*, key: str, fn: Any, **_: object) -> bool:
        found.add((fn.name, key))
        return True

    def pictures(count: int) -> Tensor:
        return torch.zeros(count, 28, 28, 1, device="meta").movedim(-1, 1)

    found: set[tuple[str, str]] = set()
    knobs.runtime.jit_cache_hook = asked
    kernels.chosen, kernels._packer = lambda x: gpu, lambda x: gpu_packing
    with torch.device("meta"), kernels.stands_for("cuda"):
        model = create_model("quickstart", segments=2, feedback="all", recompute="unit")
        for batches, step in (
            ((64, 30), lambda x: segment_loss(model.train()(x), torch.zeros(len(x), dtype=torch.long)).backward()),
            ((128, 80, 61), torch.no_grad()(lambda x: model.eval()(x))),
        ):
            counts = [(step(pictures(count)), len(found))[1] for count in batches]
            assert counts[0] > 10 and len(set(counts)) == 1, counts
    knobs.runtime.jit_cache_hook = None


def jobs(way: str) -> Iterator[tuple[str, Any]]:
    """What a process of this way has to do, by name."""
    made = compile_only(int(way[3:])) if way != "interpreted" else []
    from tdformer.kernels import gpu, gpu_packing

    if way == "interpreted":
        gpu.PROGRAMS = 3  # so that each takes several tiles
        for name, case in CASES.items():
            yield name, lambda case=case: check_nan(gpu, "cpu") if case is NAN else check(gpu, "cpu", case)
        yield "packing", lambda: check_packing(gpu_packing, "cpu")
        yield "a peer", check_peer
        gpu.VALUES = 1 << 13  # an interpreted program takes as long for a large tile as for a small one
        for name, policies in MODELS.items():
            model, segments = name.split(", N = ")
            yield name, lambda m=model, n=int(segments), policies=policies: check_model(m, n, policies)
        return
    for name in WAYS[way]:
        if name == "packing":
            yield name, lambda: check_packing_registers(made)
        elif name == "last batches":
            yield name, check_last_batches
        elif name in REAL:
            yield name, lambda case=REAL[name]: check_real(gpu, case, made)
        else:
            yield name, lambda case=CASES[name]: call_all(gpu, case)


COMPILED = [name for name in CASES if name.endswith("one input") and name.partition(";")[0] in NEURONS]
COMPILED += [
    "hard; pooled; an input a step",
    "without a norm",
    "fp16 pooled",
    "blocks of channels",
    "a current, pooled",
]
COMPILED += ["more steps than registers"]
"""What differs in what is compiled."""
WAYS = {
    "interpreted": [*CASES, "packing", "a peer", *MODELS],
    "sm_80": ["the second", "56 x 56"],
    "sm_90": [*COMPILED, *REAL, "packing", "last batches"],
}


def main(way: str) -> None:
    """Each job's error, or nothing, as JSON."""
    errors = {}
    for name, job in jobs(way):
        try:
            job()
            errors[name] = ""
        except Exception:
            errors[name] = traceback.format_exc()
    print(json.dumps(errors))


_errors: dict[str, dict[str, str]] = {}


def errors_of(way: str, folder: Path) -> dict[str, str]:
    """Each job's error, or nothing, of a process that did those of this way, once."""
    pytest.importorskip("triton")
    if way not in _errors:
        own = {
            "TRITON_INTERPRET": str(int(way == "interpreted")),
            "TRITON_CACHE_DIR": str(folder),
            "TDFORMER_KERNELS": "gpu" if way == "interpreted" else "",
        }
        done = subprocess.run([sys.executable, __file__, way], env=os.environ | own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        _errors[way] = json.loads(done.stdout.splitlines()[-1])
    return _errors[way]


@pytest.mark.parametrize(("way", "name"), [(way, name) for way, names in WAYS.items() for name in names])
def test_without_a_gpu(tmp_path: Path, way: str, name: str) -> None:
    found = errors_of(way, tmp_path)[name]
    assert not found, found


def test_programs_say_what_they_do_and_have_their_arguments_in_groups() -> None:
    source = Path(reference.__file__).with_name("gpu_programs.py").read_text()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert len(functions) > 10
    for function in functions:
        assert ast.get_docstring(function) and len(function.args.args) < 20, function.name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", [*CASES, *LARGE, "packing"])
def test_on_a_gpu(name: str) -> None:
    from tdformer.kernels import gpu, gpu_packing

    if name == "packing":
        check_packing(gpu_packing, "cuda")
    elif name == "NaN":
        check_nan(gpu, "cuda")
    else:
        check(gpu, "cuda", (CASES | LARGE)[name])


if __name__ == "__main__":
    main(sys.argv[1])
