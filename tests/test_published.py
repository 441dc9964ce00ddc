"""What the benchmarks compare with and count: the baseline computes what our model does, and bytes are exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.memory import model_of
from benchmarks.published import LIF, Published
from tdformer import create_model, load_pretrained, registry, segment_loss
from tdformer.backbones import QKFormerSizes
from tdformer.measure import live_bytes, measure_step

NAME = "tiny_benchmark"
FLOAT = 4


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = QKFormerSizes("imagenet", (16, 16, 32), (1, 2, 2), 2)
    monkeypatch.setattr(registry, "MODELS", {NAME: registry.Entry(sizes, 64, 3, 5)})
    torch.manual_seed(0)


def baseline(segments: int, time_steps: int = 4) -> Published:
    """Its weights make every layer fire."""
    network = Published(NAME, segments, time_steps, num_classes=5)
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(1.0, 2.0)
                module.bias.uniform_(0.5 if name.endswith(("q_bn", "k_bn", "v_bn")) else 0.0, 1.5)
    return network


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model.train()(images)
    segment_loss(logits.double(), labels).backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("policy", ["none", "block", "time", "unit"])
@pytest.mark.parametrize("segments", [1, 2, 4])
def test_our_model_is_the_baseline(policy: str, segments: int) -> None:
    """Logits and every gradient, whatever is recomputed, and the running statistics."""
    network = baseline(segments).double()
    model = create_model(NAME, segments=segments, segment_norm="shared", recompute=policy).double()
    report = load_pretrained(model, network.state_dict())
    assert not report.fresh and len(report.loaded) == len(model.state_dict())
    ours_of = dict(zip([k for k in network.state_dict() if k not in report.skipped], report.loaded, strict=True))
    images, labels = torch.rand(3, 3, 64, 64, dtype=torch.float64), torch.tensor([0, 3, 4])
    wanted, theirs = gradients(network, images, labels)
    got, ours = gradients(model, images, labels)
    assert wanted.shape == (segments, 3, 5) and wanted.std(1).max() > 1e-3  # the images tell themselves apart
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    assert {ours_of[name] for name in theirs} == ours.keys()
    for name, grad in theirs.items():
        assert grad.abs().max() > 0 or name.endswith("_conv.bias"), name  # a bias before a BatchNorm has none
        torch.testing.assert_close(ours[ours_of[name]].view_as(grad), grad, rtol=1e-8, atol=1e-10)
    buffers = dict(model.named_buffers())
    for name, buffer in network.named_buffers():
        if name in ours_of:  # the first variance is unbiased by the number of pixels, and the baseline repeats them
            rtol = 1e-4 if name == "patch_embed1.proj_bn.running_var" else 1e-9
            torch.testing.assert_close(buffers[ours_of[name]][0], buffer, rtol=rtol, atol=1e-10)
    load_pretrained(model, network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), network.eval()(images), rtol=0, atol=1e-9)


def test_in_fp32_it_is_the_baseline_up_to_a_few_spikes() -> None:
    """Rounding can move a potential over the threshold, so single values may differ."""
    network, model = baseline(2), create_model(NAME, segments=2, segment_norm="shared", recompute="unit")
    report = load_pretrained(model, network.state_dict())
    ours_of = dict(zip([k for k in network.state_dict() if k not in report.skipped], report.loaded, strict=True))
    images, labels = torch.rand(3, 3, 64, 64), torch.tensor([0, 3, 4])
    wanted, theirs = gradients(network, images, labels)
    got, ours = gradients(model, images, labels)
    assert (got - wanted).abs().mean() < 0.05 * wanted.std()
    pairs = [(grad.flatten(), ours[ours_of[name]].flatten()) for name, grad in theirs.items()]
    assert torch.cosine_similarity(*(torch.cat(side) for side in zip(*pairs, strict=True)), dim=0) > 0.99


def test_the_baseline_keeps_images_apart_and_starts_anew() -> None:
    network, images = baseline(2).double(), torch.rand(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        network.train()(images)
        together = network.eval()(images)
        assert together.std(0).max() > 1e-3
        torch.testing.assert_close(network(images[1:2]), together[1:2], rtol=0, atol=1e-12)
        assert torch.equal(network(images), together)


def test_a_storage_counts_once_while_it_lives() -> None:
    with live_bytes(nn.Identity()) as live:
        x = torch.zeros(100)
        view = x.view(10, 10)[2:]
        x.add_(1)
        assert live.now == 100 * FLOAT
        del x
        assert live.now == 100 * FLOAT
        y = view * 2
        assert live.now == 180 * FLOAT
        del y, view
        assert live.now == 0
    assert live.peak == 180 * FLOAT
    assert live.timeline[0] == live.timeline[2] == 100 * FLOAT and live.timeline[-1] == 180 * FLOAT


def test_what_was_there_before_does_not_count() -> None:
    model, x = nn.BatchNorm1d(10), torch.rand(8, 10)
    with live_bytes(model) as live:
        model.running_mean.mul_(2)
        model.weight.detach().clone()
        assert live.now == 0
        y = model(x)
        assert live.now == (80 + 10 + 10) * FLOAT  # y, and the mean and deviation for backward
        del y
        assert live.now == 0


def test_gradients_of_parameters_do_not_count_however_often_they_add_up() -> None:
    model, x = nn.Linear(10, 20), torch.rand(8, 10)
    with live_bytes(model) as live:
        for _ in range(2):
            y = model(x) + model(2 * x)
            y.sum().backward()
            del y
            assert live.now == 0
    assert model.weight.grad is not None and live.peak >= 3 * 160 * FLOAT


class _Twice(torch.autograd.Function):
    """Keeps a tensor of its own, and needs another one in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.new_zeros(300))
        x.new_zeros(1000)
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grads[0].new_zeros(5000)
        return 2 * grads[0]


