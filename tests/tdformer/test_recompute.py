"""Recomputation gives the gradients and the BatchNorm statistics of keeping everything, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tdformer import TDFormer, segment_loss, unit
from tdformer.measure import measure_step
from tdformer.packing import pack
from tdformer.state import Keep, State


def step(
    model: TDFormer, x: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, gradients and buffers of one training step."""
    targets = torch.arange(x.shape[-4]) % 5
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        logits = model(x)
    segment_loss(logits, targets).backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logits.detach(), grads, dict(model.named_buffers())


def pair(tiny, name: str, policy: str, **options) -> tuple[TDFormer, TDFormer]:
    plain = tiny(name, torch.float32, recompute="none", **options)
    again = tiny(name, torch.float32, recompute=policy, **options)
    again.load_state_dict(plain.state_dict())
    return plain, again


@pytest.mark.parametrize("name", ["tiny_hst", "tiny_spikformer", "tiny_sdt"])
@pytest.mark.parametrize("policy", ["block", "time", "unit"])
@pytest.mark.parametrize("segments", [1, 2, 4])
@pytest.mark.parametrize("norm", ["shared", "per_segment"])
def test_equal_to_the_bit(tiny, name: str, policy: str, segments: int, norm: str) -> None:
    options = {"segments": segments, "feedback": "all", "segment_norm": norm, "neuron": "plif"}
    plain, again = pair(tiny, name, policy, **options)
    before = {k: v.clone() for k, v in plain.named_buffers()}
    x = torch.rand(3, 3, 16, 16)
    logits, grads, buffers = step(plain, x)
    logits2, grads2, buffers2 = step(again, x)
    assert torch.equal(logits, logits2)
    assert grads.keys() == grads2.keys()
    unequal = [n for n in grads if not torch.equal(grads[n], grads2[n])]
    assert unequal == []
    assert [n for n in buffers if not torch.equal(buffers[n], buffers2[n])] == []
    assert all(not torch.equal(buffers[n], before[n]) for n in before if norm == "shared")
    fed = [n for n in grads if ".control." in n]
    assert (segments > 1) == bool(fed)


@pytest.mark.parametrize("policy", ["block", "time", "unit"])
def test_equal_with_leaky_proj_lif_and_other_mixing(tiny, policy: str) -> None:
    for options in (
        {"leaky_proj_lif": True},
        {"cm": 3, "pm": 2},
        {"mixer": "add", "pm": 4},
        {"mixer": "processing", "cm": 3, "pm": 2},
    ):
        plain, again = pair(tiny, "tiny_hst", policy, segments=2, feedback="last", **options)
        x = torch.rand(3, 3, 16, 16)
        _, grads, _ = step(plain, x)
        _, grads2, _ = step(again, x)
        assert all(torch.equal(grads[n], grads2[n]) for n in grads)


@pytest.mark.parametrize("policy", ["block", "time", "unit"])
def test_equal_where_attention_pools(tiny, policy: str) -> None:
    plain, again = pair(tiny, "tiny_sdt_dvs", policy, segments=2, feedback="all", neuron="plif")
    same_step(plain, again, torch.rand(4, 3, 2, 16, 16))


