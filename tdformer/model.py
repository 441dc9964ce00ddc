"""TDFormer: the segment loop over a backbone (Eqs 10-14), and its loss (Eq 22)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels
from .backbones import Backbone, Sizes, truncated
from .errors import ModelError
from .norm import BatchNorm
from .options import Options
from .packing import bounded, split
from .policies import POLICIES
from .precision import autocast_type
from .state import Keep, State, name_units, place


class TDFormer(nn.Module):
    """A spiking transformer run for `time_steps`, cut into `segments` whose high-level spikes steer the next one.

    The segments share all weights; membrane potentials carry over. `config` holds the options that made the model.
    """

    frames: bool | None = None
    """Whether its data are frames in time and no pictures; None: nobody has said it. It computes the same with both."""
    card: Mapping[str, object] | None = None
    """What is known of its weights, as an exported file says it: `classes`, `input` with mean and std, and more."""

    def __init__(self, backbone: Backbone[Sizes], config: Options) -> None:
        super().__init__()
        self.config = config
        self.time_steps: int = config["time_steps"]
        self.segments: int = config["segments"]
        self.backbone = backbone
        self.head = nn.Linear(backbone.width, config["num_classes"])
        self.set_recompute(config["recompute"])
        name_units(self)

    def set_recompute(self, policy: str, borders: int = 1) -> None:
        """Choose what is kept for backward: see `policies`. Raises ModelError for what it does not know.

        borders: with `unit`, keep the membranes of every k-th border between segments and compute the others again.
        """
        chosen = POLICIES.get(policy)
        if borders < 1:
            raise ModelError(f"recompute borders is {borders}; keep every 1st, 2nd or k-th border")
        self.recompute = policy
        self.policy = self.backbone.policy = chosen
        self.keep = Keep(chosen.packed, borders, self.config["border_dtype"] == "bf16")

    def initialise(self) -> None:
        """Draw the weights that do not start as PyTorch's do: the backbone's, then the head's."""
        self.backbone.initialise()
        truncated([self.head])

    def depths(self) -> dict[str, int]:
        """How many of the backbone's parts lie between the input and each parameter, by its name. The head, and what
        is in no part, lies behind all of them."""
        parts = self.backbone.parts()
        inside = {id(parameter): i for i, part in enumerate(parts) for parameter in part.parameters()}
        return {name: inside.get(id(parameter), len(parts)) for name, parameter in self.named_parameters()}

    def freeze(self, names: Iterable[str]) -> None:
        """Leave the parts with these names untrained, such as `backbone.embeds.0` or `head`; a parameter's name too.

        A BatchNorm whose parameters are both frozen, or that has none and is named so, stays in evaluation mode: its
        statistics do not move either.
        Raises ModelError for a name that is of no part, and where nothing is left to train."""
        names, parameters = list(names), dict(self.named_parameters())
        for name in names:
            inside = [p for own, p in parameters.items() if f"{own}.".startswith(f"{name}.")]
            if not inside:
                known = [n for n, part in self.named_modules() if n and next(part.parameters(), None) is not None]
                near = difflib.get_close_matches(name, [*known, *parameters], 1, 0.0)
                raise ModelError(
                    f"freeze names {name!r:.80}, which is no part of {self.config['name']}; the nearest is {near[0]}"
                )
            for parameter in inside:
                parameter.requires_grad_(False)
        if not any(p.requires_grad for p in parameters.values()):
            raise ModelError(f"freeze leaves nothing of {self.config['name']} to train; name fewer parts")
        for own, part in self.named_modules():
            if isinstance(part, BatchNorm):
                learned = list(part.parameters())
                within = any(f"{own}.".startswith(f"{name}.") for name in names)
                part.frozen = not any(p.requires_grad for p in learned) if learned else within
                part.train(part.training)

    def forward(self, images: Tensor) -> Tensor:
        """images `[B, C, H, W]`, shown at every time step, or frames `[T, B, C, H, W]`.

        Returns logits `[N, B, classes]` in training, one for each segment, and the last segment's `[B, classes]` in
        evaluation.
        """
        state = State(steps=self.time_steps // self.segments, keep=self.keep, typed=self._typed(images))
        high, logits = None, []
        for segment, x in enumerate(self._inputs(images)):
            state.segment, state.last = segment, segment == self.segments - 1
            output, high = self.policy.segment(self, self.segment, state, x, high)
            logits.append(output)
        return torch.stack(logits) if self.training else logits[-1]

    def segment(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        """One sub-network: x `[T/N, B, C, H, W]`, high H_(n-1) or None -> O_n `[B, classes]`, H_n `[T/N, B, C, h, w]`.

        O_n is the head of the mean over the segment's own steps and tokens. A picture may come once, `[1, B, C, H, W]`,
        with `state.steps` to say for how many.
        """
        features, high = self.backbone(x, high, state)
        return self.head(features.mean(0)), high

    def _typed(self, images: Tensor) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """In training under autocast, what convolutions compute with, for `State.typed`: cast at once, where each unit
        would cast its own in each segment and both directions; kernels of more than a pixel are also laid as a GPU's
        convolutions take them. Of sharded weights only those that are there."""
        dtype = autocast_type(images)
        if dtype is None or not self.training:
            return {}
        layers = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        own = [p for m in layers for p in (m.weight, m.bias) if p is not None and p.numel()]
        turned = [p for p in own if p.dim() == 4 and p.shape[2] > 1 and kernels.channels_last(p)]
        alike: list[Tensor] = [p for p in own if not any(p is other for other in turned)]
        cast = [torch.empty_like(p, dtype=dtype) for p in alike]
        with torch.no_grad():  # in training alone: an exported program has no such region
            torch._foreach_copy_(cast, alike)
            whole = [p.to(dtype, memory_format=torch.channels_last) for p in turned]
        made = [*zip(alike, cast, strict=True), *zip(turned, whole, strict=True)]
        return {place(p): (p, value) for p, value in made}

    def _inputs(self, images: Tensor) -> Sequence[Tensor]:
        """Each segment's input: its frames `[T/N, B, C, H, W]`, or the picture `[1, B, C, H, W]`."""
        frames = images.dim() == 5
        if not frames and images.dim() != 4:
            raise ModelError(f"images have shape {list(images.shape)}; give [B, C, H, W] or frames [T, B, C, H, W]")
        if frames and images.shape[0] != self.time_steps:
            raise ModelError(f"{images.shape[0]} frames for a model of {self.time_steps} time steps; make them equal")
        channels, size = self.config["in_channels"], tuple(self.config["image_size"])
        if images.shape[-3] != channels or tuple(images.shape[-2:]) != size:
            raise ModelError(
                f"images are {list(images.shape[-3:])}, the model takes {[channels, *size]}; "
                "set in_channels and image_size"
            )
        if frames:
            return split(images, self.segments)
        return [bounded(kernels.laid(images[None]), None)] * self.segments  # laid once, and not where units take it


def default_alphas(segments: int) -> list[float]:
    """Loss weights that grow linearly with the segment and sum to 1, the last one largest (Eq 22)."""
    total = segments * (segments + 1) / 2
    return [(n + 1) / total for n in range(segments)]


def segment_loss(
    logits: Tensor, targets: Tensor, alphas: Sequence[float] | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """L = sum_n alpha_n CE(y, O_n) (Eq 22).

    logits `[N, B, K]`; targets class ids `[B]` or probabilities `[B, K]`; alphas N weights, by default growing.
    Raises ModelError when the number of alphas is not N or they do not sum to 1.
    """
    weights = default_alphas(len(logits)) if alphas is None else alphas
    if len(weights) != len(logits) or abs(sum(weights) - 1) > 1e-6:
        raise ModelError(f"alphas {list(weights)} must be {len(logits)} weights that sum to 1, one for each segment")
    terms = [
        alpha * F.cross_entropy(output.float(), targets, label_smoothing=label_smoothing)
        for alpha, output in zip(weights, logits, strict=True)
    ]
    return torch.stack(terms).sum()
