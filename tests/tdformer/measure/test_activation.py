"""Spike activation maps: the weight of a known interval, and a map that is where the light is."""

from __future__ import annotations

import math

import pytest
import torch

import tdformer
from tdformer.errors import ModelError
from tdformer.measure.activation import activation_map, attentions, measure_attention
from tdformer.norm import BatchNorm


def test_a_known_interval_has_its_known_weight() -> None:
    spikes = torch.zeros(6, 1, 2, 1, 2)
    spikes[[1, 3, 4], 0, 0, 0, 0] = 1  # intervals of 2 and of 1
    spikes[3, 0, 1, 0, 0] = 1  # another channel, which fired never before
    found = activation_map(spikes, gamma=0.7)
    assert found.shape == (6, 1, 1, 2) and not found[..., 1].any()
    at = [0, 1, 0, 2 + math.exp(-1.4), 1 + math.exp(-0.7) + math.exp(-2.1), 0]
    assert found[:, 0, 0, 0].tolist() == pytest.approx(at)


def test_fewer_steps_between_weigh_more() -> None:
    def last(*steps: int) -> float:
        spikes = torch.zeros(8, 1, 1, 1, 1)
        spikes[list(steps)] = 1
        return float(activation_map(spikes)[7])

    assert last(7) == 1 < last(0, 7) < last(5, 7) < last(6, 7) < last(5, 6, 7)


@pytest.mark.parametrize("name", ["spikformer_2_384", "sdt_2_256"])
def test_the_map_of_a_picture_is_where_its_light_is(name: str) -> None:
    """Without biases a network says nothing of the dark."""
    torch.manual_seed(0)
    size = {"width": 96, "image_size": 32, "in_channels": 1, "num_classes": 3}
    model = tdformer.create_model(name, **size, time_steps=4, segments=2, feedback="all", threshold=0.3).eval()
    with torch.no_grad():
        for norm in (part for part in model.modules() if isinstance(part, BatchNorm)):
            norm.weight.fill_(4.0)
            norm.bias.zero_()
        for part in model.modules():
            if isinstance(part, torch.nn.Conv2d) and part.bias is not None:
                part.bias.zero_()
        images = torch.zeros(2, 1, 32, 32)
        images[0, 0, :8, :8] = images[1, 0, 24:, 24:] = torch.rand(8, 8) * 3
        with measure_attention(model, list(attentions(model))[-1]) as segments:
            model(images)
    assert [spikes.shape[:2] for spikes in segments] == [(2, 2), (2, 2)]
    found = activation_map(torch.cat(segments)).sum(0)
    for picture, (row, column) in zip(found, ((0, 0), (1, 1)), strict=True):
        half = len(picture) // 2
        quarters = picture.unflatten(1, (2, half)).unflatten(0, (2, half)).sum((1, 3))
        assert quarters[row, column] == quarters.max() > 0 and picture[row - 1, column - 1] == 0  # far from the light
        place = int(picture.argmax())
        assert (place // len(picture) // half, place % len(picture) // half) == (row, column)


def test_what_is_no_attention_is_refused() -> None:
    model = tdformer.create_model("hst_2_256", width=32, image_size=32)
    assert len(attentions(model)) == 2
    with (
        pytest.raises(ModelError, match="backbone is no attention; there are backbone"),
        measure_attention(model, "backbone"),
    ):
        pass
