"""Time: segments, feedback, event frames, batch-mates, and the end of an epoch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tdformer import TDFormer, load_pretrained, segment_loss
from tdformer.backbones import MODELS
from tdformer.measure import measure_firing

BACKBONES = ["tiny_hst", "tiny_spikformer", "tiny_sdt"]
OWN = [("processing", 1), ("processing", 2)]
"""The mixer in the processing module: V4 is V1 there, and V3 is V2."""


def images(*shape: int) -> Tensor:
    return torch.rand(shape or (3, 3, 16, 16), dtype=torch.float64)


def silence(model: TDFormer) -> None:
    gate = {"concat": "control.mix.weight", "processing": "control.processing.w"}[model.config["mixer"]]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(gate):
                p.zero_()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("cm", [1, 2, 3])
@pytest.mark.parametrize("mixer", ["concat", "processing"])
def test_with_silent_feedback_the_segments_change_no_spike(
    tiny, calibrate, spikes_of, name: str, cm: int, mixer: str
) -> None:
    options = {"feedback": "all", "cm": cm, "pm": cm, "mixer": mixer, "segment_norm": "shared"}
    whole = tiny(name, **options)
    silence(whole)
    calibrate(whole, images(8, 3, 16, 16))
    x = images()
    _, expected = spikes_of(whole, x)
    assert all(s.shape[0] == 4 for s in expected.values()) and len(expected) > 10
    assert sum(0.02 < s.mean() < 0.98 for s in expected.values()) > 0.8 * len(expected)
    for segments in (2, 4):
        cut = tiny(name, segments=segments, **options)
        cut.load_state_dict(whole.state_dict())
        _, spikes = spikes_of(cut.eval(), x)
        assert spikes.keys() == expected.keys()
        for unit, s in spikes.items():
            assert torch.equal(s, expected[unit]), unit


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("cm", [1, 2, 3])
@pytest.mark.parametrize(("mixer", "pm"), [("concat", 1), ("concat", 2), ("concat", 3), ("concat", 4), *OWN])
def test_feedback_changes_only_later_segments_and_its_parameters_learn(
    tiny, name: str, cm: int, pm: int, mixer: str
) -> None:
    model = tiny(name, segments=2, feedback="all", cm=cm, pm=pm, clamp=[0, 2], mixer=mixer)
    for n, p in model.named_parameters():  # loud enough for every variant to fire
        if n.endswith("mix.weight"):
            torch.nn.init.normal_(p, std=1.0)
        if n.endswith("processing.w") and pm in (1, 2):  # M between its bounds, where w has a gradient
            torch.nn.init.uniform_(p, *((0.6, 1.2) if mixer == "processing" else (0.0, 0.2)))
    silent = copy.deepcopy(model)
    silence(silent)
    x = images()
    loud, quiet = model(x), silent(x)
    assert torch.equal(loud[0], quiet[0])
    assert (loud[1] - quiet[1]).abs().max() > 1e-6
    loud[1].square().sum().backward()
    for n, p in model.named_parameters():
        if ".control." in n:
            assert p.grad is not None and p.grad.abs().max() > 0, n


@pytest.mark.parametrize("name", BACKBONES)
def test_two_stages_of_one_step_are_the_network_of_one_step_and_a_second_look(tiny, name: str) -> None:
    """T = 1 of Table 7 as it is read here: time_steps=2, segments=2 beside a baseline of time_steps=1."""
    one, two = tiny(name, time_steps=1), tiny(name, time_steps=2, segments=2, feedback="all", clamp=[0, 2])
    if name == "tiny_sdt":  # not to drive every neuron of its head over the threshold
        for n, p in one.named_parameters():
            if n.endswith("norm.bias"):
                torch.nn.init.uniform_(p, -0.5, 0.5)
    load_pretrained(two, one.state_dict())
    x = images()
    assert torch.equal(one(x)[0], two(x)[0])  # the first stage has no feedback
    quiet = two(x)
    for n, p in two.named_parameters():
        if n.endswith("mix.weight"):
            torch.nn.init.normal_(p, std=1.0)
    loud = two(x)
    assert loud.shape == (2, 3, 5) and torch.equal(loud[0], quiet[0])
    assert (loud[1] - quiet[1]).abs().max() > 1e-6 and (loud[1] - loud[0]).abs().max() > 1e-6
    segment_loss(loud, torch.arange(3)).backward()
    assert all(p.grad is not None for p in two.parameters())
    assert two.eval()(x).shape == (3, 5)


@pytest.mark.parametrize("name", [*BACKBONES, "tiny_sdt_dvs"])
def test_feedback_reaches_each_block_that_is_named(tiny, name: str) -> None:
    depth = MODELS.get(name).sizes.depth
    for blocks in ([0], [depth - 1], list(range(depth))):
        model = tiny(name, segments=2, feedback=blocks, in_channels=3)
        model(images())[1].square().sum().backward()
        fed = [n for n, p in model.named_parameters() if ".control." in n and p.grad is not None]
        assert len(fed) == 2 * len(blocks)  # the mixer's matrix and the processing module's vector


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("mixer", "pm"), [("concat", 1), ("concat", 2), ("concat", 3), ("concat", 4), *OWN])
def test_feedback_fires_from_the_start(tiny, name: str, pm: int, mixer: str) -> None:
    model = tiny(name, segments=2, feedback="all", pm=pm, mixer=mixer)
    with measure_firing(model) as firing:
        model(images())
    feedback = [f.rate for unit, f in firing.items() if unit.endswith("processing.neuron")]
    assert len(feedback) == 2 and min(feedback) > 0.01


def test_the_last_segment_learns_from_the_first_through_the_feedback(tiny) -> None:
    """H_1 receives a gradient from O_2 (the structural link of the paper's section 1)."""
    model = tiny("tiny_hst", segments=2, feedback="all")
    seen: list[Tensor] = []
    block = model.backbone.stages[-1][-1]
    block.register_forward_hook(lambda m, i, out: (out.retain_grad(), seen.append(out))[0])
    model(images())[1].sum().backward()
    assert seen[0].grad is not None and seen[0].grad.abs().max() > 0


@pytest.mark.parametrize("name", BACKBONES)
def test_add_mixes_without_a_matrix(tiny, spikes_of, name: str) -> None:
    model = tiny(name, segments=2, feedback="all", mixer="add", clamp=[0, 2])
    plain = tiny(name, segments=2)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    x = images()
    (_, mixed), (_, alone) = spikes_of(model, x), spikes_of(plain, x)
    assert all(torch.equal(mixed[unit][:2], alone[unit][:2]) for unit in alone)
    keys = [unit for unit in alone if ".k." in unit and not torch.equal(mixed[unit][2:], alone[unit][2:])]
    assert keys


def test_event_frames_are_the_images_of_each_step(tiny, calibrate) -> None:
    model = calibrate(tiny("tiny_hst", segments=2, feedback="all"), images(8, 3, 16, 16))
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(x.repeat(4, 1, 1, 1, 1)), rtol=0, atol=1e-12)
        frames = images(4, 3, 3, 16, 16)
        forward = model(frames)
        assert (forward - model(frames.flip(0))).abs().max() > 1e-6  # their order counts
    assert forward.shape == (3, 5)