@pytest.mark.parametrize("name", ["tiny_hst", "tiny_spikformer", "tiny_sdt"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixer", ["concat", "processing"])
def test_equal_where_gradients_of_all_blocks_meet(tiny, name: str, dtype: torch.dtype | None, mixer: str) -> None:
    """The map of no processing module is at its clamp, so that each block sends the high-level spikes two gradients;
    their sum depends on its order."""
    options = {"segments": 4, "feedback": "all", "clamp": (-100.0, 100.0), "mixer": mixer}
    x, found = torch.rand(3, 3, 16, 16), []
    for policy, borders in (("none", 1), ("block", 1), ("time", 1), ("unit", 1), ("unit", 2)):
        torch.manual_seed(0)
        model = tiny(name, torch.float32, recompute=policy, **options)
        model.set_recompute(policy, borders)
        found.append(step(model, x, dtype))
    logits, grads, buffers = found[0]
    assert all(gradient.isfinite().all() for gradient in grads.values())
    for logits2, grads2, buffers2 in found[1:]:
        assert torch.equal(logits, logits2)
        assert [n for n in grads if not torch.equal(grads[n], grads2[n])] == []
        assert [n for n in buffers if not torch.equal(buffers[n], buffers2[n])] == []


def test_statistics_move_once_a_step(tiny) -> None:
    """running = 0.9 * 0 + 0.1 * batch mean for the stem, whose input is known, with and without recomputation."""
    for policy in ("none", "block", "time", "unit"):
        model = tiny("tiny_hst", recompute=policy)
        x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
        current = model.backbone.embeds[0].units[0].current
        step(model, x)
        mean = current.conv(x).mean((0, 2, 3)).detach()
        torch.testing.assert_close(current.norm.running_mean, 0.1 * mean[None])


def test_recomputation_keeps_less(tiny) -> None:
    kept = {}
    for policy in ("none", "block", "time", "unit"):
        model = tiny("tiny_hst", torch.float32, segments=2, feedback="all", recompute=policy)
        kept[policy] = measure_step(model, torch.rand(3, 3, 16, 16))[0].kept
    assert (
        kept["block"] < 0.5 * kept["none"] and kept["time"] < 0.5 * kept["none"] and kept["unit"] < 0.3 * kept["none"]
    )


def test_evaluation_takes_the_plain_path(tiny) -> None:
    model = tiny("tiny_hst", torch.float32, segments=2, feedback="all").eval()
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
        for policy in ("block", "time", "unit"):
            model.set_recompute(policy)
            assert torch.equal(model(x), expected)


def same_step(one: TDFormer, other: TDFormer, x: Tensor) -> None:
    """Outputs, gradients and statistics, to the bit."""
    logits, grads, buffers = step(one, x)
    logits2, grads2, buffers2 = step(other, x)
    assert torch.equal(logits, logits2) and grads.keys() == grads2.keys()
    assert [n for n in grads if not torch.equal(grads[n], grads2[n])] == []
    assert [n for n in buffers if not torch.equal(buffers[n], buffers2[n])] == []


@pytest.mark.parametrize("name", ["tiny_hst", "tiny_spikformer", "tiny_sdt"])
@pytest.mark.parametrize("borders", [2, 3, 4])
@pytest.mark.parametrize("feedback", ["none", "all"])
def test_borders_computed_again_are_the_borders(tiny, name: str, borders: int, feedback: str) -> None:
    options = {"segments": 4, "feedback": feedback, "time_steps": 8, "neuron": "plif"}
    plain, again = pair(tiny, name, "unit", **options)
    again.set_recompute("unit", borders)
    same_step(plain, again, torch.rand(3, 3, 16, 16))


def test_fewer_borders_keep_less(tiny) -> None:
    model = tiny("tiny_hst", torch.float32, segments=8, time_steps=8, recompute="unit")
    kept = []
    for borders in (1, 2, 4, 8):
        model.set_recompute("unit", borders)
        kept.append(measure_step(model, torch.rand(3, 3, 16, 16))[0].kept)
    assert kept == sorted(kept, reverse=True) and kept[-1] < 0.5 * kept[0]


def test_rounded_borders_are_rounded_in_every_pass_and_under_every_policy(tiny) -> None:
    options = {"segments": 4, "feedback": "all", "border_dtype": "bf16"}
    plain, again = pair(tiny, "tiny_hst", "unit", **options)
    x = torch.rand(3, 3, 16, 16)
    for borders in (1, 2, 4):
        again.set_recompute("unit", borders)
        same_step(plain, again, x)
    exact = tiny("tiny_hst", torch.float32, **options | {"border_dtype": "fp32"})
    exact.load_state_dict(plain.state_dict())
    assert not torch.equal(step(exact, x)[0], step(plain, x)[0])  # another arithmetic
    for model in (exact, again):
        model.load_state_dict(plain.state_dict())
    with torch.no_grad():  # and the same one in evaluation
        assert torch.equal(plain.eval()(x), again.eval()(x))
        assert not torch.equal(plain(x), exact.eval()(x))


@pytest.mark.parametrize("name", ["tiny_hst", "tiny_spikformer", "tiny_sdt"])
def test_slices_of_the_batch_agree(tiny, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """To the bit with `none`, which takes the same slices; to rounding with one slice, as sums are taken in parts."""
    plain, again = pair(tiny, name, "unit", segments=2, feedback="all")
    whole = tiny(name, torch.float32, segments=2, feedback="all")
    whole.load_state_dict(plain.state_dict())
    x = torch.rand(5, 3, 16, 16)
    _, expected, _ = step(whole, x)
    monkeypatch.setattr(unit, "SLICE", 2 * 2 * 8 * 16 * 16 * 4)  # two images of the widest unit's output
    same_step(plain, again, x)
    plain.load_state_dict(again.state_dict())
    _, grads, _ = step(again, x)
    for n in expected:
        torch.testing.assert_close(grads[n], expected[n], rtol=1e-3, atol=1e-6 + 1e-4 * expected[n].abs().max().item())


@pytest.mark.parametrize("largest", [1, 3, 15, 200, 255, 256, 1000])
def test_event_counts_are_packed_or_kept_whole(tiny, largest: int) -> None:
    plain, again = pair(tiny, "tiny_hst_dvs", "unit", segments=2, feedback="all", time_steps=16)
    frames = torch.randint(0, largest + 1, (16, 2, 2, 32, 32)).float()
    frames[0, 0, 0, 0, 0] = largest
    data, layout = pack(frames)
    assert layout.bits == {1: 1, 3: 2, 15: 4, 200: 8, 255: 8}.get(largest, 0)
    assert torch.equal(layout.unpack(data), frames)
    same_step(plain, again, frames)


@pytest.mark.parametrize("scale", [0.5, -1.0])
def test_real_frames_are_kept_whole(tiny, scale: float) -> None:
    plain, again = pair(tiny, "tiny_hst_dvs", "unit", segments=4, time_steps=16)
    same_step(plain, again, torch.randint(0, 5, (16, 2, 2, 32, 32)) * scale)


def test_a_graph_can_be_used_twice(tiny) -> None:
    model = tiny("tiny_hst", torch.float32, segments=4, feedback="all")
    model.set_recompute("unit", 4)
    loss = segment_loss(model(torch.rand(3, 3, 16, 16)), torch.tensor([0, 1, 2]))
    first = torch.autograd.grad(loss, model.head.weight, retain_graph=True)[0]
    whole = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert torch.equal(first, whole[-2]) or torch.equal(first, whole[-1])
    assert all(a is b or torch.equal(a, b) for a, b in zip(whole, again, strict=True))


@pytest.mark.parametrize("name", ["tiny_hst", "tiny_spikformer", "tiny_sdt"])
def test_a_segment_whose_output_nobody_uses_passes_on_its_membranes(tiny, name: str) -> None:
    gradients = []
    for packed in (False, True):
        torch.manual_seed(1)
        model = tiny(name, torch.float32, segments=2)
        state, x = State(steps=2, keep=Keep(packed)), torch.rand(1, 3, 3, 16, 16)
        for state.segment in (0, 1):
            output, _ = model.segment(x, None, state)
        output.square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(a is b or torch.equal(a, b) for a, b in zip(*gradients, strict=True))
