"""Autocast: found, left and taken up again, on meta as on a device; and weights that are cast once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tdformer import create_model, kernels
from tdformer.precision import autocast, autocast_type, exact, typed


def test_autocast_on_meta_goes_on_as_it_was() -> None:
    x = torch.zeros(1, device="meta")
    with autocast(x, torch.bfloat16):
        with exact(x):
            assert autocast_type(x) is None
        assert autocast_type(x) == torch.bfloat16
    assert autocast_type(x) is None


class Casts(TorchDispatchMode):
    """Counts how often each parameter is copied into another type."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.places = {p.untyped_storage()._cdata: name for name, p in model.named_parameters()}
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        aten = torch.ops.aten
        read = {aten._to_copy: args[:1], aten._foreach_copy_: args[-1]}.get(func._overloadpacket, ())
        for tensor in read:
            if name := self.places.get(tensor.untyped_storage()._cdata):
                self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", ["unit", "block"])
def test_a_weight_is_cast_once_for_all_segments_and_passes(policy: str) -> None:
    with torch.device("meta"), kernels.stands_for("cuda"):
        model, images = create_model("tiny_hst", segments=4, recompute=policy), torch.zeros(4, 3, 16, 16)
        with Casts(model) as seen, autocast(images, torch.bfloat16):
            model.train()(images).sum().backward()
    weights = [name for name, p in model.named_parameters() if p.dim() == 4]
    assert weights and all(seen.found[name] == 1 for name in weights)
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.grad.is_contiguous() for p in model.parameters())


def test_autocast_is_found_left_and_taken_up_again() -> None:
    x = torch.zeros(1)
    assert autocast_type(x) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_type(x) == torch.bfloat16
        with pytest.raises(ZeroDivisionError), exact(x):
            assert autocast_type(x) is None and (x @ x).dtype == torch.float32
            raise ZeroDivisionError
        assert autocast_type(x) == torch.bfloat16 == (x @ x).dtype
        with autocast(x, None):
            assert autocast_type(x) is None
        with autocast(x, torch.float16):
            assert autocast_type(x) == torch.float16
        assert autocast_type(x) == torch.bfloat16
    with exact(x), autocast(x, None):  # neither turns it on
        assert autocast_type(x) is None


def test_on_meta_an_error_leaves_it_as_it_was() -> None:
    x, kind = torch.zeros(1, device="meta"), torch.get_autocast_dtype("cuda")
    with pytest.raises(ZeroDivisionError), autocast(x, torch.bfloat16):
        assert torch.get_autocast_dtype("cuda") == torch.bfloat16
        raise ZeroDivisionError
    assert autocast_type(x) is None and torch.get_autocast_dtype("cuda") == kind


def test_what_has_its_type_is_itself() -> None:
    x = torch.zeros(1)
    assert typed(x, torch.float32) is x and typed(x, torch.bfloat16).dtype == torch.bfloat16
