"""The reference: autograd through BatchNorm, pooling and neuron, in fp64; small integers that are seen, and packed bit
by bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tdformer import kernels
from tdformer.kernels import Drive, Means, Norm, reference
from tdformer.options import NeuronOptions


def test_the_reference_is_autograd_through_batch_norm_pooling_and_neuron() -> None:
    """In fp64, against F.batch_norm, F.max_pool2d and the neuron's own test (`test_neuron`)."""
    from tdformer.neuron import lif

    o = NeuronOptions()
    y = torch.randn(3, 2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    gamma, beta = torch.rand(4, dtype=torch.float64) + 0.5, torch.rand(4, dtype=torch.float64)
    gamma.requires_grad_()
    z = torch.nn.functional.batch_norm(y.flatten(0, 1), None, None, gamma, beta, True)
    expected, _ = lif(torch.nn.functional.max_pool2d(z, 3, 2, 1).unflatten(0, (3, 2)), None, o)
    mean, var = reference.statistics(y.detach().flatten(0, 1))
    invstd = (var + 1e-5).rsqrt()
    scale = gamma.detach() * invstd
    norm = Norm(mean, invstd, scale, beta - mean * scale)
    decay = torch.full((4,), 0.5, dtype=torch.float64)
    drive = Drive(y.detach(), norm, None, decay, o, True)
    spikes, *_ = reference.fire(drive, 3)
    assert torch.equal(spikes, expected.detach())
    grad = torch.randn_like(spikes)
    want = torch.autograd.grad(expected, (y, gamma), grad)
    got = reference.fire_backward(drive, grad, None)
    count = 3 * 2 * 36
    means = Means(got.total / count, got.total_normal / count)
    grad_y = reference.norm_backward(drive, grad, None, got, means, False)
    torch.testing.assert_close(grad_y, want[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(got.total_normal, want[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("values", "largest"),
    [([0.0, 1.0], 1), ([0.0, 255.0], 255), ([0.0, 256.0], None), ([0.5, 1.0], None), ([-1.0, 1.0], None)]
    + [([float("nan"), 1.0], None), ([float("inf"), 0.0], None)],
)
def test_what_does_not_fit_a_byte_is_seen(values: list[float], largest: int | None) -> None:
    assert kernels.largest_integer(torch.tensor(values)) == largest


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_first_value_of_a_byte_is_in_its_lowest_bits(bits: int) -> None:
    values = torch.randint(0, 1 << bits, (2, 13))
    data = reference.pack(values.float(), bits)
    whole = [sum(int(value) << (bits * i) for i, value in enumerate(image)) for image in values]
    assert [int.from_bytes(bytes(image.tolist()), "little") for image in data] == whole
    assert torch.equal(reference.unpack(data, bits, 13, torch.int64), values)


def test_nothing_is_a_small_integer() -> None:
    assert reference.largest_integer(torch.zeros(0)) == 0


@pytest.mark.parametrize("affine", [False, True])
def test_normalised_currents_are_those_of_batch_norm(affine: bool) -> None:
    y = torch.randn(3, 2, 5, 4, 4, dtype=torch.float64) * 3 + 1
    weight, bias = torch.randn(2, 5, dtype=torch.float64) if affine else (None, None)
    norm = reference.affine(*reference.statistics(y), weight, bias, 1e-5)
    wanted = F.batch_norm(y.flatten(0, 1), None, None, weight, bias, True).unflatten(0, (3, 2))
    currents = reference.fire(Drive(y, norm, None, None, None), 3)
    torch.testing.assert_close(currents.spikes, wanted)
    assert currents.membrane is None
