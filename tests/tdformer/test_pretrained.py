"""Published weights: a loaded model has the function and the gradients of an independent re-implementation of its
backbone."""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path

import pytest
import torch
from published_networks import ALL, GESTURE, LATE, PLAIN, PlainQKFormer, PlainSDT, PlainSpikformer, pictures, plain
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks import parity
from tdformer import ModelError, create_model, from_pretrained, load_pretrained, save_pretrained

CASES = [(name, False, "lif") for name in PLAIN] + [(f"tiny_hst{i}", True, "lif") for i in ("", "_imagenet")]
CASES += [(name, False, "plif") for name in PLAIN if not name.endswith("imagenet")]


@pytest.mark.parametrize(("name", "leaky", "neuron"), CASES)
def test_one_segment_without_feedback_is_the_published_network(name: str, leaky: bool, neuron: str) -> None:
    network = plain(name, leaky, neuron)
    weights = network.state_dict()
    model = create_model(name, leaky_proj_lif=leaky, neuron=neuron).double()
    report = load_pretrained(model, weights)
    assert report.fresh == {} and len(report.loaded) == len(model.state_dict())
    x = pictures(name)
    with torch.no_grad():
        expected = network.eval()(x)
        torch.testing.assert_close(model.eval()(x), expected, rtol=0, atol=1e-10)
        assert expected.std(0).max() > 1e-3  # the images tell themselves apart
    assert parity.first_difference(network, model, x) is None  # no spike of any neuron is another
    network.train(), model.train()
    target = torch.randn(3, 5, dtype=torch.float64)
    with parity.listening(parity.pairs(network, model)) as spikes:
        wanted, got = network(x), model(x)
    assert not any(parity.differing(both).any() for both in spikes.values())
    torch.testing.assert_close(got[0], wanted, rtol=0, atol=1e-10)
    ((wanted - target) ** 2).sum().backward()
    ((got[0] - target) ** 2).sum().backward()
    theirs, ours = dict(network.named_parameters()), dict(model.named_parameters())
    ours_of = dict(zip([k for k in weights if k not in report.skipped], report.loaded, strict=True))
    compared = 0
    for key, p in theirs.items():
        if key in report.skipped:
            assert p.grad is None, key  # truly never used
            continue
        torch.testing.assert_close(ours[ours_of[key]].grad.reshape(p.shape), p.grad, rtol=1e-8, atol=1e-10)
        compared += int(p.grad.abs().max() > 0)
    assert compared > 0.8 * len(ours)
    buffers = dict(model.named_buffers())
    for key, b in network.named_buffers():
        if key in ours_of and "patch_embed" not in key:
            torch.testing.assert_close(buffers[ours_of[key]][0], b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", PLAIN)
def test_in_fp32_no_spike_is_another(name: str) -> None:
    """BatchNorm's affine part is rounded as PyTorch's: in both modes the logits are the same, and gradients up to
    rounding."""
    network, model = plain(name).float(), create_model(name)
    load_pretrained(model, network.state_dict())
    x = pictures(name).float()
    for training in (False, True):
        assert parity.first_difference(network.train(training), model.train(training), x) is None
    load_pretrained(model, network.state_dict())  # the statistics that training has moved
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), network.eval()(x), rtol=0, atol=1e-5)
    wanted, got = network.train()(x), model.train()(x)[0]
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    target, grads = torch.randn(3, 5), []
    for side, logits in ((network, wanted), (model, got)):
        ((logits - target) ** 2).sum().backward()
        grads.append(sum(p.grad.double().square().sum() for p in side.parameters() if p.grad is not None))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=0)


