"""The options of `create_model` that every model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from .errors import ModelError
from .feedback import FeedbackOptions
from .options import NeuronOptions, Options
from .unit import UnitOptions


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """One that is None takes the name's own value, or that of the data set the architecture was made for.

    width, depths, heads, mlp_ratio: other sizes than the name's, for families that have them. width is that of the last
    stage, those before keep their share of it; depths has a number for each stage; see `backbones.Size`.
    feedback: "none", "first", "last", "all", or the numbers of the blocks that are fed back, counted from 0 among
    those whose width and grid are those of H_n (all of Spikformer and SDT, QKFormer's last stage).
    mixer: where the C x C matrix of feedback is: "concat" (control module), "processing" (processing module) or "add"
    (nowhere). clamp: (b, a) of Eq 19. segment_norm: running statistics of BatchNorm "shared" or kept "per_segment".
    border_dtype: "bf16" rounds membranes where segments meet, in every pass: half the bytes, another arithmetic.
    recompute: what is kept for backward, see `TDFormer.set_recompute`; it never changes a result.
    Raises ModelError, one line, for options that cannot be.
    """

    width: int | None = None
    depths: int | Sequence[int] | None = None
    heads: int | None = None
    mlp_ratio: float | None = None
    num_classes: int | None = None
    in_channels: int | None = None
    image_size: int | Sequence[int] | None = None
    time_steps: int | None = None
    segments: int = 1
    feedback: str | Sequence[int] = "none"
    cm: int = 1
    pm: int = 1
    mixer: str = "concat"
    clamp: Sequence[float] = (0.0, 1.0)
    neuron: str = NeuronOptions.kind
    tau: float = NeuronOptions.tau
    threshold: float = NeuronOptions.threshold
    v_reset: float | None = NeuronOptions.v_reset
    surrogate: str = NeuronOptions.surrogate
    alpha: float = NeuronOptions.alpha
    detach_reset: bool = NeuronOptions.detach_reset
    segment_norm: str = "per_segment"
    border_dtype: str = "fp32"
    recompute: str = "unit"

    def __post_init__(self) -> None:
        if self.segment_norm not in ("shared", "per_segment"):
            raise ModelError(f"segment_norm is {self.segment_norm!r}; choose shared or per_segment")
        if self.border_dtype not in ("fp32", "bf16"):
            raise ModelError(f"border_dtype is {self.border_dtype!r}; choose fp32 or bf16")

    @classmethod
    def among(cls, options: Mapping[str, object]) -> tuple[ModelOptions, dict[str, object]]:
        """Of options of `create_model`, these; and the others, which are the backbone's own."""
        names = {field.name for field in fields(cls)}
        these: Options = {option: value for option, value in options.items() if option in names}
        return cls(**these), {option: value for option, value in options.items() if option not in names}

    def units(self) -> UnitOptions:
        """Those of all units."""
        neuron = NeuronOptions(
            self.neuron, self.tau, self.threshold, self.v_reset, self.surrogate, self.alpha, self.detach_reset
        )
        return UnitOptions(neuron, self.segments if self.segment_norm == "per_segment" else 1)

    def fed(self) -> FeedbackOptions:
        """Those of a block that is fed back."""
        if len(self.clamp) != 2:
            raise ModelError(f"clamp is {list(self.clamp)}; it is [b, a], for example [0, 1]")
        return FeedbackOptions(self.cm, self.pm, self.mixer, (float(self.clamp[0]), float(self.clamp[1])))
