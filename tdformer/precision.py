"""Autocast where our own backward has to know of it. The meta device has none: it plans bf16 as CUDA would run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor


def autocast_type(x: Tensor) -> torch.dtype | None:
    """The type that autocast computes in on x's device, None where it is off."""
    device = _device(x)
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


@contextmanager
def autocast(x: Tensor, dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast as `autocast_type` found it, for x's device."""
    if dtype is None and not torch.is_autocast_enabled(_device(x)):
        yield  # as it is: each that is entered is a graph of its own in an exported program
        return
    if not x.is_meta:
        with torch.autocast(_device(x), dtype, enabled=dtype is not None):
            yield
        return
    # torch.autocast would turn itself off where there is no GPU
    before, kind = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", dtype is not None)
    torch.set_autocast_dtype("cuda", dtype or kind)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before)
        torch.set_autocast_dtype("cuda", kind)


class exact(AbstractContextManager[None]):
    """No autocast on x's device: what is inside says its types itself. Torch's own context takes several times as long,
    and each unit enters one in both directions."""

    def __init__(self, x: Tensor) -> None:
        self.device = _device(x)

    def __enter__(self) -> None:
        self.on = torch.is_autocast_enabled(self.device)
        if self.on:
            torch.set_autocast_enabled(self.device, False)

    def __exit__(self, *_: object) -> None:
        if self.on:
            torch.set_autocast_enabled(self.device, True)


def typed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in a type: itself where it has it, for `x.to` would be two operators of an exported program."""
    return x if x.dtype == dtype else x.to(dtype)


def _device(x: Tensor) -> str:
    return "cuda" if x.is_meta else x.device.type
