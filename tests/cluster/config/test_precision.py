"""The precisions: the choices of the setting, each a type that torch has."""

from __future__ import annotations

import torch

from cluster.config import Config, load
from cluster.config.precision import FULL, PRECISIONS
from cluster.config.schema import types


def test_they_are_the_choices_of_the_setting() -> None:
    assert list(types()["train.precision"][1]["choices"]) == list(PRECISIONS)
    assert Config().train.computes_in is FULL and not FULL.short and not FULL.scaled
    for name, one in PRECISIONS.items():
        assert load(None, [f"train.precision={name}"]).train.computes_in is one


def test_what_has_too_small_a_range_for_gradients_is_scaled() -> None:
    for one in PRECISIONS.values():
        kind = torch.float32 if one.autocast is None else getattr(torch, one.autocast)
        assert one.scaled == (torch.finfo(kind).tiny > 1e-30)
        assert one.short == (torch.finfo(kind).bits == 16)
