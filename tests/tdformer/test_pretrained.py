"""Published weights: an independent re-implementation of each backbone in the published style and with its key names
(neurons with a state inside, time and batch flattened), whose function and gradients a loaded model must reproduce."""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tdformer import ModelError, create_model, from_pretrained, load_pretrained, save_pretrained

CONV = {"conv": nn.Conv2d, "conv1d": nn.Conv1d, "linear": nn.Linear}


class LIF(nn.Module):
    """A neuron that remembers; the network forgets for it before each batch."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold, self.v = threshold, 0.0

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for current in x:
            h = self.v + (current - self.v) / 2.0
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


class SDSA(Part):
    def __init__(self, c, heads):
        super().__init__()
        self.heads, self.shortcut_lif, self.talking_heads_lif = heads, LIF(1.0), LIF(0.5)
        self.talking_heads = nn.Conv1d(heads, heads, 1, bias=False)  # published, never used
        for name in "qkv":
            self.add(name, c, c)
        self.add("proj", c, c, bias=True, lif=0)

    def forward(self, x):
        s = self.shortcut_lif(x)
        q, k, v = (split(self.unit(name, s), self.heads) for name in "qkv")
        y = q * self.talking_heads_lif((k * v).sum(3, keepdim=True))
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
        self.add("rpe", c, c, 3, lif=0 if membrane else 1.0)

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
    def __init__(self, i, c, depth, heads, pools, kind, scale):
        super().__init__()
        self.patch_embed, self.frames = Stem(i, c, pools, False), i == 2
        attention = [SSA(c, heads, scale, kind, bias=kind == "linear") for _ in range(depth)]
        self.block = nn.ModuleList(Residual("attn", a, MLP(c, 4, ("fc1", "fc2"), kind), norms=c) for a in attention)
        if self.frames:  # published, never used
            self.pos_embed, self.norm = nn.Parameter(torch.randn(1, 4, c)), nn.LayerNorm(c)
        self.head = nn.Linear(c, 5)

    def features(self, x):
        x = self.patch_embed(x)
        for block in self.block:
            x = block(x)
        return x.mean((3, 4))


class PlainSDT(Network):
    def __init__(self, i, c, depth, heads, pools):
        super().__init__()
        self.patch_embed, self.head_lif = Stem(i, c, pools, True), LIF(1.0)
        self.block = nn.ModuleList(
            Residual("attn", SDSA(c, heads), MLP(c, 4, ("fc1", "fc2"), before=True)) for _ in range(depth)
        )
        self.head = nn.Linear(c, 5)

    def features(self, x):
        x = self.patch_embed(x)
        for block in self.block:
            x = block(x)
        return self.head_lif(x.mean((3, 4)))


LATE = (False, False, True, True)
PLAIN = {
    "tiny_hst": lambda leaky=False: PlainQKFormer("cifar", (8, 8, 16), (1, 1, 2), 2, 4, leaky),
    "tiny_hst_imagenet": lambda leaky=False: PlainQKFormer("imagenet", (8, 8, 16), (1, 2, 2), 1, 4, leaky),
    "tiny_hst_dvs": lambda leaky=False: PlainQKFormer("dvs", (8, 16), (1, 1), 1, 1, leaky),
    "tiny_spikformer": lambda leaky=False: PlainSpikformer(3, 16, 2, 2, LATE, "linear", 0.125),
    "tiny_spikformer_dvs": lambda leaky=False: PlainSpikformer(2, 16, 2, 2, (True,) * 4, "conv1d", 0.25),
    "tiny_sdt": lambda leaky=False: PlainSDT(3, 16, 2, 2, LATE),
}


def plain(name: str, leaky: bool = False) -> Network:
    network = PLAIN[name](leaky).double()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 1.0, 2.0)
            nn.init.uniform_(m.bias, 0.0, 1.5)
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
    size = 16 if name in ("tiny_hst", "tiny_spikformer", "tiny_sdt") else 32
    shape = (4, n, 2, size, size) if name.endswith("dvs") else (n, 3, size, size)
    return torch.rand(shape, dtype=torch.float64)


CASES = [(name, False) for name in PLAIN] + [("tiny_hst", True), ("tiny_hst_imagenet", True)]


@pytest.mark.parametrize(("name", "leaky"), CASES)
def test_one_segment_without_feedback_is_the_published_network(name: str, leaky: bool) -> None:
    network = plain(name, leaky)
    weights = network.state_dict()
    model = create_model(name, leaky_proj_lif=leaky).double()
    report = load_pretrained(model, weights)
    assert report.fresh == {} and len(report.loaded) == len(model.state_dict())
    x = pictures(name)
    with torch.no_grad():
        expected = network.eval()(x)
        torch.testing.assert_close(model.eval()(x), expected, rtol=0, atol=1e-10)
        assert expected.std(0).max() > 1e-3  # the images tell themselves apart
    network.train(), model.train()
    target = torch.randn(3, 5, dtype=torch.float64)
    wanted, got = network(x), model(x)
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


@pytest.mark.parametrize("name", ["tiny_hst", "tiny_spikformer", "tiny_sdt"])
@pytest.mark.parametrize("cm", [1, 2, 3])
def test_a_loaded_tdformer_starts_as_its_backbone(name: str, cm: int) -> None:
    weights = plain(name).state_dict()
    base = create_model(name, segments=2).double()
    fed = create_model(name, segments=2, feedback="all", cm=cm).double()
    load_pretrained(base, weights)
    report = load_pretrained(fed, weights)
    assert [n for n in report.fresh if n.endswith("mix.weight")] and all(".control." in n for n in report.fresh)
    x = pictures(name)
    for mode in (True, False):
        assert torch.equal(fed.train(mode)(x), base.train(mode)(x))
    fed.train()(x)[1].square().sum().backward()
    mix = dict(fed.named_parameters())[next(n for n in report.fresh if n.endswith("mix.weight"))]
    assert mix.grad is not None and mix.grad.abs().max() > 0  # and leaves that start when it is trained


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
    assert (
        1e-5 < float(model.head.weight.detach().std()) < 4e-5 and not model.head.bias.any()
    )  # as fine-tuning begins it


def test_a_published_file(tmp_path: Path) -> None:
    weights = plain("tiny_hst").state_dict()
    content = {"model": {f"module.{k}": v for k, v in weights.items()}, "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, tmp_path / "a.pth")
    torch.save({"state_dict": weights}, tmp_path / "b.pth")
    one, two = create_model("tiny_hst"), create_model("tiny_hst")
    assert load_pretrained(one, tmp_path / "a.pth") == load_pretrained(two, str(tmp_path / "b.pth"))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


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
    events = PlainSDT(2, 16, 2, 2, LATE).state_dict()  # published for Gesture and CIFAR10-DVS: the names are the same
    refused(events, "for event frames, .*: it is not built here", create_model("tiny_sdt", in_channels=2))
    refused({k: v for k, v in weights.items() if k != "stage3.1.ssa.q_bn.weight"}, "nothing for the model's .*q")
    refused(weights | {"stage3.2.ssa.q_bn.weight": torch.zeros(16)}, "stage3.2.* has no place")
    refused(weights | {"stage3.1.ssa.q_bn.weight": torch.zeros(8)}, r"is \[8\]")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # nothing half loaded
    torch.save(weights, tmp_path / "plain.pth")
    with pytest.raises(ModelError, match="tdformer import"):
        from_pretrained(tmp_path / "plain.pth")
