"""The kernels on the meta device: what they would allocate, and nothing else. Memory is planned with them."""

from __future__ import annotations

import torch
from torch import Tensor

from .protocol import Drive, Gradients, Means, Norm


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape[1], dtype=torch.float32), y.new_empty(y.shape[1], dtype=torch.float32)


def fire(drive: Drive, steps: int) -> tuple[Tensor, Tensor]:
    spikes = drive.y.new_empty(steps, *_image(drive))
    return spikes, spikes.new_empty(spikes.shape[1:], dtype=torch.float32)


def fire_backward(drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
    grad = drive.y.new_empty(len(drive.y), *_image(drive), dtype=torch.float32)
    before = None if drive.membrane is None else torch.empty_like(drive.membrane)
    return Gradients(grad, before, *grad.new_empty(3, drive.y.shape[2]))


def norm_backward(y: Tensor, norm: Norm, grad: Tensor, means: Means, pool: bool) -> Tensor:
    return y


def _image(drive: Drive) -> list[int]:
    """B, C, h, w."""
    *front, height, width = drive.y.shape[1:]
    return [*front, (height + 1) // 2, (width + 1) // 2] if drive.pool else [*front, height, width]
