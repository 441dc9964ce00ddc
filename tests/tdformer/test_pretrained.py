"""Published weights: an independent re-implementation of each backbone in the published style and with its key names
(neurons with a state inside, time and batch flattened), whose function and gradients a loaded model must reproduce."""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks import parity
from tdformer import ModelError, create_model, from_pretrained, load_pretrained, save_pretrained

CONV = {"conv": nn.Conv2d, "conv1d": nn.Conv1d, "linear": nn.Linear}


class LIF(nn.Module):
    """A neuron that remembers; the network forgets for it before each batch. w: a PLIF neuron's, 1 / tau's logit."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold, self.v = threshold, 0.0
        self.register_parameter("w", None)

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for current in x:
            h = self.v + (current - self.v) * (0.5 if self.w is None else self.w.sigmoid())
            smooth = torch.sigmoid(4.0 * (h - self.threshold))
            spike = (h >= self.threshold).to(h.dtype) + (smooth - smooth.detach())
            self.v = h * (1.0 - spike.detach())
            out.append(spike)
        return torch.stack(out)


class Part(nn.Module):
    """Layers under published names: `q_conv`, `q_bn`, `q_lif`, or, with a number behind, `proj_conv1`, `proj_bn1`."""

    def add(self, name, i, o, kernel=1, stride=1, bias=False, kind="conv", lif=1.0, number=""):
        kernels = {"conv": (kernel, stride, kernel // 2), "conv1d": (1,), "linear": ()}[kind]
        setattr(self, f"{name}_{kind.removesuffix('1d')}{number}", CONV[kind](i, o, *kernels, bias=bias))
        setattr(self, f"{name}_bn{number}", (nn.BatchNorm2d if kind == "conv" else nn.BatchNorm1d)(o))
        if lif:
            setattr(self, f"{name}_lif{number}", LIF(lif))

    def current(self, name: str, x: Tensor, number: str = "", pool: bool = False) -> Tensor:
        layer = getattr(self, f"{name}_conv{number}", None)
        layer = getattr(self, f"{name}_linear{number}") if layer is None else layer
        y = x.flatten(0, 1)
        grid = y.shape[2:]
        if isinstance(layer, nn.Conv2d):
            y = getattr(self, f"{name}_bn{number}")(layer(y))
        else:
            y = y.flatten(2)
            y = layer(y.transpose(1, 2)).transpose(1, 2) if isinstance(layer, nn.Linear) else layer(y)
            y = getattr(self, f"{name}_bn{number}")(y).unflatten(2, grid)
        y = nn.functional.max_pool2d(y, 3, 2, 1) if pool else y
        return y.unflatten(0, x.shape[:2])

    def unit(self, name: str, x: Tensor, number: str = "", pool: bool = False, leaky: bool = False) -> Tensor:
        y, lif = self.current(name, x, number, pool), getattr(self, f"{name}_lif{number}")
        return lif(y.flatten(0, 1)).view_as(y) if leaky else lif(y)


class MLP(Part):
    def __init__(self, c, ratio, names, kind="conv", before=False):
        super().__init__()
        self.names, self.before = names, before
        self.add(names[0], c, c * ratio, bias=True, kind=kind)
        self.add(names[1], c * ratio, c, bias=True, kind=kind)

    def forward(self, x):
        for name in self.names:
            lif = getattr(self, f"{name}_lif")
            x = self.current(name, lif(x)) if self.before else self.unit(name, x)
        return x


def split(x: Tensor, heads: int) -> Tensor:
    """`[T, B, C, H, W]` -> `[T, B, heads, tokens, C / heads]`."""
    t, b, c = x.shape[:3]
    return x.reshape(t, b, heads, c // heads, -1).transpose(3, 4)


class TokenAttention(Part):
    def __init__(self, c, heads):
        super().__init__()
        self.heads, self.attn_lif = heads, LIF(0.5)
        for name in "qk":
            self.add(name, c, c, kind="conv1d")
        self.add("proj", c, c, bias=True, kind="conv1d")

    def forward(self, x):
        q, k = (split(self.unit(name, x), self.heads) for name in "qk")
        y = self.attn_lif(q.sum(4, keepdim=True)) * k
        return self.unit("proj", y.transpose(3, 4).reshape(x.shape))


class SSA(Part):
    def __init__(self, c, heads, scale, kind, bias=False, leaky=False):
        super().__init__()
        self.heads, self.scale, self.leaky, self.attn_lif = heads, scale, leaky, LIF(0.5)
        for name in "qkv":
            self.add(name, c, c, kind=kind, bias=bias)
        self.add("proj", c, c, bias=True, kind=kind)

    def forward(self, x):
        q, k, v = (split(self.unit(name, x), self.heads) for name in "qkv")
        y = (q @ k.transpose(3, 4)) @ v * self.scale
        y = self.attn_lif(y.transpose(3, 4).reshape(x.shape))
        return self.unit("proj", y, leaky=self.leaky)


class Erode(nn.MaxPool3d):
    def __init__(self):
        super().__init__((1, 3, 3), (1, 1, 1), (0, 1, 1))


class SDSA(Part):
    def __init__(self, c, heads, pooled=False):
        super().__init__()
        self.heads, self.shortcut_lif, self.talking_heads_lif = heads, LIF(1.0), LIF(0.5)
        self.attn_lif = LIF(0.5)  # published, never used
        self.pool = Erode() if pooled else nn.Identity()
        self.talking_heads = nn.Conv1d(heads, heads, 1, bias=False)  # published, never used
        for name in "qkv":
            self.add(name, c, c)
        self.add("proj", c, c, bias=True, lif=0)

    def forward(self, x):
        s = self.shortcut_lif(x)
        q, k, v = (self.unit(name, s) for name in "qkv")
        q, k, v = (split(y, self.heads) for y in (q, self.pool(k), self.pool(v)))
        y = self.pool(q * self.talking_heads_lif(self.pool(k * v).sum(3, keepdim=True)))
        return self.current("proj", y.transpose(3, 4).reshape(x.shape))


class Residual(Part):
    def __init__(self, name, attention, mlp, norms=0):
        super().__init__()
        self.name = name
        setattr(self, name, attention)
        self.mlp = mlp
        if norms:  # published, never used
            self.norm1, self.norm2 = nn.LayerNorm(norms), nn.LayerNorm(norms)

    def forward(self, x):
        x = x + getattr(self, self.name)(x)
        return x + self.mlp(x)


class Embed(Part):
    def __init__(self, i, chain, fork):
        super().__init__()
        self.chain, self.fork, widths = chain, fork, [i] + [c for _, c, _ in chain]
        for j, (name, c, _) in enumerate(chain):
            self.add(name, widths[j], c, 3)
        self.add("proj_res", widths[fork], widths[-1], stride=2 ** sum(p for *_, p in chain[fork:]))

    def forward(self, x):
        for j, (name, _, pool) in enumerate(self.chain):
            if j == self.fork:
                start = x
            x = self.unit(name, x, pool=pool)
        return x + self.unit("proj_res", start)


class Network(Part):
    frames = False

    def forward(self, x):
        for m in self.modules():
            if isinstance(m, LIF):
                m.v = 0.0
        x = self.features(x if self.frames else x.unsqueeze(0).repeat(4, 1, 1, 1, 1))
        return self.head(x.mean(0))


class PlainQKFormer(Network):
    def __init__(self, kind, widths, depths, heads, ratio, leaky):
        super().__init__()
        w, fc = widths[0], ("fc1", "fc2") if kind == "imagenet" else ("mlp1", "mlp2")
        self.n, self.frames = len(widths), kind == "dvs"
        stem, fork = {
            "imagenet": ([("proj", w // 2, True), ("proj1", w, True), ("proj2", w, False)], 1),
            "cifar": ([("proj", w // 2, False), ("proj1", w, False)], 1),
            "dvs": ([("proj", w // 8, False), ("proj1", w // 4, True), ("proj2", w // 2, True), ("proj3", w, True)], 2),
        }[kind]
        self.patch_embed1 = Embed(2 if kind == "dvs" else 3, stem, fork)
        for s in range(1, self.n):
            first, early = "proj" if kind == "dvs" else "proj3", kind == "imagenet"
            chain = [(first, widths[s], early), ("proj4", widths[s], not early)]
            setattr(self, f"patch_embed{s + 1}", Embed(widths[s - 1], chain, 0))
        for s, (c, depth) in enumerate(zip(widths, depths, strict=True)):
            last = s == self.n - 1
            name = ("attn" if kind == "imagenet" else "ssa") if last else "tssa"
            blocks = [
                Residual(
                    name,
                    SSA(c, heads, 0.125, "conv1d", leaky=leaky) if last else TokenAttention(c, heads),
                    MLP(c, ratio, fc),
                )
                for _ in range(depth)
            ]
            setattr(self, f"stage{s + 1}", nn.ModuleList(blocks))
        self.head = nn.Linear(widths[-1], 5)

    def features(self, x):
        for s in range(self.n):
            x = getattr(self, f"patch_embed{s + 1}")(x)
            for block in getattr(self, f"stage{s + 1}"):
                x = block(x)
        return x.mean((3, 4))


class Stem(Part):
    def __init__(self, i, c, pools, membrane):
        super().__init__()
        self.pools, self.membrane, widths = pools, membrane, (i, c // 8, c // 4, c // 2, c)
        for j in range(4):
            self.add("proj", widths[j], widths[j + 1], 3, number=str(j or ""))
        self.add("rpe", c, c, 3)  # its neuron is published for both, and never used on the membrane shortcut

    def forward(self, x):
        for j, pool in enumerate(self.pools):
            number = str(j or "")
            if self.membrane and j == 3:
                x = self.current("proj", x, number, pool)
                return x + self.current("rpe", self.proj_lif3(x))
            x = self.unit("proj", x, number)
            if pool:
                x = nn.functional.max_pool2d(x.flatten(0, 1), 3, 2, 1).unflatten(0, x.shape[:2])
        return x + self.unit("rpe", x)


class PlainSpikformer(Network):
    def __init__(self, i, c, depth, heads, pools, kind, scale, mlp=None):
        super().__init__()
        mlp = mlp or kind
        self.patch_embed, self.frames = Stem(i, c, pools, False), i == 2
        attention = [SSA(c, heads, scale, kind, bias=kind == "linear") for _ in range(depth)]
        self.block = nn.ModuleList(Residual("attn", a, MLP(c, 4, ("fc1", "fc2"), mlp), norms=c) for a in attention)
        if self.frames:  # published, never used
            self.pos_embed, self.norm = nn.Parameter(torch.randn(1, 4, c)), nn.LayerNorm(c)
        self.head = nn.Linear(c, 5)

    def features(self, x):
        x = self.patch_embed(x)
        for block in self.block:
            x = block(x)
        return x.mean((3, 4))


class PlainSDT(Network):
    def __init__(self, i, c, depth, heads, pools, pooled=False, classes=5):
        super().__init__()
        self.patch_embed, self.head_lif, self.frames = Stem(i, c, pools, True), LIF(1.0), i == 2
        self.block = nn.ModuleList(
            Residual("attn", SDSA(c, heads, pooled), MLP(c, 4, ("fc1", "fc2"), before=True)) for _ in range(depth)
        )
        self.head = nn.Linear(c, classes)

    def features(self, x):
        x = self.patch_embed(x)
        for block in self.block:
            x = block(x)
        return self.head_lif(x.mean((3, 4)))


LATE, ALL, GESTURE = (False, False, True, True), (True, True, True, True), (False, True, True, True)
PLAIN = {
    "tiny_hst": lambda leaky=False: PlainQKFormer("cifar", (8, 8, 16), (1, 1, 2), 2, 4, leaky),
    "tiny_hst_imagenet": lambda leaky=False: PlainQKFormer("imagenet", (8, 8, 16), (1, 2, 2), 1, 4, leaky),
    "tiny_hst_dvs": lambda leaky=False: PlainQKFormer("dvs", (8, 16), (1, 1), 1, 1, leaky),
    "tiny_spikformer": lambda leaky=False: PlainSpikformer(3, 16, 2, 2, LATE, "linear", 0.125),
    "tiny_spikformer_dvs": lambda leaky=False: PlainSpikformer(2, 16, 2, 2, ALL, "conv1d", 0.25),
    "tiny_spikformer_imagenet": lambda leaky=False: PlainSpikformer(3, 16, 2, 2, ALL, "conv1d", 0.125, "conv"),
    "tiny_sdt": lambda leaky=False: PlainSDT(3, 16, 2, 2, LATE),
    "tiny_sdt_imagenet": lambda leaky=False: PlainSDT(3, 16, 3, 2, ALL),
    "tiny_sdt_gesture": lambda leaky=False: PlainSDT(2, 16, 2, 2, GESTURE),
    "tiny_sdt_dvs": lambda leaky=False: PlainSDT(2, 16, 2, 2, LATE, pooled=True),
}


def plain(name: str, leaky: bool = False, neuron: str = "lif") -> Network:
    network = PLAIN[name](leaky)
    for m in network.modules():
        if isinstance(m, LIF) and neuron == "plif":
            m.w = nn.Parameter(torch.rand(()) - 0.25)  # each its own time constant, tau from 2.3 to 1.5
    network = network.double()
    low, high = (-1.5, 0.5) if name == "tiny_sdt_dvs" else (0.0, 1.5)  # pooling spreads spikes: fewer, not to have all
    for m in network.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 1.0, 2.0)
            nn.init.uniform_(m.bias, low, high)
    x = pictures(name, 8)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        network.train()(x)  # running statistics of a real batch
    for m in network.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.momentum = 0.1
    return network


def pictures(name: str, n: int = 3) -> Tensor:
    size = 16 if name in ("tiny_hst", "tiny_spikformer", "tiny_sdt", "tiny_sdt_dvs") else 32
    shape = (4, n, 2, size, size) if name.endswith(("dvs", "gesture")) else (n, 3, size, size)
    return torch.rand(shape, dtype=torch.float64)


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
