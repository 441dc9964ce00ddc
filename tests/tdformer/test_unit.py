"""The unit against autograd through convolution, BatchNorm, pooling and the neuron, in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdformer.neuron import lif
from tdformer.state import Keep, State, name_units
from tdformer.unit import Current, Layer, Unit, UnitOptions


@pytest.mark.parametrize("frozen", [False, True])
def test_a_bias_before_batchnorm(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch's own mean takes it away; one that stands lets it through. Where channels lie last it takes no sum."""
    layer = Current(UnitOptions(), 3, 5, kernel=3, bias=True, pool=True).double()
    layer.norm.frozen = frozen
    x, grad = torch.randn(2, 3, 3, 8, 6, dtype=torch.float64), torch.randn(2, 3, 5, 4, 3, dtype=torch.float64)

    def computed() -> Tensor:
        layer.zero_grad()
        layer.train()(x, State()).backward(grad)
        assert layer.conv.bias is not None and layer.conv.bias.grad is not None
        return layer.conv.bias.grad

    first = computed()
    monkeypatch.setenv("TDFORMER_KERNELS", "gpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    last = computed()
    torch.testing.assert_close(last, first, rtol=1e-9, atol=1e-12)
    assert last.all() if frozen else not last.any() and first.any()


LAYERS: dict[str, Layer] = {
    "linear": {},
    "3 x 3": {"kernel": 3, "bias": True},
    "pooled": {"kernel": 3, "pool": True},
    "with a stride": {"kernel": 3, "stride": 2},
    "linear with a stride": {"stride": 2, "bias": True},
    "without parameters of BatchNorm": {"affine": False},
}


def parts(unit: Unit, more: nn.Conv2d | None, x: Tensor, other: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Spikes and the last membrane, one operator a line."""
    conv, norm = unit.current.conv, unit.current.norm
    y = F.conv2d(x.flatten(0, 1), conv.weight, conv.bias, conv.stride, conv.padding)
    if more is not None:
        y = y + F.conv2d(other.flatten(0, 1), more.weight, None, conv.stride, conv.padding)
    known = (norm.running_mean[0], norm.running_var[0]) if norm.frozen else (None, None)
    z = F.batch_norm(y, *known, norm.weight, norm.bias, training=not norm.frozen)
    z = F.max_pool2d(z, 3, 2, 1) if unit.current.pool else z
    return lif(z.unflatten(0, x.shape[:2]).expand(steps, -1, -1, -1, -1), None, unit.neuron.options)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("given", [1, 4], ids=["a picture", "frames"])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_it_is_its_parts(layer: str, packed: bool, given: int, second: bool, frozen: bool) -> None:
    unit = Unit(UnitOptions(), 3, 5, **LAYERS[layer]).double()
    name_units(unit)
    unit.current.norm.frozen = frozen  # then a bias has a gradient
    unit.current.norm.running_mean.fill_(-0.2), unit.current.norm.running_var.fill_(0.05)
    unit.train()
    more = nn.Conv2d(3, 5, unit.current.conv.kernel_size, bias=False).double() if second else None
    if unit.current.norm.bias is not None:
        nn.init.uniform_(unit.current.norm.bias, 0.5, 1.5)
    x = (torch.rand(given, 2, 3, 7, 6) < 0.4).double().requires_grad_()
    other = (torch.rand(given, 2, 3, 7, 6) < 0.4).double().requires_grad_()
    wanted = [x, *unit.parameters(), *((other, more.weight) if more is not None else ())]
    state = State(steps=4, keep=Keep(packed))
    spikes, membrane = unit(x, state, other if second else None, more), state.membrane["neuron"]
    expected, last = parts(unit, more, x, other, 4)
    assert torch.equal(spikes, expected) and 0.02 < spikes.mean() < 0.95
    torch.testing.assert_close(membrane, last)
    a, b = torch.randn_like(spikes), torch.randn_like(membrane)
    got = torch.autograd.grad((spikes * a).sum() + (membrane * b).sum(), wanted)
    want = torch.autograd.grad((expected * a).sum() + (last * b).sum(), wanted)
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)


def test_a_segment_goes_on_where_the_one_before_it_ended() -> None:
    unit = Unit(UnitOptions(), 3, 5).double().eval()
    name_units(unit)
    nn.init.ones_(unit.current.norm.bias)
    x, whole, cut = torch.randn(4, 2, 3, 5, 5, dtype=torch.float64), State(), State()
    with torch.no_grad():
        expected, found = unit(x, whole), [unit(part, cut) for part in x.split([1, 3])]
    assert torch.equal(torch.cat(found), expected) and expected.any()
    assert torch.equal(cut.membrane["neuron"], whole.membrane["neuron"])


def test_across_batch_is_one_sequence_of_images_of_all_steps() -> None:
    unit = Unit(UnitOptions(), 3, 5, across_batch=True).double()
    nn.init.ones_(unit.current.norm.bias)
    x = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64)
    current = unit.drive(x, State()).flatten(0, 1)
    assert torch.equal(unit(x, State()).flatten(0, 1), lif(current, None, unit.neuron.options)[0])


def test_it_computes_with_the_parameters_of_its_parts() -> None:
    unit = Unit(UnitOptions(), 3, 5, bias=True)
    borrowed = list(unit.borrows())
    assert {id(module) for module, _ in borrowed} == {id(unit)}
    assert [id(p) for _, p in borrowed] == [id(p) for p in unit.parameters()] and len(borrowed) == 4
