"""The GPU kernels against plain PyTorch: interpreted on CPU, compiled for a GPU that need not be there, and on one.

Triton decides when it is imported whether it interprets, and another test may have imported it: each way has a process
of its own, and this file is what those processes run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from typing import Any, NamedTuple

import pytest
import torch

from tdformer.kernels import Drive, Means, Norm, reference
from tdformer.options import NeuronOptions


class Case(NamedTuple):
    o: NeuronOptions = NeuronOptions()
    steps: int = 3
    given: int | None = None  # steps of y, where it is not one for each
    size: tuple[int, int] = (7, 6)
    batch: int = 2
    normed: bool = True
    carried: bool = True
    pool: bool = False
    dtype: torch.dtype = torch.float32


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
    "steps over the batch": Case(steps=40, batch=1, size=(2, 3), carried=False),
    "blocks": Case(steps=2, batch=1, size=(35, 33)),
    "blocks pooled": Case(steps=2, batch=1, size=(66, 64), pool=True),
    "a pixel": Case(size=(1, 1), pool=True, steps=2, batch=1),
    "NaN": NAN,
    "a row": Case(size=(1, 9), pool=True, steps=2, batch=1),
}


def check(gpu: Any, device: str, case: Case) -> None:
    """Both directions of one case; y is a part of a larger tensor, as a slice of the batch is."""
    torch.manual_seed(0)
    o, pool, channels, given = case.o, case.pool, 3, case.given or case.steps
    y = (torch.randn(given, case.batch + 1, channels, *case.size) * 2).round(decimals=1)  # equal values in a window
    y = y.to(device, case.dtype)[:, 1:]
    mean, var = reference.statistics(y.flatten(0, 1))
    for a, b in zip(gpu.statistics(y.flatten(0, 1)), (mean, var), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    invstd = (var + 1e-5).rsqrt()
    scale = torch.tensor([1.5, -1.0, 0.0], device=device) * invstd
    norm = Norm(mean, invstd, scale, 0.7 - mean * scale) if case.normed else None
    out = tuple((n + 1) // 2 for n in case.size) if pool else case.size
    membrane = torch.randn(case.batch, channels, *out).to(device) if case.carried else None
    decay = (torch.rand(channels) * 0.5 + 0.3).to(device)
    drive = Drive(y, norm, membrane, decay, o, pool)

    (spikes, v), (expected, expected_v) = gpu.fire(drive, case.steps), reference.fire(drive, case.steps)
    assert spikes.dtype == y.dtype and torch.equal(spikes, expected) and 0 < spikes.float().mean() < 1
    torch.testing.assert_close(v, expected_v, rtol=1e-6, atol=1e-6)

    grad_spikes = torch.randn(case.steps, case.batch, 1, *out).to(device, case.dtype).expand_as(spikes)
    grad_v = torch.randn_like(v) if case.carried else None
    got, want = (f.fire_backward(drive, grad_spikes, grad_v) for f in (gpu, reference))
    for name, a, b in zip(got._fields, got, want, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")

    if norm is not None:
        means = Means(*torch.randn(2, channels).to(device))
        own = y.clone()
        found = gpu.norm_backward(own, norm, want.current, means, pool)
        assert found.data_ptr() == own.data_ptr()
        torch.testing.assert_close(found, reference.norm_backward(y, norm, want.current, means, pool))


def check_nan(gpu: Any, device: str) -> None:
    """A NaN passes through pooling and neuron, and wins its window."""
    y = torch.randn(1, 1, 2, 6, 6).to(device)
    y[0, 0, 0, 3, 3] = float("nan")
    one = torch.ones(2, device=device)
    norm = Norm(0 * one, one, one, 0 * one)
    drive = Drive(y, norm, None, one / 2, NeuronOptions(), True)
    for a, b in zip(*(f.fire(drive, 2) for f in (gpu, reference)), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    grad = torch.randn(1, 1, 2, 3, 3).to(device)
    a, b = (f.norm_backward(y.clone(), norm, grad, Means(0 * one, 0 * one), True) for f in (gpu, reference))
    torch.testing.assert_close(a, b, equal_nan=True)


def compile_only() -> None:
    """Let each call of a kernel only compile it, for an H100."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import JITFunction, driver

    class Absent:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    driver.set_active(Absent())
    JITFunction.__getitem__ = lambda self, grid: (
        lambda *args, **options: self.run(*args, grid=grid, warmup=True, **options)
    )


def call_all(gpu: Any, case: Case) -> None:
    """Every function once, whatever comes out."""
    y = torch.zeros(case.given or case.steps, case.batch, 3, *case.size, dtype=case.dtype)
    out = tuple((n + 1) // 2 for n in case.size) if case.pool else case.size
    spikes, v, one = torch.zeros(case.steps, *y.shape[1:3], *out, dtype=case.dtype), None, torch.ones(3)
    if case.carried:
        v = spikes[0].float()
    norm = Norm(one, one, one, one) if case.normed else None
    drive = Drive(y, norm, v, one, case.o, case.pool)
    gpu.statistics(y.flatten(0, 1))
    gpu.fire(drive, case.steps)
    gpu.fire_backward(drive, spikes, v)
    if norm is not None:
        gpu.norm_backward(y, norm, spikes[: len(y)].float(), Means(one, one), case.pool)


def main(way: str) -> None:
    """Each case's error, or nothing, as JSON."""
    if way == "compiled":
        compile_only()
    from tdformer.kernels import gpu

    errors = {}
    for name, case in CASES.items():
        try:
            if way == "compiled":
                call_all(gpu, case)
            elif case is NAN:
                check_nan(gpu, "cpu")
            else:
                check(gpu, "cpu", case)
            errors[name] = ""
        except Exception:
            errors[name] = traceback.format_exc()
    print(json.dumps(errors))


@pytest.fixture(scope="module", params=["interpreted", "compiled"])
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pytest.importorskip("triton")
    own = {
        "TRITON_INTERPRET": str(int(request.param == "interpreted")),
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
    }
    done = subprocess.run(
        [sys.executable, __file__, request.param], env=os.environ | own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_without_a_gpu(errors: dict[str, str], name: str) -> None:
    assert not errors[name], errors[name]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    from tdformer.kernels import gpu

    for case in CASES.values():
        check(gpu, "cuda", case)
    for pool in (False, True):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            check(gpu, "cuda", Case(size=(112, 112), steps=4, pool=pool, dtype=dtype))
    check_nan(gpu, "cuda")


if __name__ == "__main__":
    main(sys.argv[1])
