"""BatchNorm's affine part in one launch, against plain PyTorch: interpreted, in a process of its own, and on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tdformer.kernels import reference


def check(device: str) -> None:
    """With and without parameters; of fewer and of more channels than a program takes."""
    from tdformer.kernels import gpu_affine

    rng = torch.Generator().manual_seed(0)
    for channels in (1, 5, 256, 300):
        mean, weight, bias = torch.randn(3, channels, generator=rng)
        var = torch.rand(channels, generator=rng)
        for own in ((weight, bias), (None, None)):
            given = mean, var, *own
            expected = reference.affine(*given, 1e-5)
            found = gpu_affine.affine(*(None if x is None else x.to(device) for x in given), 1e-5)
            for name in expected._fields:
                torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), rtol=1e-6, atol=1e-6)


def test_interpreted() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, __file__], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    check("cuda")


if __name__ == "__main__":
    check("cpu")
