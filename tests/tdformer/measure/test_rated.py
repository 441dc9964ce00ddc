"""Energy from rates is that of the counted operations, to rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from firing import fire

import tdformer
from tdformer.measure import count, measure_rated
from tdformer.measure.energy import conventional

STEPS, IMAGES = 4, 4
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("quickstart", {"image_size": 8, "width": 16, "heads": 2}),
    ("quickstart", {"image_size": 8, "width": 16, "heads": 2, "cm": 3, "segments": 4}),
    ("spikformer_2_256", {"image_size": 32, "width": 16, "heads": 2, "cm": 2, "pm": 3}),  # frames
    ("spikformer_2_384", {"image_size": 16, "width": 24, "heads": 3, "mixer": "processing"}),
    ("sdt_2_256", {"image_size": 16, "width": 16}),
]


def made(name: str, options: dict[str, Any]) -> tuple[tdformer.TDFormer, torch.Tensor]:
    """A model that fires, and what it is given."""
    torch.manual_seed(0)
    model = tdformer.create_model(name, time_steps=STEPS, feedback="all", **{"segments": 2, **options})
    channels, classes = model.config["in_channels"], model.config["num_classes"]
    shape = channels, *model.config["image_size"]
    frames = channels == 2
    images = torch.randint(0, 3, (STEPS, IMAGES, *shape)).float() if frames else torch.randn(IMAGES, *shape)
    if frames:
        images[1] = 0  # a step without events
    fire(model, images, torch.arange(IMAGES) % classes, classes)
    return model, images


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_it_is_the_figure_of_the_counted_operations(name: str, options: dict[str, Any]) -> None:
    model, images = made(name, options)
    for shown in (images, images + 0.5 * (images != 0)):  # sums of events, and real numbers
        wanted = conventional(count(model, shown))
        with torch.no_grad(), measure_rated(model.eval()) as rated:
            model(shown)
        assert rated.images == IMAGES and wanted > 0
        assert float(rated.pj) / IMAGES == pytest.approx(wanted, rel=1e-12)


def test_recomputation_costs_nothing_and_micro_batches_add_up() -> None:
    """With bf16's weights, too, the rate is that of the spikes."""
    model, images = made(*NETWORKS[0])
    targets, found = torch.zeros(IMAGES, dtype=torch.long), set()
    for policy in ("none", "block", "time", "unit"):
        own = copy.deepcopy(model).train()
        own.set_recompute(policy)
        with measure_rated(own) as rated:
            tdformer.segment_loss(own(images), targets).backward()
        found.add(float(rated.pj))
    assert len(found) == 1 and found != {0.0}
    with torch.no_grad(), measure_rated(model.eval()) as rated:
        model(images)
    whole = float(rated.pj)
    with torch.no_grad(), measure_rated(model) as rated:
        for part in images.split([1, 3]):
            model(part)
        model(images)
    assert rated.images == 2 * IMAGES and float(rated.pj) == pytest.approx(2 * whole, rel=1e-12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), measure_rated(model) as rated:
        model(images)
    assert float(rated.pj) == pytest.approx(whole, rel=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("name", "options"), NETWORKS[1:3])
def test_a_gpu_is_not_waited_for(name: str, options: dict[str, Any]) -> None:
    """In a forward pass and what it adds up to, which is the CPU's figure."""
    model, images = made(name, options)
    with torch.no_grad(), measure_rated(model.eval()) as wanted:
        model(images)
    model, images = model.cuda(), images.cuda()
    with torch.no_grad():
        model(images)  # constants are copied once
        torch.cuda.set_sync_debug_mode("error")
        try:
            with measure_rated(model) as rated:
                model(images)
            found = rated.pj
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert float(found) == pytest.approx(float(wanted.pj), rel=1e-3)
