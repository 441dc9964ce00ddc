"""A GPU draws numpy's noise: Triton's program interpreted, in a process of its own, compiled, and on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import ROOT, python_path
from pipelines.views.erase import NOTHING, Erasing, Place

MEAN, STD = (0.5, 0.4, 0.6), (0.1, 0.11, 0.09)  # with which a draw from the tail is no 0 and no 255
RADIUS = 3.6541528853610088
"""Where the tail begins: no draw but one of the tail's is as large, numpy's own constant."""
DRAWN = {
    "the right tail, at the second try, over two blocks": (0, 4534),
    "the left tail": (0, 5680),
    "the left tail, at the second try": (1, 8210),
    "the right tail, at once": (2, 1446),
    "a wedge twice left": (2, 90),
}
"""Philox's key, and how many numbers it has drawn."""
BOX = (3, 1, 5, 4)


def generator(key: int, drawn: int) -> np.random.Generator:
    bits = np.random.Philox(key=key)
    bits.random_raw(drawn)
    return np.random.Generator(bits)


def rows(noise: bool) -> NDArray[np.int64]:
    """Of each in DRAWN, and of a picture that is not erased."""
    return np.stack([*(Place(*BOX, generator(*one)).row(noise) for one in DRAWN.values()), NOTHING])


def test_what_is_compared_is_in_the_tail_or_draws_on() -> None:
    for name, one in DRAWN.items():
        place = Place(*BOX, generator(*one))
        noise = place.rng.standard_normal((3, *BOX[2:]))
        more = int(place.row(True)[6]) - one[1] - noise.size
        assert ((noise > RADIUS).any(), (noise < -RADIUS).any()) == ("right tail" in name, "left tail" in name)
        assert more >= (4 if "second" in name else 2)


def check(device: str, size: tuple[int, int] = (12, 10), words: int = 16) -> None:
    """Of all modes and in both orders that pictures lie in."""
    from pipelines.views import erase_gpu

    rng = np.random.default_rng(0)
    for mode, layout in (
        ("black", torch.contiguous_format),
        ("const", torch.channels_last),
        ("pixel", torch.channels_last),
    ):
        how, drawn = Erasing(mode, MEAN, STD), torch.from_numpy(rows(mode == "pixel"))
        images = torch.from_numpy(rng.integers(0, 256, (len(drawn), 3, *size), dtype=np.uint8))
        found = images.contiguous(memory_format=layout).to(device)
        erase_gpu.write_all(found, drawn.to(device), how, words)
        assert found.is_contiguous(memory_format=layout)
        for image, before, place in zip(found.cpu().numpy(), images.numpy(), DRAWN.values(), strict=False):
            how.write(before, Place(*BOX, generator(*place)))
            assert np.array_equal(image, before), mode
        assert torch.equal(found[-1].cpu(), images[-1])


def compiled(arch: str) -> None:
    """Nothing of a program's is kept in memory because registers do not do, and it shares no more than a GPU has."""
    from test_gpu import SHARED, compile_only, usage

    from pipelines.views import erase_gpu

    made = compile_only(int(arch))
    images = torch.zeros(2, 3, 224, 224, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    for mode in ("const", "pixel"):
        erase_gpu.write_all(images, torch.from_numpy(rows(mode == "pixel")), Erasing(mode, MEAN, STD))
    assert len(made) == 2
    for kernel in made:
        used = usage(kernel)
        assert used["STACK"] == used["LOCAL"] == 0 and used["REG"] <= 255 and kernel.metadata.shared <= SHARED, used


@pytest.mark.parametrize("way", ["interpreted", "80", "90"])
def test_without_a_gpu(way: str, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    path = python_path(ROOT, ROOT / "tests" / "tdformer" / "kernels")
    own = {"TRITON_INTERPRET": str(int(way == "interpreted")), "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, __file__, way], env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    check("cuda", words=1024)
    check("cuda", (224, 224), words=1024)


if __name__ == "__main__":
    check("cpu") if sys.argv[1] == "interpreted" else compiled(sys.argv[1])