@pytest.mark.parametrize("name", BACKBONES)
def test_an_image_does_not_see_its_batch_mates(tiny, calibrate, name: str) -> None:
    model = calibrate(tiny(name, segments=2, feedback="all"), images(8, 3, 16, 16))
    x = images(6, 3, 16, 16)
    with torch.no_grad():
        together, order = model(x), torch.randperm(6)
        alone = torch.cat([model(x[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(model(x[order]), together[order], rtol=0, atol=1e-12)


def test_with_leaky_proj_lif_it_does(tiny, calibrate) -> None:
    model = calibrate(tiny("tiny_hst", leaky_proj_lif=True), images(8, 3, 16, 16))
    x = images(6, 3, 16, 16)
    with torch.no_grad():
        alone = torch.cat([model(x[i : i + 1]) for i in range(6)])
        assert (model(x) - alone).abs().max() > 1e-4


@pytest.mark.parametrize("name", BACKBONES)
def test_a_smaller_last_batch_needs_no_reset(tiny, calibrate, name: str) -> None:
    model = calibrate(tiny(name, segments=2, feedback="all"), images(8, 3, 16, 16))
    fresh = copy.deepcopy(model)
    x = images(3, 3, 16, 16)
    with torch.no_grad():
        model(images(8, 3, 16, 16))
        assert torch.equal(model(x), fresh(x))
    model.train()(images(8, 3, 16, 16)).sum().backward()
    assert model(x).shape == (2, 3, 5)
