"""Seconds of work on a GPU, by hand: what each part is made of, and where the rates are from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import RunError
from cluster.plan import rates
from cluster.plan.chips import chip
from tdformer.measure import Work

H100 = chip("h100")
ROW: rates.Shares = {
    "matrix_flop": 0.5,
    "matrix_byte": 0.8,
    "neuron_byte": 0.4,
    "other_byte": 0.2,
    "packing_byte": 0.1,
    "operator_us": 3.0,
    "host_operator_us": 5.0,
    "host_call_us": 7.0,
}
WORK = Work(
    operators=10,
    launches=12,
    matrix_flops=100,
    matrix_bytes=20,
    attention_flops=30,
    attention_bytes=4,
    neuron_bytes=50,
    neuron_calls=6,
    packing_bytes=70,
    other_bytes=8,
)


def test_each_share_is_of_its_peak() -> None:
    found = rates.of_row(H100, "bf16", False, ROW, "by hand")
    flop, byte = 1 / (H100.tflops["bf16"] * 1e12), 1 / (H100.bandwidth * 1e12)
    assert found.source == "by hand" and found.matrix_flop == pytest.approx(flop / 0.5)
    bytes_of = (found.matrix_byte, found.neuron_byte, found.other_byte, found.packing_byte)
    assert bytes_of == pytest.approx([byte / 0.8, byte / 0.4, byte / 0.2, byte / 0.1])
    assert (found.operator, found.host_operator, found.host_call) == pytest.approx((3e-6, 5e-6, 7e-6))
    with pytest.raises(RunError, match="^v100 has no bf16; set train.precision=fp16 or fp32$"):
        rates.of_row(chip("v100"), "bf16", False, ROW, "by hand")


def test_parts_are_made_of_their_work_alone() -> None:
    found = rates.Rates(1, 10, 100, 1000, 10_000, 100_000, 3, 5, "by hand")
    assert found.parts(WORK) == {
        "matrix": 100 + 10 * 20,
        "attention": 30 + 1000 * 4,
        "neuron": 100 * 50,
        "other": 1000 * 8 + 10_000 * 70 + 100_000 * 10,
    }
    assert tuple(found.parts(WORK)) == rates.PARTS
    assert found.launching(WORK) == 3 * 10 + 5 * 6 and found.optimizer(9) == 9000
    assert found.training([WORK]) == found.parts(WORK) | {"host": found.host([WORK])}
    slow = replace(found, host_operator=10**9)
    assert slow.training([WORK])["host"] > 0 == found.training([WORK])["host"]


def test_where_they_are_from() -> None:
    of_h100 = rates.of_chip(H100, "bf16", False)
    assert of_h100.source.startswith("measured on an H100 (")
    assert rates.of_chip(H100, "fp32", False).source.endswith(", in bf16; its share of the peak taken for fp32")
    a100 = chip("a100")
    scaled = rates.of_chip(a100, "bf16", False)
    assert scaled.source.startswith("scaled by the datasheets from an H100 (")
    assert scaled.matrix_flop / of_h100.matrix_flop == pytest.approx(H100.tflops["bf16"] / a100.tflops["bf16"])
    assert scaled.other_byte / of_h100.other_byte == pytest.approx(H100.bandwidth / a100.bandwidth)
    assert scaled.host_operator == of_h100.host_operator  # the host is another's