PUBLISHED = {
    "hst_2_256": (lambda: PlainQKFormer("dvs", (128, 256), (1, 1), 16, 1, True), 1.50),
    "hst_2_256_gesture": (lambda: PlainQKFormer("dvs", (128, 256), (1, 1), 16, 4, True), 2.00),
    "spikformer_2_384": (lambda: PlainSpikformer(3, 384, 2, 12, LATE, "linear", 0.125), 5.76),
    "spikformer_4_384": (lambda: PlainSpikformer(3, 384, 4, 12, LATE, "linear", 0.125), 9.32),
    "spikformer_2_256": (lambda: PlainSpikformer(2, 256, 2, 16, ALL, "conv1d", 0.25), 2.57),
    "spikformer_8_512": (lambda: PlainSpikformer(3, 512, 8, 8, ALL, "conv1d", 0.125, "conv"), 29.68),
    "spikformer_8_768": (lambda: PlainSpikformer(3, 768, 8, 8, ALL, "conv1d", 0.125, "conv"), 66.34),
    "sdt_2_256": (lambda: PlainSDT(3, 256, 2, 8, LATE), 2.57),
    "sdt_2_512": (lambda: PlainSDT(3, 512, 2, 8, LATE), 10.23),
    "sdt_2_256_gesture": (lambda: PlainSDT(2, 256, 2, 8, GESTURE), 2.57),
    "sdt_2_256_cifar10_dvs": (lambda: PlainSDT(2, 256, 2, 8, LATE, pooled=True), 2.57),
    "sdt_8_384": (lambda: PlainSDT(3, 384, 8, 8, ALL), 16.81),
    "sdt_6_512": (lambda: PlainSDT(3, 512, 6, 8, ALL), 23.37),
    "sdt_8_512": (lambda: PlainSDT(3, 512, 8, 8, ALL), 29.68),
    "sdt_10_512": (lambda: PlainSDT(3, 512, 10, 8, ALL), 36.01),
    "sdt_8_768": (lambda: PlainSDT(3, 768, 8, 8, ALL), 66.34),
}
"""The published networks in their own sizes, and the millions of parameters that are printed for them: rounded or cut,
and without those that are never used. That of hst_2_256_gesture is ours."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_fits_the_model_of_its_name(name: str) -> None:
    make, printed = PUBLISHED[name]
    with torch.device("meta"):
        network, model = make(), create_model(name)
        network.head = nn.Linear(network.head.in_features, model.config["num_classes"])
    weights = {key: torch.zeros(()).expand(value.shape) for key, value in network.state_dict().items()}
    report = load_pretrained(model, weights)
    assert report.fresh == {} and set(report.loaded) == set(model.state_dict())
    used = sum(p.numel() for key, p in network.named_parameters() if key not in report.skipped)
    assert used == sum(p.numel() for p in model.parameters())
    assert abs(used / 1e6 - printed) < 0.01


@pytest.mark.parametrize("name", ["tiny_hst", "tiny_spikformer", "tiny_sdt"])
@pytest.mark.parametrize("cm", [1, 2, 3])
@pytest.mark.parametrize(("mixer", "gate"), [("concat", "control.mix.weight"), ("processing", "processing.w")])
def test_a_loaded_tdformer_starts_as_its_backbone(name: str, cm: int, mixer: str, gate: str) -> None:
    weights = plain(name).state_dict()
    base = create_model(name, segments=2).double()
    fed = create_model(name, segments=2, feedback="all", cm=cm, mixer=mixer).double()
    load_pretrained(base, weights)
    report = load_pretrained(fed, weights)
    closed = [name for name, why in report.fresh.items() if "starts at zero" in why]
    assert closed and all(name.endswith(gate) for name in closed) and all(".control." in n for n in report.fresh)
    x = pictures(name)
    for mode in (True, False):
        assert torch.equal(fed.train(mode)(x), base.train(mode)(x))
    fed.train()(x)[1].square().sum().backward()
    for name in closed:
        grad = fed.get_parameter(name).grad
        assert grad is not None and grad.abs().max() > 0  # and leaves that start when it is trained


def test_statistics_go_to_every_segment() -> None:
    model = create_model("tiny_hst", segments=4, segment_norm="per_segment").double()
    weights = plain("tiny_hst").state_dict()
    load_pretrained(model, weights)
    rows = model.backbone.embeds[0].units[0].current.norm.running_mean
    assert torch.equal(rows, weights["patch_embed1.proj_bn.running_mean"].expand(4, -1))


def test_unused_weights_are_named() -> None:
    for name, words in (
        ("tiny_spikformer", "norm1"),
        ("tiny_sdt", "talking_heads"),
        ("tiny_spikformer_dvs", "pos_emb"),
    ):
        report = load_pretrained(create_model(name), plain(name).float().state_dict())
        assert any(words in k for k in report.skipped)
        assert all(r for r in report.skipped.values())
        assert report.family in name


def test_a_head_for_other_classes_stays_fresh() -> None:
    model = create_model("tiny_hst", num_classes=9)
    before = model.head.weight.clone()
    report = load_pretrained(model, plain("tiny_hst").state_dict())
    assert set(report.fresh) == set(report.skipped) & {"head.weight", "head.bias"} == {"head.weight", "head.bias"}
    assert "5 classes" in report.skipped["head.weight"]
    assert not torch.equal(model.head.weight, before)
    # As fine-tuning begins it.
    assert 1e-5 < float(model.head.weight.detach().std()) < 4e-5 and not model.head.bias.any()


def test_a_published_file(tmp_path: Path) -> None:
    weights = plain("tiny_hst").state_dict()
    content = {"model": {f"module.{k}": v for k, v in weights.items()}, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, tmp_path / "a.pth")
    torch.save({"state_dict": weights}, tmp_path / "b.pth")
    one, two = create_model("tiny_hst"), create_model("tiny_hst")
    assert load_pretrained(one, tmp_path / "a.pth") == load_pretrained(two, str(tmp_path / "b.pth"))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_a_strangers_file_in_its_many_forms(tmp_path: Path) -> None:
    """Wrapped, halved, averaged, as safetensors that say nothing: what is loaded are the weights that are meant."""
    weights = {k: v.float() for k, v in plain("tiny_hst").state_dict().items()}
    worse = {k: torch.zeros_like(v) for k, v in weights.items()}
    half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    learned = {k: v for k, v in weights.items() if "running" not in k and "tracked" not in k}
    tracked = worse | {k: v for k, v in weights.items() if k not in learned}
    wrapped = {f"module._orig_mod.{k}": v for k, v in weights.items()}
    forms: dict[str, tuple[object, dict[str, Tensor], str | None]] = {
        "wrapped": (wrapped, weights, None),
        "compiled": ({"model": {f"_orig_mod.module.{k}": v for k, v in weights.items()}}, weights, None),
        "half": ({"state_dict": half}, half, None),
        "brain": ({k: v.bfloat16() if v.is_floating_point() else v for k, v in half.items()}, half, None),
        "timm": ({"state_dict": worse, "state_dict_ema": weights}, weights, "state_dict_ema"),
        "averaged": ({"model": worse, "model_ema": {"n_averaged": torch.tensor(7)} | wrapped}, weights, "model_ema"),
        "shadow": ({"model": tracked, "ema": learned | {"decay": 0.999}}, weights, "ema"),
        "alone": ({"ema": weights}, weights, "ema"),
        "no average": ({"model": weights, "ema": None}, weights, None),
    }
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "plain.safetensors")
    for name, (content, wanted, averaged) in forms.items():
        torch.save(content, path := tmp_path / f"{name}.pth")
        got, expected = create_model("tiny_hst"), create_model("tiny_hst")
        report = load_pretrained(got, path)
        load_pretrained(expected, wanted)
        assert report.averaged == averaged and got.head.weight.dtype == torch.float32, name
        for key, value in expected.state_dict().items():
            atol = 0.02 if name == "brain" else 0
            torch.testing.assert_close(got.state_dict()[key], value, rtol=atol, atol=atol)
    got, expected = create_model("tiny_hst"), create_model("tiny_hst")
    load_pretrained(got, tmp_path / "plain.safetensors")
    load_pretrained(expected, weights)
    assert all(torch.equal(v, expected.state_dict()[k]) for k, v in got.state_dict().items())


def test_our_own_file_there_and_back(tmp_path: Path) -> None:
    model = create_model("tiny_hst", segments=2, feedback="all", cm=2, clamp=[0, 2], num_classes=3)
    save_pretrained(model, tmp_path / "m.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    again = from_pretrained(tmp_path / "m.safetensors")
    assert again.config == model.config
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    wider = create_model("tiny_hst", segments=4, num_classes=3)
    report = load_pretrained(wider, tmp_path / "m.safetensors")
    assert report.family == "tdformer" and all(".control." in k for k in report.skipped) and report.skipped


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_files_that_are_refused(tmp_path: Path) -> None:
    model = create_model("tiny_hst")
    before = copy.deepcopy(model.state_dict())
    weights = plain("tiny_hst").state_dict()

    def refused(source, message: str, into=model) -> None:
        with pytest.raises(ModelError, match=message) as error:
            load_pretrained(into, source)
        assert "\n" not in str(error.value)

    torch.save({"model": weights, "args": Evil()}, tmp_path / "evil.pth")
    refused(tmp_path / "evil.pth", "would run .*system")
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    refused(tmp_path / "bad.pth", "not a readable checkpoint")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    refused(tmp_path / "bad.safetensors", "not a readable safetensors")
    refused(tmp_path / "none.pth", "no such file")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "holds a list")
    refused({}, "it is empty")
    refused({"model": {"a": 1}}, "'a' is no tensor")
    refused({"layer.weight": torch.zeros(1)}, "no known backbone")
    refused(weights, "weights of qkformer and tiny_sdt is a sdt", create_model("tiny_sdt"))
    refused(plain("tiny_sdt").state_dict(), "weights of sdt")
    refused(plain("tiny_spikformer").state_dict(), "weights of spikformer")
    learned = plain("tiny_hst", neuron="plif").state_dict()
    refused(learned, "proj_lif.w is a learned time constant; create the model with neuron=plif")
    one_less = {k: v for k, v in learned.items() if k != "stage3.1.ssa.attn_lif.w"}
    refused(one_less, "nothing for the model's .*product.w", create_model("tiny_hst", neuron="plif"))
    refused({k: v for k, v in weights.items() if k != "stage3.1.ssa.q_bn.weight"}, "nothing for the model's .*q")
    refused(weights | {"stage3.2.ssa.q_bn.weight": torch.zeros(16)}, "stage3.2.* has no place")
    refused(weights | {"stage3.1.ssa.q_bn.weight": torch.zeros(8)}, r"is \[8\]")
    refused(weights | {"head.bias": torch.full((5,), float("nan"))}, "head.bias has values that are not finite")
    refused(weights | {"stage3.1.ssa.q_bn.bias": torch.full((16,), 1e9).half()}, "q_bn.bias has values that are not")
    refused({"model": weights, "ema": {"shadow.0": torch.zeros(1)}}, "its ema has other names than its weights")
    whole = (tmp_path / "plain.pth", tmp_path / "plain.safetensors")
    torch.save(weights, whole[0]), save_file({k: v.contiguous() for k, v in weights.items()}, whole[1])
    for path in whole:
        for cut in (1, 1000, path.stat().st_size // 2):
            (tmp_path / f"cut{path.suffix}").write_bytes(path.read_bytes()[:-cut])
            refused(tmp_path / f"cut{path.suffix}", "not a readable (checkpoint|safetensors)")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # nothing half loaded
    torch.save(weights, tmp_path / "plain.pth")
    with pytest.raises(ModelError, match="tdformer import"):
        from_pretrained(tmp_path / "plain.pth")
