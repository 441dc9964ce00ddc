"""Spike-driven Transformer: currents on the shortcut, spikes fed back, and published networks for events, which
have the same tensors."""

from __future__ import annotations

import pytest
import torch
from published_networks import LATE, PlainSDT, plain
from torch import nn

from tdformer import ModelError, create_model, load_pretrained
from tdformer.state import State
from tdformer.unit import Current


@pytest.mark.parametrize(
    ("classes", "name", "options", "message"),
    [
        (10, "tiny_sdt_gesture", {}, "for CIFAR10-DVS \\(10 classes\\), which pools in other places"),
        (11, "tiny_sdt_dvs", {}, "for DVS128 Gesture \\(11 classes\\), which pools in other places"),
        (10, "tiny_sdt", {"in_channels": 2}, "for CIFAR10-DVS \\(10 classes\\), which"),
        (
            5,
            "tiny_sdt",
            {"in_channels": 2},
            "for CIFAR10-DVS \\(10 classes\\) or DVS128 Gesture \\(11 classes\\), which",
        ),
    ],
)
def test_the_networks_for_events_are_told_apart(classes: int, name: str, options: dict, message: str) -> None:
    """Their tensors have the same names and shapes; each loads into its own."""
    weights = PlainSDT(2, 16, 2, 2, LATE, classes=classes).state_dict()
    with pytest.raises(ModelError, match=message) as error:
        load_pretrained(create_model(name, **options), weights)
    assert "\n" not in str(error.value)
    own = {10: "tiny_sdt_dvs", 11: "tiny_sdt_gesture", 5: "tiny_sdt_dvs"}[classes]
    assert load_pretrained(create_model(own, num_classes=classes), weights).fresh == {}


def test_attention_that_pools_has_as_many_heads_as_its_weights() -> None:
    weights = PlainSDT(2, 16, 2, 4, LATE).state_dict()
    with pytest.raises(ModelError, match="of 4 heads and the model pools within 2; choose one of as many"):
        load_pretrained(create_model("tiny_sdt_dvs"), weights)
    assert load_pretrained(create_model("tiny_sdt_gesture"), weights).fresh == {}  # elsewhere they make no difference


def test_feedback_of_learned_neurons_starts_anew() -> None:
    weights = plain("tiny_sdt", neuron="plif").state_dict()
    report = load_pretrained(create_model("tiny_sdt", neuron="plif", segments=2, feedback="all"), weights)
    assert report.fresh["backbone.high.w"] == "feedback" and "backbone.head_neuron.w" in report.loaded
    report = load_pretrained(create_model("tiny_sdt", neuron="plif"), plain("tiny_sdt").state_dict())
    assert set(report.fresh.values()) == {"learnable time constant, the file's neurons have none"}


def test_sums_are_currents_and_what_is_fed_back_are_spikes(tiny) -> None:
    """Without feedback nobody fires on the sums; features are spikes of their means."""
    x = torch.rand(4, 2, 3, 16, 16, dtype=torch.float64)
    for feedback in ("none", "all"):
        backbone = tiny("tiny_sdt", segments=2, feedback=feedback).backbone
        with torch.no_grad():
            features, high = backbone(x, None, State())
        assert features.shape == (4, 2, 16) and high.shape == (4, 2, 16, 4, 4)
        assert set(features.unique().tolist()) == {0, 1}
        assert (high.unique().numel() == 2) == (feedback == "all")
    for module in backbone.modules():
        if type(module).__name__ == "Control":
            assert module.processing.neuron.options.threshold == 0.5  # what a current of 1 can reach


@pytest.mark.parametrize(
    ("name", "grid"), [("tiny_sdt", 8), ("tiny_sdt_imagenet", 2), ("tiny_sdt_gesture", 4), ("tiny_sdt_dvs", 8)]
)
def test_its_stem_pools_where_it_says(name: str, grid: int) -> None:
    with torch.device("meta"):
        stem = create_model(name).backbone.stem
        shape = stem(torch.zeros(1, 1, stem.currents[0].conv.in_channels, 32, 32), State()).shape
    assert shape == (1, 1, 16, grid, grid)
    assert [current.conv.out_channels for current in stem.currents] == [2, 4, 8, 16]
    assert isinstance(stem.currents[0], Current)


def test_convolutions_of_a_named_one_start_at_two_hundredths() -> None:
    weights = [m.weight for m in create_model("sdt_2_256").backbone.modules() if isinstance(m, nn.Conv2d)]
    large = [float(weight.detach().std()) for weight in weights if weight.numel() > 10_000]
    assert large == pytest.approx([0.02] * len(large), rel=0.05) and len(large) > 10
