"""The kernels on meta: shapes and types are those that are computed, and what a watch is told are their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from tdformer.kernels import Drive, Means, meta, reference, stands_for
from tdformer.kernels.protocol import Norm
from tdformer.options import NeuronOptions

SHAPE = (3, 2, 16, 7, 6)


def drive(pool: bool, normed: bool, neuron: bool, carried: bool, given: int) -> Drive:
    """On CPU."""
    y, *size = torch.randn(given, *SHAPE[1:]), *SHAPE[3:]
    image = [(n + 1) // 2 for n in size] if pool else size
    norm = Norm(*reference.statistics(y), torch.ones(16), torch.zeros(16)) if normed else None
    membrane = torch.randn(2, 16, *image) if carried else None
    decay, options = (torch.full((16,), 0.5), NeuronOptions()) if neuron else (None, None)
    return Drive(y, norm, membrane, decay, options, pool)


def on_meta(x: Tensor | tuple | None) -> object:
    if isinstance(x, tuple):
        made = (on_meta(part) for part in x)
        return type(x)(*made) if hasattr(x, "_fields") else tuple(made)
    return x.to("meta") if isinstance(x, Tensor) else x


CASES = [
    (pool, normed, neuron, carried, given)
    for pool in (False, True)
    for normed in (False, True)
    for neuron in (False, True)
    for carried in (False, True)
    for given in (1, 3)
    if (neuron or (normed and not carried and given == 3))
]


def alike(made: tuple[Tensor | None, ...], wanted: tuple[Tensor | None, ...], *but: str) -> None:
    for name, a, b in zip(made._fields, made, wanted, strict=True):
        if name not in but:
            assert (a is None) == (b is None), name
            assert a is None or (a.is_meta and (a.shape, a.dtype) == (b.shape, b.dtype)), name


@pytest.mark.parametrize("case", CASES)
def test_as_a_cpu_it_has_the_shapes_and_types_that_are_computed(case: tuple) -> None:
    real = drive(*case)
    planned = on_meta(real)
    assert isinstance(planned, Drive)
    with stands_for("cpu"):
        spikes, membrane, _ = fired = reference.fire(real, 3)
        alike(meta.fire(planned, 3), fired)
        grads = torch.randn_like(spikes), torch.randn_like(membrane) if real.membrane is not None else None
        found = reference.fire_backward(real, *grads)
        again = meta.fire_backward(planned, *on_meta(grads))
        alike(again, found)
        if real.norm is not None:
            means = Means(*torch.zeros(2, 16))
            wanted = reference.norm_backward(real, *grads, found, means, False)
            got = meta.norm_backward(planned, *on_meta(grads), again, on_meta(means), False)
            assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    for made, wanted in zip(meta.statistics(planned.y), reference.statistics(real.y), strict=True):
        assert (made.shape, made.dtype) == (wanted.shape, wanted.dtype)


@pytest.mark.parametrize(("bits", "last"), [(False, False), (True, False), (False, True), (True, True)])
def test_as_a_gpu_it_makes_what_is_asked_for_channels_last(bits: bool, last: bool) -> None:
    planned = on_meta(drive(True, True, True, True, 3))
    assert isinstance(planned, Drive)
    with stands_for("cuda"):
        fired = meta.fire(planned, 3, bits, last)
        assert fired.spikes.movedim(2, 4).is_contiguous() and (fired.membrane is None) == last
        assert (fired.bits is not None) == bits
        assert fired.bits is None or fired.bits.shape == (3, 2, 16 * 4 * 3 // 8)
        odd = planned._replace(y=planned.y[:, :, :12])
        assert meta.fire(odd, 3, True).bits is None  # eight channels a byte


class Told:
    """What was told."""

    def __init__(self) -> None:
        self.moved: list[tuple[str, int]] = []
        self.names: list[str] = []

    def neuron(self, moved: int) -> None:
        self.moved.append(("neuron", moved))

    def packing(self, moved: int) -> None:
        self.moved.append(("packing", moved))

    @contextmanager
    def kernel(self, name: str, args: tuple[object, ...]) -> Iterator[None]:
        self.names.append(name)
        yield


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_packed_bytes_are_those_of_the_reference_and_told(bits: int) -> None:
    x, told = torch.randint(0, 1 << bits, (3, 5, 7)).float(), Told()
    planned, data = x.to("meta"), reference.pack(x, bits)
    with meta.watched(told):
        packed = meta.pack(planned, bits)
        total, both = meta.add_pack(planned, planned, bits)
        values = meta.unpack(packed, bits, 35, torch.bfloat16)
    assert packed.shape == both.shape == data.shape and total.shape == x.shape
    assert values.shape == reference.unpack(data, bits, 35, torch.bfloat16).shape == (3, 35)
    whole = x.nbytes
    moved = [whole + data.nbytes, 3 * whole + data.nbytes, data.nbytes + whole // 2]
    assert told.moved == [("packing", count) for count in moved]
    assert told.names == ["pack", "add_pack", "unpack"]
    meta.pack(planned, bits)
    assert len(told.moved) == 3  # nobody watches


def test_a_neuron_reads_its_current_and_its_membrane_and_writes_its_spikes_and_what_it_leaves() -> None:
    real, told = drive(False, False, True, True, 3), Told()
    with stands_for("cpu"), meta.watched(told):
        meta.fire(on_meta(real), 3)
    assert real.membrane is not None
    assert told.moved == [("neuron", 2 * real.y.nbytes + 2 * real.membrane.nbytes)] and told.names == ["fire"]
