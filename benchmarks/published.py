"""The baseline: QKFormer for ImageNet as the field writes it, in plain PyTorch.

Time and batch are flattened around each layer, the neuron is a Python loop over time steps that remembers its
potential (and those of all steps, as spikingjelly's PyTorch neuron does), the picture is repeated T times, and autograd
keeps what it likes. Parameters have the published names, so `tdformer.load_pretrained` takes its weights: a test holds
our model's outputs and gradients to it. The published batch defect (`leaky_proj_lif`) is left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdformer.backbones import MODELS, QKFormerSizes


class _Spike(torch.autograd.Function):
    """The step function with the slope of sigmoid(4 u)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u >= 0).to(u)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        s = torch.sigmoid(4.0 * ctx.saved_tensors[0])
        return grads[0] * (1.0 - s) * s * 4.0


class LIF(nn.Module):
    """x `[T, ...]` -> spikes `[T, ...]`; tau 2, hard reset to 0, detached."""

    def __init__(self, threshold: float = 1.0) -> None:
        super().__init__()
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        self.v: Any = 0.0
        self.v_seq: Any = None

    def forward(self, x: Tensor) -> Tensor:
        spikes, potentials = [], []
        for current in x:
            h = self.v + (current - self.v) / 2.0
            spike = _Spike.apply(h - self.threshold)
            self.v = (1.0 - spike.detach()) * h
            spikes.append(spike)
            potentials.append(self.v)
        self.v_seq = torch.stack(potentials)
        return torch.stack(spikes)


class Layers(nn.Module):
    """Convolution, BatchNorm and neuron under published names: `q_conv`, `q_bn`, `q_lif`."""

    def add(self, name: str, i: int, o: int, kernel: int = 1, stride: int = 1, bias: bool = False, flat: bool = False):
        conv = nn.Conv1d(i, o, 1, bias=bias) if flat else nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=bias)
        setattr(self, f"{name}_conv", conv)
        setattr(self, f"{name}_bn", nn.BatchNorm1d(o) if flat else nn.BatchNorm2d(o))
        setattr(self, f"{name}_lif", LIF())

    def unit(self, name: str, x: Tensor, pool: bool = False) -> Tensor:
        y = getattr(self, f"{name}_bn")(getattr(self, f"{name}_conv")(x.flatten(0, 1)))
        y = F.max_pool2d(y, 3, 2, 1) if pool else y
        return getattr(self, f"{name}_lif")(y.unflatten(0, x.shape[:2]).contiguous())


class Embed(Layers):
    def __init__(self, i: int, chain: list[tuple[str, int, bool]], fork: int) -> None:
        super().__init__()
        self.chain, self.fork, widths = chain, fork, [i] + [c for _, c, _ in chain]
        for j, (name, c, _) in enumerate(chain):
            self.add(name, widths[j], c, kernel=3)
        self.add("proj_res", widths[fork], widths[-1], stride=2 ** sum(pool for *_, pool in chain[fork:]))

    def forward(self, x: Tensor) -> Tensor:
        start = x
        for j, (name, _, pool) in enumerate(self.chain):
            start = x if j == self.fork else start
            x = self.unit(name, x, pool)
        return x + self.unit("proj_res", start)


class TokenAttention(Layers):
    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads, self.attn_lif = heads, LIF(0.5)
        for name in "qk":
            self.add(name, c, c, flat=True)
        self.add("proj", c, c, bias=True, flat=True)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(3)
        q, k = (self.unit(name, flat).unflatten(2, (self.heads, -1)) for name in "qk")
        mask = self.attn_lif(q.sum(3, keepdim=True))
        return self.unit("proj", (mask * k).flatten(2, 3)).view(x.shape)


class SelfAttention(Layers):
    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads, self.attn_lif = heads, LIF(0.5)
        for name in "qkv":
            self.add(name, c, c, flat=True)
        self.add("proj", c, c, bias=True, flat=True)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(3)
        q, k, v = (
            self.unit(name, flat).transpose(-1, -2).unflatten(3, (self.heads, -1)).transpose(2, 3).contiguous()
            for name in "qkv"
        )
        y = (q @ (k.transpose(-2, -1) @ v)) * 0.125
        y = y.transpose(3, 4).reshape(flat.shape).contiguous()
        return self.unit("proj", self.attn_lif(y)).view(x.shape)


class MLP(Layers):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.add("fc1", c, 4 * c, bias=True)
        self.add("fc2", 4 * c, c, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit("fc2", self.unit("fc1", x))


class Block(nn.Module):
    def __init__(self, name: str, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.name, self.mlp = name, mlp
        setattr(self, name, attention)

    def forward(self, x: Tensor) -> Tensor:
        x = x + getattr(self, self.name)(x)
        return x + self.mlp(x)


class Published(nn.Module):
    """images `[B, 3, H, W]` -> logits `[N, B, classes]` in training, the last segment's in evaluation.

    segments: N runs over T / N steps each, the neurons' potentials carried on, BatchNorm over each run.
    """

    def __init__(self, name: str, segments: int = 1, time_steps: int = 4, num_classes: int = 1000) -> None:
        super().__init__()
        sizes = MODELS.get(name).sizes
        assert isinstance(sizes, QKFormerSizes) and sizes.stem == "imagenet"
        (a, b, c), (da, db, dc) = sizes.widths, sizes.depths
        self.segments, self.time_steps = segments, time_steps
        self.patch_embed1 = Embed(3, [("proj", a // 2, True), ("proj1", a, True), ("proj2", a, False)], 1)
        self.patch_embed2 = Embed(a, [("proj3", b, True), ("proj4", b, False)], 0)
        self.patch_embed3 = Embed(b, [("proj3", c, True), ("proj4", c, False)], 0)
        self.stage1, self.stage2 = (
            nn.ModuleList(Block("tssa", TokenAttention(w, sizes.heads), MLP(w)) for _ in range(d))
            for w, d in ((a, da), (b, db))
        )
        self.stage3 = nn.ModuleList(Block("attn", SelfAttention(c, sizes.heads), MLP(c)) for _ in range(dc))
        self.head = nn.Linear(c, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        for module in self.modules():
            if isinstance(module, LIF):
                module.reset()
        frames = images.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1)
        logits = [self.head(self.features(x).mean(0)) for x in frames.chunk(self.segments)]
        return torch.stack(logits) if self.training else logits[-1]

    def features(self, x: Tensor) -> Tensor:
        for embed, stage in (
            (self.patch_embed1, self.stage1),
            (self.patch_embed2, self.stage2),
            (self.patch_embed3, self.stage3),
        ):
            x = embed(x)
            for block in stage:
                x = block(x)
        return x.flatten(3).mean(3)
