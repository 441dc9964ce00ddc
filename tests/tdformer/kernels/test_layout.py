"""On a GPU channels lie last from the picture to the head: nothing turns an activation, and it computes the same."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tdformer import TDFormer, create_model, kernels, segment_loss, unit
from tdformer.measure.operations import Counted, count
from tdformer.measure.rated import measure_rated
from tdformer.norm import norm_batch
from tdformer.precision import autocast
from tdformer.unit import Current, Unit

BATCH = 4


_aten = torch.ops.aten
UNSEEN = {_aten.new_empty, _aten.convolution}
"""What reads nothing; and cuDNN's, which writes as it reads: meta, which knows no device, says contiguous."""


class Turned(TorchDispatchMode):
    """Counts operators that read and write activations of four dimensions or more in different orders of memory, but
    for those of weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = {p.shape for p in model.parameters()}
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        result = func(*args, **(kwargs or {}))
        read, made = (
            [x for x in tree_leaves(of) if isinstance(x, Tensor) and x.dim() > 3 and x.shape not in self.weights]
            for of in ((args, kwargs), result)
        )
        old = {x.untyped_storage()._cdata for x in read}
        if func._overloadpacket in UNSEEN:
            return result
        writes = func._schema.is_mutable or any(x.untyped_storage()._cdata not in old for x in made)
        if writes and any(x.dim() == y.dim() and turned(x, y) for x, y in combinations([*read, *made], 2)):
            self.found[f"{func._overloadpacket.__name__} {[tuple(x.shape) for x in (*read, *made)]}"] += 1
        return result


def turned(x: Tensor, y: Tensor) -> bool:
    """Whether two dimensions lie in one order in x and in the other in y."""

    def order(of: Tensor, i: int, j: int) -> bool | None:
        known = of.shape[i] > 1 and of.shape[j] > 1 and of.stride(i) and of.stride(j)
        return of.stride(i) > of.stride(j) if known else None

    pairs = [(order(x, i, j), order(y, i, j)) for i, j in combinations(range(x.dim()), 2)]
    return any(a is not None and b is not None and a != b for a, b in pairs)


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of kernels that were given what does not lie channels last."""
    found: list[str] = []

    def watched(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            for x in tree_leaves(args):
                if isinstance(x, Tensor) and x.dim() > 3 and all(x.stride()) and not x.movedim(-3, -1).is_contiguous():
                    found.append(f"{name} {tuple(x.shape)} {x.stride()}")
            return real(*args)

        return call

    for name in ("statistics", "fire", "fire_backward", "norm_backward"):
        monkeypatch.setattr(kernels.meta, name, watched(name, getattr(kernels.meta, name)))
    return found


NAMES = ["quickstart", "tiny_hst_dvs", "tiny_spikformer_imagenet", "tiny_sdt_imagenet"]
WAYS = [(1, "none", True), (2, "none", False), (2, "unit", True), (2, "block", True), (2, "time", False)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("segments", "policy", "bf16"), WAYS)
def test_no_operator_of_a_step_turns_an_activation(
    name: str, segments: int, policy: str, bf16: bool, entered: list[str]
) -> None:
    with torch.device("meta"):
        model = create_model(name, time_steps=4, segments=segments, feedback="all" if segments > 1 else "none")
        model.set_recompute(policy)
        pixels = model.config["in_channels"], *model.config["image_size"]
        frames = [4] * name.endswith("dvs")
        images = torch.zeros(*frames, BATCH, *pixels[1:], pixels[0]).movedim(-1, -3)
        targets = torch.zeros(BATCH, dtype=torch.long)
    with kernels.stands_for("cuda"), Turned(model) as seen, autocast(images, torch.bfloat16 if bf16 else None):
        segment_loss(model.train()(images), targets).backward()
    assert not entered and not seen.found


@pytest.mark.parametrize("segments", [1, 2])
def test_a_picture_that_lies_otherwise_is_turned_once(segments: int) -> None:
    with torch.device("meta"):
        model, images = create_model("tiny_spikformer", segments=segments), torch.zeros(BATCH, 3, 16, 16)
    with kernels.stands_for("cuda"), Turned(model) as seen:
        model.train()(images).sum().backward()
    assert sum(seen.found.values()) == 1, seen.found


def test_only_what_pools_over_a_heads_channels_turns_them() -> None:
    """As the published network for CIFAR10-DVS does."""
    with torch.device("meta"), kernels.stands_for("cuda"):
        model, frames = create_model("tiny_sdt_dvs", time_steps=4), torch.zeros(4, BATCH, 16, 16, 2).movedim(-1, -3)
        with Turned(model) as seen:
            model.train()(frames).sum().backward()
    pooling = {"max_pool2d_with_indices", "max_pool2d_with_indices_backward", "clone", "mul"}
    assert {line.split()[0] for line in seen.found} == pooling


FAMILIES = ["tiny_hst", "tiny_hst_dvs", "tiny_spikformer", "tiny_sdt", "tiny_sdt_dvs"]


@pytest.mark.parametrize(("name", "parted"), [*((name, False) for name in FAMILIES), ("tiny_hst", True)])
def test_a_model_computes_what_it_does_where_they_lie_first(
    name: str, parted: bool, tiny: Callable[..., TDFormer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp64, by PyTorch's kernels, with a GPU's layout on CPU. Sums come in another order: results differ by less
    than 1e-9 of the largest of their kind."""
    model = tiny(name, time_steps=4, segments=2, feedback="all")
    model.set_recompute("none")  # packing would ask for Triton's interpreter
    if parted:  # every image a slice, every two a norm batch
        monkeypatch.setattr(unit, "SLICE", 1)
        norm_batch(model, 2)
    pixels = BATCH, model.config["in_channels"], *model.config["image_size"]
    images = torch.rand(4, *pixels, dtype=torch.float64) if "dvs" in name else torch.rand(pixels, dtype=torch.float64)
    lay: list[bool] = []
    for part in model.modules():
        if isinstance(part, Unit | Current):
            part.register_forward_hook(lambda _, __, output: lay.append(output.movedim(2, 4).is_contiguous()))

    def computed() -> list[Tensor]:
        lay.clear()
        before = copy.deepcopy(model.state_dict())
        logits = model.train()(images)
        segment_loss(logits, torch.arange(BATCH)).backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found = [logits.detach(), gradients, *(b.clone() for b in model.buffers())]
        model.load_state_dict(before)
        model.zero_grad()
        return found

    first = computed()
    assert not all(lay) and (first[0][0, 0] != first[0][0, 1]).any() and first[1].any()
    monkeypatch.setenv("TDFORMER_KERNELS", "gpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    last = computed()
    assert lay and all(lay)
    for a, b in zip(first, last, strict=True):
        assert (a - b).abs().max() <= 1e-9 * a.abs().max()


@pytest.mark.parametrize("name", ["tiny_spikformer", "tiny_sdt"])
def test_operations_are_counted_as_where_they_lie_first(
    name: str, tiny: Callable[..., TDFormer], calibrate: Callable[..., TDFormer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(name, time_steps=2, segments=2, feedback="all")
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    calibrate(model, images)

    def counted() -> tuple[Counted, float]:
        with measure_rated(model) as rated, torch.no_grad():
            model(images)
        return count(model, images), float(rated.pj)

    first = counted()
    monkeypatch.setenv("TDFORMER_KERNELS", "gpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert counted() == first and not first[0].unknown


def test_meta_stands_for_one_device_at_a_time() -> None:
    x = torch.zeros(1, 1, 2, 3, 3, device="meta")
    here = kernels.standing()
    with kernels.stands_for("cuda"):
        assert kernels.channels_last(x) and not kernels.channels_last(torch.zeros(1, 1, 2, 3, 3))
        with pytest.raises(ZeroDivisionError), kernels.stands_for("cpu"):
            assert not kernels.channels_last(x)
            raise ZeroDivisionError
        assert kernels.standing() == "cuda"
    assert kernels.standing() == here


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("front", [(2,), (3, 2)], ids=["images", "steps of images"])
def test_activations_are_made_as_their_device_keeps_them(device: str, front: tuple[int, ...]) -> None:
    shape, last = (*front, 5, 3, 4), device == "cuda"
    with torch.device("meta"), kernels.stands_for(device):
        x = torch.zeros(shape)
        own, made = kernels.laid(x), kernels.empty(x, *shape, dtype=torch.bfloat16)
        assert own.shape == made.shape == shape and made.dtype == torch.bfloat16
        assert made.stride() == own.stride() and own.movedim(-3, -1).is_contiguous() == last
        assert (own is x) != last and kernels.laid(own) is own
