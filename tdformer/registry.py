"""`create_model`: a model by name, in timm's convention; names follow the paper's architecture column."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from .backbones import MODELS, Backbone, Entry, Given, Sizes, families
from .backbones.size import at
from .errors import ModelError
from .feedback import FeedbackOptions
from .model import TDFormer
from .options import NeuronOptions, Options
from .unit import UnitOptions


def list_models() -> list[str]:
    """The names that `create_model` takes."""
    return sorted(MODELS)


def entry_of(name: str) -> Entry[Sizes]:
    """What a name stands for. Raises ModelError with the nearest one for an unknown name."""
    return MODELS.get(name)


def create_model(
    name: str,
    *,
    width: int | None = None,
    depths: int | Sequence[int] | None = None,
    heads: int | None = None,
    mlp_ratio: float | None = None,
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
    border_dtype: str = "fp32",
    recompute: str = "unit",
    **own: object,
) -> TDFormer:
    """A TDFormer by name; an option that is None takes the name's own value, or that of the data set the architecture
    was made for.

    width, depths, heads, mlp_ratio: other sizes than the name's, for families that have them. width is that of the last
    stage, those before keep their share of it; depths has a number for each stage; see `backbones.Size`.
    feedback: "none", "first", "last", "all", or the numbers of the blocks that are fed back, counted from 0 among
    those whose width and grid are those of H_n (all of Spikformer and SDT, QKFormer's last stage).
    mixer: where the C x C matrix of feedback is: "concat" (control module), "processing" (processing module) or "add"
    (nowhere). clamp: (b, a) of Eq 19. segment_norm: running statistics of BatchNorm "shared" or kept "per_segment".
    border_dtype: "bf16" rounds membranes where segments meet, in every pass: half the bytes, another arithmetic.
    recompute: what is kept for backward, see `TDFormer.set_recompute`; it never changes a result.
    own: options that the backbone declares, such as QKFormer's `leaky_proj_lif`.
    Raises ModelError, one line, for an unknown name or options that cannot work together.
    """
    entry = entry_of(name)
    steps = entry.time_steps if time_steps is None else time_steps
    if segments < 1 or steps < 1 or steps % segments:
        raise ModelError(f"{steps} time steps do not divide into {segments} segments; choose segments that divide them")
    if segment_norm not in ("shared", "per_segment"):
        raise ModelError(f"segment_norm is {segment_norm!r}; choose shared or per_segment")
    if border_dtype not in ("fp32", "bf16"):
        raise ModelError(f"border_dtype is {border_dtype!r}; choose fp32 or bf16")
    asked = {"width": width, "depths": depths, "heads": heads, "mlp_ratio": mlp_ratio}
    sizes, its_size = at(entry.sizes, asked, name)
    own = _own(entry.backbone, own, name)
    size = image_size if image_size is not None else entry.image_size
    square = [size, size] if isinstance(size, int) else list(size)
    blocks = _fed_back(feedback, sizes.depth, name)
    config: Options = {
        "name": name,
        **its_size.options(),
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
        **own,
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
    given = Given(options, config["in_channels"], {i: fed for i in blocks}, own)
    model = TDFormer(entry.backbone(sizes, given), config)
    model.initialise()
    return model


def _own(backbone: type[Backbone[Sizes]], given: Mapping[str, object], name: str) -> dict[str, object]:
    """The backbone's own options, with defaults for those that are not given. One that only other backbones have may
    be there with their default, as in the configuration of any model. Raises ModelError for all else."""
    own = dict(backbone.options)
    for option, value in given.items():
        has = [backbone] if option in own else [other for other in families() if option in other.options]
        if not has:
            near = difflib.get_close_matches(option, list(own), 1)
            raise ModelError(
                f"{name} has no option {option!r}; " + (f"did you mean {near[0]!r}?" if near else "leave it out")
            )
        default = has[0].options[option]
        value = _as(default, value)
        if type(value) is not type(default):
            raise ModelError(f"{option} is {value!r:.40}; give a {type(default).__name__}, such as {default!r}")
        if option in own:
            own[option] = value
        elif value != default:
            raise ModelError(f"{option} belongs to {has[0].__name__} and {name} has no such option; leave it off")
    return own


def _as(default: object, value: object) -> object:
    """A value of the type of `default`, where it is written as JSON or YAML have it: 1 for 1.0, a list for a tuple."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    return tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value


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
