"""Recomputation gives the gradients and the BatchNorm statistics of keeping everything, to the bit in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tdformer import TDFormer, segment_loss


def step(model: TDFormer, x: Tensor, bf16: bool = False) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, gradients and buffers of one training step."""
    targets = torch.arange(len(x)) % 5
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(x)
    segment_loss(logits, targets).backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logits.detach(), grads, dict(model.named_buffers())


def pair(tiny, name: str, policy: str, **options) -> tuple[TDFormer, TDFormer]:
    plain = tiny(name, torch.float32, **options)
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
    for options in ({"leaky_proj_lif": True}, {"cm": 3, "pm": 2}, {"mixer": "add", "pm": 4}):
        plain, again = pair(tiny, "tiny_hst", policy, segments=2, feedback="last", **options)
        x = torch.rand(3, 3, 16, 16)
        _, grads, _ = step(plain, x)
        _, grads2, _ = step(again, x)
        assert all(torch.equal(grads[n], grads2[n]) for n in grads)


@pytest.mark.parametrize("name", ["tiny_hst", "tiny_spikformer", "tiny_sdt"])
@pytest.mark.parametrize("policy", ["block", "time", "unit"])
def test_equal_to_rounding_under_bf16(tiny, name: str, policy: str) -> None:
    plain, again = pair(tiny, name, policy, segments=2, feedback="all")
    x = torch.rand(3, 3, 16, 16)
    logits, grads, buffers = step(plain, x, bf16=True)
    logits2, grads2, buffers2 = step(again, x, bf16=True)
    torch.testing.assert_close(logits, logits2)
    for n in grads:
        assert grads[n].isfinite().all()
        torch.testing.assert_close(grads[n], grads2[n], rtol=0.02, atol=0.02 * grads[n].abs().max().item())
    for n in buffers:
        torch.testing.assert_close(buffers[n], buffers2[n])


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
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):
            model(torch.rand(3, 3, 16, 16))
        kept[policy] = sum(sizes)
    assert kept["block"] < 0.5 * kept["none"] and kept["time"] < 0.5 * kept["none"]


def test_evaluation_takes_the_plain_path(tiny) -> None:
    model = tiny("tiny_hst", torch.float32, segments=2, feedback="all").eval()
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
        for policy in ("block", "time", "unit"):
            model.set_recompute(policy)
            assert torch.equal(model(x), expected)
