"""On how many machines and processes a run is, in numbers and in words."""

from __future__ import annotations

import pytest

from cluster.config.shape import Shape


@pytest.mark.parametrize(
    ("shape", "world", "words"),
    [
        (Shape.of(1, None, 0), 1, "1 process"),
        (Shape.of(1, 2, 0), 2, "2 processes"),
        (Shape.of(1, None, 1), 1, "1 GPU"),
        (Shape.of(2, None, 8), 16, "2 nodes with 8 GPUs"),
        (Shape.of(3, 4, 1), 12, "3 nodes with 4 processes and 1 GPU"),
        (Shape.of(1, 1, 4), 1, "1 process and 4 GPUs"),
    ],
)
def test_processes_are_one_a_gpu_unless_said(shape: Shape, world: int, words: str) -> None:
    assert (shape.world, str(shape)) == (world, words)
