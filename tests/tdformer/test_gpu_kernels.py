"""The Triton kernels against plain PyTorch: in Triton's interpreter on CPU, compiled for a GPU, and run on one."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch

from tdformer import kernels
from tdformer.kernels import Norm, reference
from tdformer.options import NeuronOptions

HARD, SOFT = NeuronOptions(), NeuronOptions(v_reset=None, surrogate="arctan", detach_reset=False)
OTHER = NeuronOptions(v_reset=-0.2, threshold=0.8, surrogate="rectangular", alpha=1.0, detach_reset=False)


Run = Callable[..., None]


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Run]:
    """`compare` in a process of its own: the interpreter must be asked for before Triton is imported."""
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            yield lambda *case, **how: process.submit(compare, "tdformer.kernels.gpu", *case, **how).result()


def compare(name: str, o: NeuronOptions, shape: tuple, pool: bool, normed: bool, carried: bool, **how) -> None:
    """All four functions on one input; how: device, dtype, steps, block."""
    gpu: Any = importlib.import_module(name)
    gpu.BLOCK = how.get("block", gpu.BLOCK)
    device, dtype = how.get("device", "cpu"), how.get("dtype", torch.float32)
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    given, batch, channels, *size = shape
    steps = how.get("steps", given)
    y = (torch.randn(shape, device=device) * 2).round(decimals=1).to(dtype)
    norm = None
    if normed:
        mean, var = gpu.statistics(y.flatten(0, 1))
        for a, b in zip((mean, var), reference.statistics(y.flatten(0, 1)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        invstd, gamma = (var + 1e-5).rsqrt(), torch.linspace(-1, 2, channels, device=device)
        norm = Norm(mean, invstd, gamma * invstd, 0.7 - mean * gamma * invstd)
    out = [(n + 1) // 2 for n in size] if pool else size
    membrane = torch.randn(batch, channels, *out, device=device) if carried else None
    decay = torch.linspace(0.3, 0.8, channels, device=device)
    call = (y, norm, membrane, decay, o, pool)
    (spikes, v), (expected, expected_v) = gpu.fire(*call, steps), reference.fire(*call, steps)
    assert spikes.dtype == dtype
    near = (expected_v - o.threshold).abs() < 1e-4  # a potential at the threshold may fall on either side
    assert ((spikes != expected) & ~near).sum() <= 1e-4 * spikes.numel()
    torch.testing.assert_close(v, expected_v, rtol=1e-4, atol=1e-4)
    grads = torch.randn_like(spikes), torch.randn_like(v) if carried else None
    got, want = gpu.fire_backward(*call, *grads), reference.fire_backward(*call, *grads)
    for name, a, b in zip(got._fields, got, want, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and (normed or not name.startswith("total")):
            torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}", **close)
    if norm is not None:
        means = torch.randn(2, channels, device=device)
        want_y = reference.norm_backward(y, norm, got.current, *means, pool)
        torch.testing.assert_close(gpu.norm_backward(y.clone(), norm, got.current, *means, pool), want_y, **close)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("normed", "carried", "o"), [(True, False, HARD), (True, True, SOFT), (False, True, OTHER)])
def test_interpreted(interpreted: Run, o: NeuronOptions, pool: bool, normed: bool, carried: bool) -> None:
    interpreted(o, (3, 2, 3, 5, 6), pool, normed, carried)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(interpreted: Run, dtype: torch.dtype) -> None:
    interpreted(HARD, (2, 1, 2, 6, 5), True, True, True, dtype=dtype)


@pytest.mark.parametrize("pool", [False, True])
def test_a_picture_that_is_the_same_at_each_step(interpreted: Run, pool: bool) -> None:
    interpreted(HARD, (1, 2, 2, 6, 5), pool, True, False, steps=3)


def test_planes_larger_than_a_block(interpreted: Run) -> None:
    interpreted(HARD, (2, 1, 2, 7, 6), True, True, True, block=8)


COMPILE = """
import itertools, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tdformer.kernels import gpu

def build(kernel, dtype, capability, **flags):
    floats = ("threshold", "rest", "alpha")
    whole = ("planes", "channels", "height", "width", "size", "steps", "images", "parts", "out_size")
    signature = {}
    for name in kernel.arg_names:
        kind = "*" + dtype if name in ("y", "spikes", "grad_spikes") else "*u8" if name == "winners" else "*fp32"
        kind = "fp32" if name in floats else "i32" if name in whole else kind
        signature[name] = "constexpr" if name in flags else kind
    values = {(kernel.arg_names.index(k),): v for k, v in flags.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    assert triton.compile(source, target=GPUTarget("cuda", capability, 32), options=gpu.EXACT).asm["cubin"]

for dtype, capability in (("fp32", 80), ("bf16", 90)):
    build(gpu._statistics, dtype, capability, BLOCK=1024)
    build(gpu._find_winners, dtype, capability, BLOCK=256)
    for pool in (False, True):
        build(gpu._norm_backward, dtype, capability, POOL=pool, BLOCK=256)
        for same, soft in ((False, False), (True, True)):
            flags = dict(SAME=same, POOL=pool, CARRIED=not same, SOFT=soft, BLOCK=256)
            build(gpu._fire, dtype, capability, **flags)
            for surrogate in range(3):
                more = dict(NORMED=True, GIVEN=not same, DETACH=not soft, SURROGATE=surrogate)
                build(gpu._fire_backward, dtype, capability, **flags, **more)
print("all compiled")
"""


def test_compiled_for_a_gpu_without_one() -> None:
    """Every kind of kernel becomes machine code for an A100 and an H100; only running it needs the GPU."""
    pytest.importorskip("triton")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True)
    assert done.stdout.endswith("all compiled\n"), done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("o", [HARD, SOFT, OTHER])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(o: NeuronOptions, pool: bool, dtype: torch.dtype) -> None:
    name = kernels.chosen(torch.zeros(1, device="cuda")).__name__
    assert name == "tdformer.kernels.gpu"
    for shape, steps in (((4, 2, 5, 30, 31), 4), ((4, 3, 8, 14, 14), 4), ((1, 2, 4, 61, 64), 4)):
        compare(name, o, shape, pool, True, True, device="cuda", dtype=dtype, steps=steps)
