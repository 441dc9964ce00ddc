"""Backbones small enough to run in milliseconds, under names of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tdformer import TDFormer, create_model
from tdformer.attention import SelfAttention
from tdformer.backbones import MODELS, SDT, Entry, QKFormer, QKFormerSizes, SDTSizes, Spikformer, SpikformerSizes
from tdformer.measure import spiking
from tdformer.norm import BatchNorm

LATE = (False, False, True, True)
TINY = {
    "tiny_hst": Entry(QKFormer, QKFormerSizes("cifar", (8, 8, 16), (1, 1, 2), 2), 16, 3, 5),
    "tiny_hst_imagenet": Entry(QKFormer, QKFormerSizes("imagenet", (8, 8, 16), (1, 2, 2), 1), 32, 3, 5),
    "tiny_hst_dvs": Entry(QKFormer, QKFormerSizes("dvs", (8, 16), (1, 1), 1, mlp_ratio=1), 32, 2, 5),
    "tiny_spikformer": Entry(Spikformer, SpikformerSizes(16, 2, 2, LATE, bias=True), 16, 3, 5),
    "tiny_spikformer_dvs": Entry(Spikformer, SpikformerSizes(16, 2, 2, (True,) * 4, scale=0.25), 32, 2, 5),
    "tiny_spikformer_imagenet": Entry(Spikformer, SpikformerSizes(16, 2, 2, (True,) * 4), 32, 3, 5),
    "tiny_sdt": Entry(SDT, SDTSizes(16, 2, LATE), 16, 3, 5),
    "tiny_sdt_imagenet": Entry(SDT, SDTSizes(16, 3, (True,) * 4), 32, 3, 5),
    "tiny_sdt_gesture": Entry(SDT, SDTSizes(16, 2, (False, True, True, True)), 32, 2, 5),
    "tiny_sdt_dvs": Entry(SDT, SDTSizes(16, 2, LATE, pooled_heads=2), 16, 2, 5),
}


@pytest.fixture(autouse=True)
def names() -> None:
    for name, entry in TINY.items():
        MODELS.register(name, entry)
    torch.manual_seed(0)


def _tiny(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> TDFormer:
    """A tiny model whose weights make every layer fire."""
    model = create_model(name, **options).to(dtype)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BatchNorm) and module.weight is not None:
                module.weight.uniform_(1.0, 2.0)
                module.bias.uniform_(0.0, 1.0)
        for module in model.modules():
            if isinstance(module, SelfAttention):  # few heads and tokens: products are small
                for unit in (module.q, module.k, module.v):
                    unit.current.norm.bias.uniform_(0.5, 2.0)
        model.head.weight.normal_()
    return model


@pytest.fixture
def tiny() -> Callable[..., TDFormer]:
    return _tiny


def _calibrate(model: TDFormer, images: Tensor) -> TDFormer:
    """Running statistics of one batch, the same in every row, and evaluation mode."""
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
        norm.running_mean.copy_(norm.running_mean[-1].clone())
        norm.running_var.copy_(norm.running_var[-1].clone())
    return model.eval()


@pytest.fixture
def calibrate() -> Callable[[TDFormer, Tensor], TDFormer]:
    return _calibrate


def _spikes_of(model: TDFormer, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the spikes of every backbone unit at all time steps."""
    seen: dict[str, list[Tensor]] = defaultdict(list)
    hooks = [
        m.register_forward_hook(lambda m, _, out, key=key: seen[key].append(out.clone()))
        for key, m in spiking(model).items()
        if ".control." not in key
    ]
    with torch.no_grad():
        logits = model(x)
    for hook in hooks:
        hook.remove()
    return logits, {k: torch.cat(v) for k, v in seen.items()}


@pytest.fixture
def spikes_of() -> Callable[[TDFormer, Tensor], tuple[Tensor, dict[str, Tensor]]]:
    return _spikes_of
