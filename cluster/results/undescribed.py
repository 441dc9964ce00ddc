"""Weights that nobody has described: a published file, what `tdformer import` wrote, an export that was moved alone.

What lies beside an exported file says its model, its configuration and its data. Here the header says what it can, and
the rest is given where the file is used: `model.name` of a published one, and the data that it is used on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from tdformer.digest import Described, beside
from tdformer.errors import ModelError, first_line
from tdformer.options import Options
from tdformer.pretrained import fit
from tdformer.registry import create_model

from ..build.data import input_facts
from ..build.first_weights import OF_THE_DATA
from ..build.setup import Setup
from ..config import Config, flat, load, named
from ..config.schema import FIRST_WEIGHTS
from ..errors import RunError
from ..run.weights import Trained

DATA = ("data.dataset", "data.root", "data.size", "data.crop_ratio", "data.frames")
"""Settings that say what such weights are used on."""


def told(trained: Trained, overrides: Sequence[str] = ()) -> Trained:
    """Weights that have no description, under our names, with what header and `overrides` say in place of one.

    Raises RunError where nothing says the model, ModelError where they do not fit it, as `load_pretrained` does.
    """
    path, given, asked = trained.source.path, named(overrides), load(None, overrides)
    card, place = trained.about, beside(path)
    if os.path.lexists(place) and not place.is_file():
        raise RunError(f"{place} cannot be read; `tdformer export` writes it beside {path.name}")
    if trained.options is None:
        if "model.name" not in given:
            raise RunError(
                f"{path} does not say which model it is of, and nothing lies beside it that does; give "
                "model.name=NAME, one of `tdformer models`"
            )
        head = trained.weights.get("head.weight")
        options: Options = {} if head is None else {"num_classes": len(head)}
        options |= {"name": asked.model.name, **asked.model.options()}
        kept = {key: value for key, value in flat(asked).items() if key.startswith("model.")}
    else:
        options, kept = dict(trained.options), settings(trained.options)
    if asked.data.size is not None:
        options |= {"image_size": asked.data.size}
    try:
        model = create_model(**options)
    except ModelError:
        raise
    except Exception as error:  # a stranger's header can say anything
        raise ModelError(f"{path}: its model options cannot be used ({first_line(error)}); write it again") from None
    report = fit(model, trained.weights, str(path), trained.options)
    new = next((why for name, why in report.fresh.items() if name.startswith("head.")), None)
    if new is not None:
        raise RunError(f"{path}: {new}; set model.num_classes to what the file has, or begin a run with it")
    seen = card["input"]
    kept |= {} if card["dataset"] is None else {"data.dataset": card["dataset"]}
    if seen is not None:
        kept |= {f"data.{key}": value for key, value in seen.items() if key in ("size", "crop_ratio", "frames")}
    for key in FIRST_WEIGHTS:
        kept.pop(f"model.{key}", None)
    return replace(
        trained,
        weights=model.state_dict(),
        options=model.config,
        frames=None if seen is None else "frames" in seen,
        settings=path,
        kept=flat(Config()) | kept,
    )


def settings(options: Options) -> dict[str, object]:
    """What makes a model with these options, as settings; what is the data's is left to them."""
    known = {"recompute", *flat(Config().model)}
    found = {f"model.{key}": value for key, value in options.items() if key in known - {"recompute", *OF_THE_DATA}}
    if options.get("v_reset", 0.0) is None:
        found["model.v_reset"] = "soft"
    return found | {"model.own": {key: value for key, value in options.items() if key not in known}}


def check_data(trained: Trained, overrides: Sequence[str]) -> None:
    """Raises RunError where neither a card nor `overrides` say on what weights are used."""
    if trained.about["input"] is None and "data.dataset" not in named(overrides):
        raise RunError(
            f"{trained.source.path} does not say what it was trained on; give data.dataset=NAME, and data.root=FOLDER "
            "where its shards are elsewhere"
        )


def of_shards(trained: Trained, config: Config) -> Trained:
    """With the classes, mean and std that the shards of a configuration have. Raises RunError where the model has other
    outputs than they have classes."""
    samples = Setup.to_evaluate(config).samples
    assert trained.options is not None
    if samples.classes != trained.options["num_classes"]:
        raise RunError(
            f"{trained.source.path} has {trained.options['num_classes']} outputs, the data in {samples.folder} "
            f"{samples.classes} classes; give the data that it was trained on"
        )
    about: Described = {**trained.about, "input": input_facts(samples), "dataset": config.data.dataset}
    return replace(trained, classes=samples.class_names, frames=samples.kind.frames, about=about)
