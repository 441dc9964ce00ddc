"""Spikes, packed at as many bits as their largest value has."""

from __future__ import annotations

import torch

from tdformer.packing import add, bounded, pack


def test_a_sum_takes_the_bits_of_its_largest_value() -> None:
    spikes = bounded((torch.rand(2, 3, 4, 5, 5) < 0.5).float(), 1)
    x, widths = spikes, []
    for _ in range(16):
        widths.append(pack(x)[1].bits)
        assert torch.equal(pack(x)[1].unpack(pack(x)[0]), x)
        x = add(x, spikes)
    assert widths == [1, 2, 2] + [4] * 12 + [8]
    assert pack(spikes)[0] is pack(spikes)[0]  # q, k and v share one copy
