"""Each backbone again, in the published style and with its key names: neurons with a state inside, time and batch
flattened. Tiny ones by name, with weights that fire, and what is shown to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
