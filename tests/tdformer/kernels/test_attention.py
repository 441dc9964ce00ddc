"""Attention's products where channels lie last: by PyTorch's operators, and Triton's programs against those,
interpreted on CPU, compiled for a GPU that need not be there, and on one. As in test_gpu.py each way has a process of
its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from typing import Any

import pytest
import torch
from torch import Tensor

from tdformer import kernels
from tdformer.kernels import attention

CASES = {
    "heads of 64 in 14 x 14": (2, 128, 2, (14, 14), torch.bfloat16),
    "heads of 32": (1, 64, 2, (9, 9), torch.float16),
    "heads of 24, fewer pixels than channels": (3, 96, 4, (2, 2), torch.float16),
    "heads of 48": (2, 96, 2, (8, 8), torch.float16),
    "heads of 96": (1, 192, 2, (5, 13), torch.bfloat16),
    "a channel": (2, 4, 4, (3, 3), torch.float16),
}
Tensors = tuple[Tensor, Tensor, Tensor, Tensor]


def tensors(batch: int, channels: int, heads: int, size: tuple[int, int], dtype: torch.dtype) -> Tensors:
    """Queries, keys and values of spikes, and a gradient, channels last."""
    torch.manual_seed(0)
    q, k, v, grad = (torch.rand(2, batch, *size, channels).movedim(-1, 2) for _ in range(4))
    return *((x < 0.3).to(dtype) for x in (q, k, v)), (grad - 0.5).to(dtype)


def check(device: str, batch: int, channels: int, heads: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    """Forward sums are of integers, and exact."""
    q, k, v, grad = (x.to(device) for x in tensors(batch, channels, heads, size, dtype))
    assert not kernels.by_operators(q, heads)
    y = kernels.product(q, k, v, heads, 0.125)
    assert y.movedim(2, -1).is_contiguous() and torch.equal(y, attention.product(q, k, v, heads, 0.125)) and y.any()
    within = {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    got, want = (f.product_backward(grad, q, k, v, heads, 0.125) for f in (kernels, attention))
    for a, b in zip(got, want, strict=True):
        assert a.movedim(2, -1).is_contiguous() and a.dtype == dtype
        assert (a - b).abs().max() <= within * b.abs().max()


REAL = ["heads of 64 in 14 x 14", "heads of 96"]
"""In bf16, which Triton's interpreter multiplies as integers: they are compiled alone."""


def compiled(case: tuple, made: list[Any]) -> None:
    """No program keeps a value in memory because registers do not do, or shares more than a GPU has."""
    q, k, v, grad = tensors(*case)
    made.clear()
    attention_gpu.product(q, k, v, case[2], 0.125)
    attention_gpu.product_backward(grad, q, k, v, case[2], 0.125)
    for kernel in made:
        used = usage(kernel)
        assert used["STACK"] == used["LOCAL"] == 0 and used["REG"] <= 255, (kernel.name, used)
        assert kernel.metadata.shared <= SHARED, kernel.name


def main(way: str) -> None:
    """Each case's error, or nothing, as JSON."""
    made = []
    if way != "interpreted":
        made = compile_only(int(way))
    errors = {}
    for name, case in CASES.items():
        if (name in REAL) == (way == "interpreted"):
            continue
        try:
            check("cpu", *case) if way == "interpreted" else compiled(case, made)
            errors[name] = ""
        except Exception:
            errors[name] = traceback.format_exc()
    print(json.dumps(errors))


@pytest.mark.parametrize("way", ["interpreted", "80", "90"])
def test_without_a_gpu(way: str, tmp_path: os.PathLike[str]) -> None:
    pytest.importorskip("triton")
    own = {"TRITON_INTERPRET": str(int(way == "interpreted")), "TRITON_CACHE_DIR": str(tmp_path)}
    env = os.environ | own | {"TDFORMER_KERNELS": "gpu"}
    done = subprocess.run([sys.executable, __file__, way], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert not any(errors.values()), "\n".join(errors.values())
    assert set(errors) == set(REAL) if way != "interpreted" else set(errors) == set(CASES) - set(REAL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    for case in CASES.values():
        check("cuda", *case)


def test_of_more_bits_or_larger_heads_a_program_would_not_do() -> None:
    """Its registers: what is compiled above is the largest that there is."""
    with torch.device("meta"):
        for dtype, heads, program in (
            (torch.bfloat16, 2, True),
            (torch.float16, 2, True),
            (torch.bfloat16, 1, False),
            (torch.float32, 2, False),
            (torch.float64, 2, False),
        ):
            assert kernels.by_operators(torch.zeros(1, 1, 256, 2, 2, dtype=dtype), heads) != program


def test_by_operators_it_is_the_product_with_its_gradients() -> None:
    q, k, v, grad = (x.requires_grad_() for x in tensors(2, 12, 3, (3, 5), torch.float64))
    by_head = [x.flatten(3).unflatten(2, (3, 4)).mT for x in (q, k, v)]
    expected = (by_head[0] @ by_head[1].mT @ by_head[2] * 0.25).mT.flatten(2, 3).unflatten(3, (3, 5))
    torch.testing.assert_close(attention.product(q, k, v, 3, 0.25), expected)
    wanted = torch.autograd.grad(expected, (q, k, v), grad)
    for a, b in zip(attention.product_backward(grad, q, k, v, 3, 0.25), wanted, strict=True):
        torch.testing.assert_close(a, b)


if __name__ == "__main__":
    from test_gpu import SHARED, compile_only, usage

    from tdformer.kernels import attention_gpu

    main(sys.argv[1])
