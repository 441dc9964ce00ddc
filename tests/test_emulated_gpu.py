"""What needs a GPU, on one that is emulated: the emulation, and the tests marked `gpu` that it can run."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
from emulated import environment

TESTS = Path(__file__).parent
FILES = {
    "graph": ["cluster/train/test_graph.py"],
    "steps": [
        *("cluster/train/test_gpus.py", "cluster/train/test_reading.py", "cluster/train/test_waits.py"),
        *("pipelines/test_delivery.py", "tdformer/measure/test_rated.py"),
    ],
}
TRITON = [
    *("cluster/train/test_deterministic.py", "pipelines/views/test_erase_gpu.py"),
    *("tdformer/kernels/test_attention.py", "tdformer/kernels/test_gpu.py", "tdformer/kernels/test_gpu_affine.py"),
]
"""Of Triton's programs, by themselves or in runs: they are interpreted and compiled elsewhere."""
SHOWS = """
import ctypes
import torch

def refused(act, why):
    try:
        act()
    except (RuntimeError, TypeError) as error:
        assert why in str(error), error
    else:
        raise AssertionError(f"not refused: {why}")

gpu, x = torch.device("cuda"), torch.ones(4, device="cuda")
assert torch.cuda.device_count() == 2 and x.is_cuda and not torch.empty(4, device=gpu).isfinite().any()
refused(lambda: x + torch.ones(4), "found at least two devices, cuda:0 and cpu")
refused(lambda: torch.cat([x, torch.zeros(0)]), "found at least two devices")
refused(lambda: x + x.to("cuda:1"), "found at least two devices, cuda:0 and cuda:1")
refused(x.numpy, "can't convert cuda:0")

torch.cuda.set_sync_debug_mode("error")
for waits in (x.sum().item, x.cpu, x.nonzero, lambda: bool(x.any()), lambda: torch.ones(2).to(gpu)):
    refused(waits, "synchronizing CUDA operation")
there = torch.ones(4).pin_memory().to(gpu, non_blocking=True)
torch.cuda.set_sync_debug_mode("default")
assert (there + x).tolist() == [2] * 4

# A copy from the host that is not waited for, and one whose host memory is used again too early.
lane, source = torch.cuda.Stream(), torch.ones(4).pin_memory()
with torch.cuda.stream(lane):
    early = source.to(gpu, non_blocking=True)
    event = lane.record_event()
assert not (early + 0).isfinite().any()
torch.cuda.current_stream().wait_event(event)
assert (early + 0).tolist() == [1] * 4
with torch.cuda.stream(lane):
    late = source.to(gpu, non_blocking=True)
    event = lane.record_event()
source.fill_(7)
torch.cuda.current_stream().wait_event(event)
assert (late + 0).tolist() == [7] * 4

# A copy to the host: the values of then, once it is waited for.
arrived = torch.zeros(4).pin_memory()
arrived.copy_(x, non_blocking=True)
event = torch.cuda.current_stream().record_event()
x.fill_(3)
assert arrived.tolist() == [0] * 4
event.synchronize()
assert arrived.tolist() == [1] * 4

# A graph: on the memory it had, of which it keeps only what somebody holds.
weight, data = torch.full((4,), 2.0, device=gpu, requires_grad=True), torch.ones(4, device=gpu)
def work():
    global squared, total
    weight.grad = None
    squared = (weight * data) ** 2
    total = squared.sum()
    total.backward()
side = torch.cuda.Stream()
with torch.cuda.stream(side):
    work()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph, stream=side):
    work()
address, squared = squared.data_ptr(), None
data.fill_(3)
graph.replay()
assert ctypes.string_at(address, 16) == b"\\xff" * 16  # which nobody holds
assert total.item() == 4 * 36 and weight.grad.tolist() == [36] * 4
total, kept = total.detach(), weight.grad
weight.grad = None
graph.replay()
assert kept.tolist() == [36] * 4
del kept
with torch.cuda.stream(side):
    torch.cuda.graph(torch.cuda.CUDAGraph(), stream=side).__enter__()
    refused(lambda: x.sum().item(), "not permitted when stream is capturing")
"""


@pytest.fixture(scope="session")
def library_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kept from one session to the next, where pytest keeps anything."""
    cache = getattr(request.config, "cache", None)
    return tmp_path_factory.mktemp("emulated") if cache is None else cache.mkdir("emulated")


def test_the_emulation_shows_what_a_gpu_would(library_folder: Path) -> None:
    """Devices that are mixed, waits, copies that are not through, and what a graph does not hold."""
    done = subprocess.run(
        [sys.executable, "-c", SHOWS], env=environment(library_folder, 2), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_each_test_that_needs_a_gpu_is_tried_without() -> None:
    files = set(TESTS.rglob("test_*.py")) - {TESTS / "test_skips.py"}  # which writes some
    marked = {path for path in files if "\n@pytest.mark.gpu" in path.read_text()}
    assert {str(path.relative_to(TESTS)) for path in marked} == {*chain(*FILES.values()), *TRITON}


@pytest.mark.parametrize("part", FILES)
def test_what_needs_a_gpu_runs_on_an_emulated_one(part: str, library_folder: Path) -> None:
    plain = ("-x", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist")
    words = [sys.executable, "-m", "pytest", *plain, *FILES[part]]
    done = subprocess.run(words, cwd=TESTS, env=environment(library_folder, 2), capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout
