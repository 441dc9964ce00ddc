"""What a run is on: a GPU of the table, what was measured, or nothing but memory."""

from __future__ import annotations

import math

import pytest

from cluster.build.memory import GIB, here
from cluster.config import load
from cluster.config.shape import Shape
from cluster.errors import RunError
from cluster.plan import rates
from cluster.plan.chips import chip
from cluster.plan.machine import Machine
from cluster.plan.network import AlphaBeta
from cluster.plan.timed import Timed

H100 = chip("h100")
EIGHT = Shape(2, 4, 4)


def test_a_gpu_is_as_its_datasheet_says() -> None:
    config = load(None, ["train.precision=bf16"])
    machine = Machine.of_chip(H100, config, EIGHT)
    assert machine.gpu and machine.name == "h100" and machine.memory.size == 1e9 * H100.memory_gb
    assert machine.speed == rates.of_chip(H100, "bf16", False) and machine.peak == H100.peak("bf16")
    assert machine.network is not None and f"{H100.link:g} GB/s in a node" in machine.links
    given = Machine.of_chip(H100, load(None, ["recompute.memory=3"]), EIGHT)
    assert given.memory.size == 3 * GIB and given.memory.whose == "recompute.memory"
    full = Machine.of_chip(H100, load(None, ["train.tf32=true"]), EIGHT)
    assert full.peak == 1e12 * H100.tflops["tf32"] > (H100.peak("fp32") or 0)
    with pytest.raises(RunError, match="^v100 has no bf16; set train.precision="):
        Machine.of_chip(chip("v100"), config, EIGHT)


def test_of_an_unknown_one_memory_alone_is_known() -> None:
    config = load()
    cpu, gpu = Machine.unknown(config, Shape(1, 2, 0)), Machine.unknown(config, EIGHT)
    assert cpu.memory == here(config, 2) and not cpu.gpu
    assert math.isinf(gpu.memory.size) and "give --gpu NAME, or set site.gpu" in gpu.memory.whose and gpu.gpu
    for machine in (cpu, gpu):
        assert machine.speed is machine.network is machine.peak is None and "site.gpu" in machine.missing
    told = Machine.unknown(load(None, ["recompute.memory=3"]), EIGHT)
    assert told.memory.size == 3 * GIB


def test_what_was_measured_on_it_is_known() -> None:
    cpu = Machine.unknown(load(), Shape(1, 1, 0))
    speed, network = Timed({"matrix": 1.0}, 0.5, 0.1), AlphaBeta(1e-5, 1e9)
    timed = cpu.timed(speed, network, 100.0)
    assert (timed.speed, timed.network, timed.images, timed.links) == (speed, network, 100.0, "measured here")
    assert timed.memory == cpu.memory and cpu.speed is None