def test_tensors_inside_a_function_of_our_own_count() -> None:
    x = torch.rand(50, requires_grad=True)
    with live_bytes(nn.Identity()) as live:
        loss = _Twice.apply(x).sum()
        assert live.now == (300 + 1) * FLOAT  # the output is gone: a sum needs only its shape
        assert live.peak == (300 + 1000) * FLOAT
        loss.backward()
        assert live.peak >= 5300 * FLOAT
        assert live.now == (1 + 50) * FLOAT  # the loss and x's gradient


def test_kept_is_what_autograd_saved_and_what_the_neurons_remember() -> None:
    """Against a count of another kind: autograd's own list of what it saves."""
    network, images = baseline(2), torch.rand(2, 3, 64, 64)
    saved: dict[int, torch.UntypedStorage] = {}

    def note(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    measured = measure_step(network, images)[0].kept
    labels = torch.zeros(2, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = segment_loss(network(images), labels)
    for module in network.modules():
        if isinstance(module, LIF):
            note(module.v), note(module.v_seq)
    note(images)  # counted too: the model looks at it
    for x in (*network.parameters(), *network.buffers(), labels):
        saved.pop(x.untyped_storage().data_ptr(), None)
    assert sum(s.nbytes() for s in saved.values()) + loss.nbytes == pytest.approx(measured, rel=1e-3)


@pytest.mark.parametrize("policy", [("published",), ("none",), ("block",), ("time",), ("unit",), ("unit", 2, "bf16")])
@pytest.mark.parametrize("segments", [1, 4])
def test_bytes_are_the_same_on_the_meta_device(policy: tuple[Any, ...], segments: int) -> None:
    found = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = model_of(NAME, *policy, segments=segments, time_steps=4)
            cost = measure_step(model, torch.rand(2, 3, 64, 64))[0]
        found.append((cost.kept, cost.peak))
    assert found[0] == found[1]
