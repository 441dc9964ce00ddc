"""Nothing in the model adds up in an order that a GPU chooses anew each time. Shown on CPU: the operators of a step are
those that CUDA would run, except for the kernels, which are looked at themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from nondeterministic import RAISING, SWITCHED, Used, among, documented

import tdformer
from tdformer import kernels
from tdformer.options import NeuronOptions
from tdformer.policies import POLICIES

CASES = [("reference", name) for name in ("tiny_hst_imagenet", "tiny_spikformer_dvs", "tiny_sdt")]


def test_the_tables_have_what_torch_documents() -> None:
    switched, raising = documented()
    assert (switched, raising) == (SWITCHED.keys(), RAISING.keys())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("library", "name"), [*CASES, ("", "tiny_hst_imagenet")])
def test_no_step_of_a_model_uses_what_gives_other_bits_each_time(
    library: str, name: str, policy: str, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TDFORMER_KERNELS", library)
    model = tiny(name, torch.float32, time_steps=4, segments=2, feedback="all", pm=2, cm=3, neuron="plif")
    model.set_recompute(policy)
    channels, size = model.config["in_channels"], model.config["image_size"]
    images = torch.rand(*[4] * (channels == 2), 2, channels, *size)
    with Used() as used:
        tdformer.segment_loss(model(images), torch.eye(5)[:2]).backward()
        model.eval()(images)
    assert {"convolution_backward.default", "_log_softmax_backward_data.default"} <= used.names
    assert not among(used.names, RAISING)
    pooled = {"scatter_add_.default"} if library == "reference" else set()
    assert among(used.names, SWITCHED) <= {"convolution.default", "convolution_backward.default"} | pooled


def test_no_kernel_adds_atomically_or_chooses_its_blocks_by_the_clock() -> None:
    sources = {path.name: path.read_text() for path in Path(kernels.__file__).parent.glob("*.py")}
    assert "@triton.jit" in sources["gpu_programs.py"]
    for name, source in sources.items():
        assert not re.search(r"atomic|autotune|heuristics|do_bench", source), name


def test_the_gpu_kernels_are_surrounded_by_nothing_of_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch does before and behind them; they themselves do not run."""
    pytest.importorskip("triton")
    from tdformer.kernels import gpu

    monkeypatch.setattr(gpu, "launch", lambda *_, **__: None)
    y, spikes, one = torch.zeros(2, 3, 4, 6, 6), torch.zeros(2, 3, 4, 3, 3), torch.ones(4)
    norm = kernels.Norm(one, one, one, one)
    with Used() as used:
        gpu.statistics(y.flatten(0, 1))
        drive = kernels.Drive(y, norm, spikes[0], one, NeuronOptions(), True)
        gpu.fire(drive._replace(membrane=None), 2)
        found = gpu.fire_backward(drive, spikes, spikes[0])
        gpu.norm_backward(drive, spikes, spikes[0], found, kernels.Means(one, one), False)
    assert "sum.dim_IntList" in used.names
    assert not among(used.names, RAISING) | among(used.names, SWITCHED)
