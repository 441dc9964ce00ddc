"""`python -m benchmarks.gpu`, rehearsed where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from forked import Command

from benchmarks import peer, published
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import steps

TINY = """
import sys
from tdformer.backbones import MODELS, Entry, QKFormer, QKFormerSizes
MODELS.register("tiny", Entry(QKFormer, QKFormerSizes("imagenet", (16, 24, 32), (1, 1, 2), 4), 32, 3, 10))
from benchmarks.gpu import runs
from benchmarks.gpu.__main__ import main
from cluster.train import graph
from forked import Command
from tape import Tape

graph.RECORDERS["cpu"] = Tape  # a graph is CUDA's alone

def start(site, *words, module="cluster.cli"):
    program = f"import runpy; runpy.run_module({module!r}, run_name='__main__')"
    site.started.append(Command(*words, cwd=site.folder, env=site.env, program=program, merged=True))
    return site.started[-1]

runs.Site.start = start
sys.exit(main())
"""
"""The benchmark with a tiny model, whose nine runs of commands are forked: their imports were half of its time."""


def test_the_gpu_s_benchmark_is_rehearsed(tmp_path: Path) -> None:
    """Every section, on the CPU: what only CUDA does is in `Device`."""
    words = ("--device=cpu", "--size=small", "--model=tiny", "--out=found", "--seconds=3000")
    rehearsal = Command(*words, cwd=tmp_path, program=TINY)
    done = rehearsal.completed(timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found" / "gpu.json").read_text())
    sections = found["sections"]
    rows = [row for section in sections.values() for row in section["rows"]]
    assert not [name for name, section in sections.items() if "left_out" in section or not section["rows"]], sections
    assert not [row["error"] for row in rows if "error" in row]
    (exact,) = sections["exactness"]["rows"]
    assert exact["twice"] and exact["resumed"]
    assert all(row["kernels"] and row["ms_per_image"] > 0 for row in rows if "name" in row)
    assert any("as a graph" in row["name"] for row in sections["training step"]["rows"])
    (fed,) = sections["loader"]["rows"]
    assert fed["images_per_second"] > 0 and fed["bare_images_per_second"] > 0 and "RandAugment" in fed["augmentation"]
    assert 0 < sections["checkpoint"]["rows"][0]["held_up_s"] <= sections["checkpoint"]["rows"][0]["written_s"]
    assert (tmp_path / "found" / "gpu.md").read_text() in done.stdout
    again = Command(*words, cwd=tmp_path, program=TINY).completed()
    assert again.returncode == 2 and "gpu.json is there already" in again.stderr


def test_the_gpu_s_benchmark_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.startswith("error: torch sees no GPU here")


def test_what_does_not_fit_the_gpu_s_time_is_named(tmp_path: Path) -> None:
    words = ("--device=cpu", "--size=small", "--model=tiny", "--out=found", "--seconds=0.2")
    done = Command(*words, cwd=tmp_path, program=TINY).completed()
    assert done.returncode == 0, done.stderr
    sections = json.loads((tmp_path / "found" / "gpu.json").read_text())["sections"]
    assert len(sections) == 8 and all("time was" in section["left_out"] for section in sections.values())


def test_what_is_cut_short_leaves_torch_as_it_was() -> None:
    """Also between the lines that turn gradients off and on again."""
    layer, found = torch.nn.Linear(1, 1), []
    for _ in range(100):
        with pytest.raises(gpu.OutOfTimeError), gpu.within(0.002):
            while True:
                with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(False):
                    layer(torch.ones(1, 1))
        found.append(torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"))
    assert all(found)


def test_a_fused_neuron_is_the_published_one() -> None:
    """What stands in for the peer at its best computes what the peer does."""
    x = torch.randn(4, 2, 8, 5, 5)
    found = []
    for neuron in (published.LIF, steps.Fused, *([steps.SpikingJelly] if peer.INSTALLED else [])):
        own = x.clone().requires_grad_()
        layer = neuron(0.5)
        spikes = torch.cat([layer(own[:2]), layer(own[2:])])
        (spikes * x.roll(1, 1)).sum().backward()
        found.append((spikes.detach(), own.grad))
    assert 0 < found[0][0].mean() < 1
    for spikes, grad in found[1:]:
        torch.testing.assert_close(spikes, found[0][0])
        torch.testing.assert_close(grad, found[0][1])
