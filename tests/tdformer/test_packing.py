"""Packing: as many bits as the largest value needs, once; what nobody knows is looked at, and no float is kept
beside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tdformer import create_model, kernels, segment_loss
from tdformer.packing import add, bits_of, bound_of, bounded, keep_bits, pack, split


@pytest.mark.parametrize("name", ["tiny_hst_imagenet", "tiny_spikformer_imagenet", "tiny_sdt_imagenet", "tiny_hst_dvs"])
def test_only_what_nobody_knows_is_looked_at(tiny, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a look is a wait. Of frames nobody knows whether they are small integers, unless somebody says it."""
    looked: list[Tensor] = []
    real = kernels.largest_integer
    monkeypatch.setattr(kernels, "largest_integer", lambda x: (looked.append(x), real(x))[1])
    frames = name.endswith("dvs")
    model = tiny(name, torch.float32, recompute="unit", time_steps=4, segments=2, feedback="all")
    images = torch.randint(0, 3, (4, 2, 2, 32, 32)).float() if frames else torch.rand(2, 3, 32, 32)
    model(images).sum().backward()
    assert len(looked) == 2 * frames and all(x.shape[0] == 2 for x in looked)
    model(bounded(images, 2 if frames else None)).sum().backward()
    assert len(looked) == 2 * frames


def test_on_a_gpu_spikes_and_their_sums_are_packed_where_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """By themselves are packed only the keys that a mask has selected, once in each block of Q-K attention."""
    calls: dict[str, list[int]] = {"pack": [], "add_pack": []}
    for name, found in calls.items():
        real = getattr(kernels.meta, name)
        monkeypatch.setattr(
            kernels.meta, name, lambda *args, real=real, found=found: (found.append(args[-1]), real(*args))[1]
        )
    with torch.device("meta"), kernels.stands_for("cuda"):
        model = create_model("hst_4_384", time_steps=2, recompute="unit")
        loss = segment_loss(model(torch.rand(2, 3, 32, 32)), torch.zeros(2, dtype=torch.long))
        attentions = sum(type(part).__name__ == "QKAttention" for part in model.modules())
        assert attentions == 2 and calls["pack"] == [1] * attentions
        embeddings, blocks = 3, 4
        assert len(calls["add_pack"]) == embeddings + 2 * blocks and set(calls["add_pack"]) == {2, 4}
        loss.backward()
    assert len(calls["pack"]) == attentions


def test_the_packed_copy_is_what_is_kept(tiny) -> None:
    """No float of the size of an activation survives the forward pass, but for the membranes at the border."""
    model = tiny("tiny_hst_imagenet", torch.float32, recompute="unit")
    seen: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (seen.append(t), t)[1], lambda t: t):
        model(torch.rand(3, 3, 32, 32))
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    floats = [t for t in seen if t.is_floating_point() and t.untyped_storage().data_ptr() not in parameters]
    assert [t.shape for t in floats if t.dim() > 2 and t.shape[-3:] != (3, 32, 32)] == []  # the picture itself
    assert any(t.dtype == torch.uint8 for t in seen)


BITS = {1: 1, 2: 2, 3: 2, 4: 4, 15: 4, 16: 8, 255: 8, 256: 0}


@pytest.mark.parametrize("largest", BITS)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 2, 3, 3)])
def test_what_is_packed_comes_out_again(largest: int, known: bool, shape: tuple[int, ...]) -> None:
    x = torch.randint(0, largest + 1, shape).bfloat16()
    x.view(-1)[0] = largest
    if known:
        bounded(x, largest)
    data, layout = pack(x)
    assert layout.bits == BITS[largest] and layout.unpack(data).dtype == x.dtype
    assert torch.equal(layout.unpack(data), x) and torch.equal(layout.unpack(data, slice(1, 3)), x[:, 1:3])
    assert not layout.bits or data.shape == (2, 3, -(-x[0, 0].numel() * layout.bits // 8))
    assert pack(x)[0] is data  # once, however many ask


def test_a_bound_that_is_known_is_not_looked_at() -> None:
    """A current is kept whole also where it happens to hold small integers."""
    for bound, bits in ((None, 0), (1, 1), (7, 4)):
        assert pack(bounded(torch.ones(1, 1, 8), bound))[1].bits == bits
    for value in (0.5, -1.0, float("nan")):
        data, layout = pack(x := torch.full((1, 1, 8), value))
        assert layout.bits == 0 and data.data_ptr() == x.data_ptr()


def test_bounds_of_sums_and_parts() -> None:
    spikes, sums, real, unknown = (torch.ones(4, 1, 2, 2, 2) for _ in range(4))
    bounded(spikes, 1), bounded(sums, 3), bounded(real, None)
    assert bound_of(add(spikes, sums)) == 4 and torch.equal(add(spikes, sums), spikes + sums)
    assert bound_of(add(spikes, real)) is None and hasattr(add(unknown, real), "bound")
    assert not hasattr(add(spikes, unknown), "bound")
    assert [bound_of(part) for part in split(sums, 2)] == [3, 3]
    assert not any(hasattr(part, "bound") for part in split(unknown, 2))
    assert torch.equal(torch.cat(split(sums, 4)), sums)


def test_bits_that_were_made_with_the_spikes_are_taken() -> None:
    spikes = bounded(torch.ones(1, 1, 8), 1)
    assert bits_of(keep_bits(spikes, None)) is None
    data = torch.full((1, 1, 1), 255, dtype=torch.uint8)
    assert bits_of(keep_bits(spikes, data)) is data is pack(spikes)[0]
    assert torch.equal(pack(spikes)[1].unpack(data), spikes)
    assert bits_of(bounded(torch.ones(1, 1, 8), 3)) is None and pack(sums := bounded(torch.ones(1, 1, 8), 3))
    assert bits_of(sums) is None  # two bits a value
