"""`create_model`: a model by name, in timm's convention; names follow the paper's architecture column."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from .backbones import MODELS, Backbone, Entry, Given, Sizes, families
from .backbones.size import OPTIONS, at
from .errors import ModelError
from .model import TDFormer
from .model_options import ModelOptions
from .options import Options


def list_models() -> list[str]:
    """The names that `create_model` takes."""
    return sorted(MODELS)


def entry_of(name: str) -> Entry[Sizes]:
    """What a name stands for. Raises ModelError with the nearest one for an unknown name."""
    return MODELS.get(name)


def create_model(name: str, **options: object) -> TDFormer:
    """A TDFormer by name. options: those of `ModelOptions`, and such as the backbone declares, like QKFormer's
    `leaky_proj_lif`. Raises ModelError, one line, for an unknown name or options that cannot work together."""
    entry = entry_of(name)
    asked, others = ModelOptions.among(options)
    steps = entry.time_steps if asked.time_steps is None else asked.time_steps
    if asked.segments < 1 or steps < 1 or steps % asked.segments:
        raise ModelError(
            f"{steps} time steps do not divide into {asked.segments} segments; choose segments that divide them"
        )
    sizes, size = at(entry.sizes, {option: getattr(asked, option) for option in OPTIONS}, name)
    own = _own(entry.backbone, others, name)
    image = entry.image_size if asked.image_size is None else asked.image_size
    blocks, fed = _fed_back(asked.feedback, sizes.depth, name), asked.fed()
    config: Options = {"name": name, **vars(asked), **size.options()} | {
        "num_classes": entry.num_classes if asked.num_classes is None else asked.num_classes,
        "in_channels": entry.in_channels if asked.in_channels is None else asked.in_channels,
        "image_size": [image, image] if isinstance(image, int) else list(image),
        "time_steps": steps,
        "feedback": blocks,
        "clamp": list(fed.clamp),
    }
    last = {option: config.pop(option) for option in ("border_dtype", "recompute")}  # as in files of earlier versions
    given = Given(asked.units(), config["in_channels"], dict.fromkeys(blocks, fed), own)
    model = TDFormer(entry.backbone(sizes, given), config | own | last)
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
