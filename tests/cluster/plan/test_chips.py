"""The table of GPUs."""

from __future__ import annotations

import pytest

from cluster.errors import RunError
from cluster.plan.chips import chip, chips, recognised


def test_each_is_known_by_its_name_and_has_a_source() -> None:
    assert len(chips()) > 3
    for name, one in chips().items():
        assert chip(name.upper()) is one and one.source and one.words
        assert one.peak("fp32") == one.tflops["fp32"] * 1e12
        assert min(one.memory_gb, one.bandwidth, one.link) > 0


def test_a_device_is_recognised_by_torchs_name_for_it() -> None:
    found = recognised("NVIDIA H100 80GB HBM3")
    assert found is not None and found.name.startswith("h100")
    full, short = found.peak("fp32"), found.peak("fp32", tf32=True)
    assert full is not None and short is not None and short > 5 * full and found.peak("fp4") is None
    assert recognised("Voodoo 2") is None


def test_another_name_is_one_line_with_the_nearest() -> None:
    name = next(iter(chips()))
    with pytest.raises(RunError, match=f"no GPU is called '{name}x'; did you mean {name}"):
        chip(f"{name}x")
