"""What another library says of memory that runs out is known, and nothing else is taken for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import no_memory


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: torch.UntypedStorage(2**60),
        lambda: np.empty(2**60, np.uint8),
        lambda: bytearray(2**60),
        lambda: _raise(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
        lambda: _raise(RuntimeError("CUDA error: out of memory")),
        lambda: _raise(RuntimeError("std::bad_alloc")),
        lambda: _raise(OSError(12, "Cannot allocate memory")),
    ],
)
def test_every_way_to_say_it_is_known(ask: Callable[[], Any]) -> None:
    with pytest.raises((RuntimeError, MemoryError, OSError)) as error:
        ask()
    line = no_memory(error.value)
    assert line is not None and "memory has run out (" in line and "\n" not in line


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), OSError(2, "No such file"), KeyError("memory")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert no_memory(error) is None


def _raise(error: Exception) -> None:
    raise error
