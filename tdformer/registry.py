"""Models by name, in timm's convention; names follow the paper's architecture column."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .backbones import SDT, Backbone, QKFormer, QKFormerSizes, SDTSizes, Spikformer, SpikformerSizes
from .errors import ModelError
from .feedback import FeedbackOptions
from .model import TDFormer
from .neuron import NeuronOptions
from .unit import UnitOptions

Sizes = QKFormerSizes | SpikformerSizes | SDTSizes


@dataclass(frozen=True)
class Entry:
    """A named architecture and the data it was made for. `truncated`: 1 x 1 (and SDT's) weights start at N(0, 0.02)."""

    sizes: Sizes
    image_size: int
    in_channels: int
    num_classes: int
    time_steps: int = 4
    truncated: bool = False


_LATE, _ALL = (False, False, True, True), (True,) * 4


def _hst(width: int, heads: int) -> Entry:
    return Entry(QKFormerSizes("imagenet", (width // 4, width // 2, width), (1, 2, 7), heads), 224, 3, 1000)


MODELS: dict[str, Entry] = {
    "spikformer_4_384": Entry(SpikformerSizes(384, 4, 12, _LATE, bias=True), 32, 3, 10, truncated=True),
    "spikformer_2_256": Entry(SpikformerSizes(256, 2, 16, _ALL, scale=0.25), 128, 2, 10, 16),
    "spikformer_8_768": Entry(SpikformerSizes(768, 8, 8, _ALL), 224, 3, 1000),
    "sdt_2_256": Entry(SDTSizes(256, 2, _LATE), 32, 3, 10, truncated=True),
    "sdt_2_512": Entry(SDTSizes(512, 2, _LATE), 32, 3, 10, truncated=True),
    "sdt_8_768": Entry(SDTSizes(768, 8, _ALL), 224, 3, 1000, truncated=True),
    "hst_2_256": Entry(QKFormerSizes("dvs", (128, 256), (1, 1), 16, mlp_ratio=1), 128, 2, 10, 16),
    "hst_4_384": Entry(QKFormerSizes("cifar", (96, 192, 384), (1, 1, 2), 8), 32, 3, 10),
    "hst_10_384": _hst(384, 6),
    "hst_10_512": _hst(512, 8),
    "hst_10_768": _hst(768, 12),
    "quickstart": Entry(QKFormerSizes("imagenet", (24, 48, 96), (1, 1, 1), 4), 28, 1, 10),
}


def list_models() -> list[str]:
    """The names that `create_model` takes."""
    return sorted(MODELS)


def entry_of(name: str) -> Entry:
    """What a name stands for. Raises ModelError with the nearest one for an unknown name."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, 1)
        raise ModelError(
            f"model {name!r} is unknown; " + (f"did you mean {near[0]!r}?" if near else f"choose from {list_models()}")
        )
    return MODELS[name]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | Sequence[int] | None = None,
    time_steps: int | None = None,
    segments: int = 1,
    feedback: str | Sequence[int] = "none",
    cm: int = 1,
    pm: int = 1,
    mixer: str = "concat",
    clamp: Sequence[float] = (0.0, 1.0),
    neuron: str = "lif",
    tau: float = 2.0,
    threshold: float = 1.0,
    v_reset: float | None = 0.0,
    surrogate: str = "sigmoid",
    alpha: float = 4.0,
    detach_reset: bool = True,
    segment_norm: str = "per_segment",
    leaky_proj_lif: bool = False,
    border_dtype: str = "fp32",
    recompute: str = "unit",
) -> TDFormer:
    """A TDFormer by name; an option that is None takes the value of the data set the architecture was made for.

    feedback: "none", "first", "last", "all", or the numbers of the blocks that are fed back, counted from 0 among
    those whose width and grid are those of H_n (all of Spikformer and SDT, QKFormer's last stage).
    clamp: (b, a) of Eq 19. segment_norm: running statistics of BatchNorm "shared" or kept "per_segment".
    leaky_proj_lif: the published QKFormer's stage-3 neuron, which runs over time and batch together; for its weights.
    border_dtype: "bf16" rounds membranes where segments meet, in every pass: half the bytes, another arithmetic.
    recompute: what is kept for backward, see `TDFormer.set_recompute`; it never changes a result.
    Raises ModelError, one line, for an unknown name or options that cannot work together.
    """
    entry = entry_of(name)
    sizes = entry.sizes
    steps = entry.time_steps if time_steps is None else time_steps
    if segments < 1 or steps < 1 or steps % segments:
        raise ModelError(f"{steps} time steps do not divide into {segments} segments; choose segments that divide them")
    if segment_norm not in ("shared", "per_segment"):
        raise ModelError(f"segment_norm is {segment_norm!r}; choose shared or per_segment")
    if border_dtype not in ("fp32", "bf16"):
        raise ModelError(f"border_dtype is {border_dtype!r}; choose fp32 or bf16")
    if leaky_proj_lif and not isinstance(sizes, QKFormerSizes):
        raise ModelError(f"leaky_proj_lif belongs to QKFormer (hst_*) and {name} has no such neuron; leave it off")
    size = image_size if image_size is not None else entry.image_size
    square = [size, size] if isinstance(size, int) else list(size)
    depth = sizes.depths[-1] if isinstance(sizes, QKFormerSizes) else sizes.depth
    blocks = _fed_back(feedback, depth, name)
    config: dict[str, Any] = {
        "name": name,
        "num_classes": entry.num_classes if num_classes is None else num_classes,
        "in_channels": entry.in_channels if in_channels is None else in_channels,
        "image_size": square,
        "time_steps": steps,
        "segments": segments,
        "feedback": blocks,
        "cm": cm,
        "pm": pm,
        "mixer": mixer,
        "clamp": [float(c) for c in clamp],
        "neuron": neuron,
        "tau": tau,
        "threshold": threshold,
        "v_reset": v_reset,
        "surrogate": surrogate,
        "alpha": alpha,
        "detach_reset": detach_reset,
        "segment_norm": segment_norm,
        "leaky_proj_lif": leaky_proj_lif,
        "border_dtype": border_dtype,
        "recompute": recompute,
    }
    options = UnitOptions(
        NeuronOptions(neuron, tau, threshold, v_reset, surrogate, alpha, detach_reset),
        segments if segment_norm == "per_segment" else 1,
    )
    if len(clamp) != 2:
        raise ModelError(f"clamp is {list(clamp)}; it is [b, a], for example [0, 1]")
    fed = FeedbackOptions(cm, pm, mixer, (float(clamp[0]), float(clamp[1])))
    backbone = _backbone(sizes, options, config["in_channels"], {i: fed for i in blocks}, leaky_proj_lif)
    model = TDFormer(backbone, config)
    _initialise(model, entry.truncated)
    return model


def _backbone(
    sizes: Sizes, options: UnitOptions, channels: int, feedback: dict[int, FeedbackOptions], leaky: bool
) -> Backbone:
    if isinstance(sizes, QKFormerSizes):
        return QKFormer(options, sizes, channels, feedback, leaky)
    if isinstance(sizes, SDTSizes):
        return SDT(options, sizes, channels, feedback)
    return Spikformer(options, sizes, channels, feedback)


def _fed_back(feedback: str | Sequence[int], depth: int, name: str) -> list[int]:
    """The numbers of the fed-back blocks."""
    words = {"none": [], "first": [0], "last": [depth - 1], "all": list(range(depth))}
    if isinstance(feedback, str):
        if feedback not in words:
            raise ModelError(f"feedback is {feedback!r}; choose none, first, last, all or a list of block numbers")
        return words[feedback]
    wrong = [i for i in feedback if not 0 <= i < depth]
    if wrong:
        raise ModelError(
            f"feedback names block {wrong[0]}, but {name} has blocks 0 to {depth - 1} that can be fed back"
        )
    return sorted(set(feedback))


def _initialise(model: TDFormer, truncated: bool) -> None:
    """The backbones' own starts: linear layers N(0, 0.02) cut at 2, convolutions PyTorch's default unless truncated."""
    everywhere = isinstance(model.backbone, SDT)
    for module in model.modules():
        if isinstance(module, nn.Linear) or (
            truncated and isinstance(module, nn.Conv2d) and (everywhere or module.kernel_size == (1, 1))
        ):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
