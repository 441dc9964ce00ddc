"""The operators of a step, with the shapes of their tensors: called alone they compute what the step did."""

from __future__ import annotations

from collections import Counter

import torch

import tdformer
from tdformer import kernels
from tdformer.kernels import Drive, Norm, stands_for
from tdformer.measure import Calls, live_bytes, measure_evaluation, measure_step
from tdformer.measure.calls import Lying


def calls(policy: str, segments: int = 1, bf16: bool = False) -> Calls:
    found = Calls()
    feedback = "all" if segments > 1 else "none"
    with torch.device("meta"), stands_for("cpu"):
        model = tdformer.create_model("quickstart", time_steps=2, segments=segments, feedback=feedback, image_size=8)
        model.set_recompute(policy, 1)
        measure_step(model, torch.zeros(2, model.config["in_channels"], 8, 8), bf16, found)
    return found


def names(found: Calls) -> Counter[str]:
    total: Counter[str] = Counter()
    for call in found:
        total[getattr(call.function, "__name__", str(call.function))] += call.times
    return total


def test_each_runs_alone_on_a_cpu() -> None:
    """Every operator of a step takes tensors that lie as they did there."""
    for policy, segments, bf16 in (("none", 1, False), ("unit", 2, False), ("block", 2, True)):
        found = calls(policy, segments, bf16)
        for call in found:
            args, kwargs = call.arguments()
            call.function(*args, **kwargs)
        assert found.count == sum(call.times for call in found) and len(list(found)) < found.count


def test_what_is_counted() -> None:
    """Of each unit its kernels, and of a policy that computes units again a convolution more for each."""
    none, unit = names(calls("none")), names(calls("unit"))
    units = none["statistics"]
    assert units > 10 and none["fire"] == none["fire_backward"] > units  # attention's own
    assert (
        none["norm_backward"] == none["convolve"] == units
        and unit["convolve"] == 2 * units
        and unit["unpack"] >= units > none["unpack"]
    )
    parts = {call.part for call in calls("unit", 2)}
    assert parts == {"matrix", "attention", "neuron", "other"}
    assert not names(calls("none"))["convolution"]  # it is ours, which knows sparse inputs


def test_tensors_lie_as_they_lay() -> None:
    for x in (torch.randn(3, 4, 5)[:, 1:], torch.randn(4, 6).T, torch.ones(2, 3, dtype=torch.int64), torch.zeros(0, 3)):
        made = Lying.of(x).made()
        assert (made.shape, made.stride(), made.dtype) == (x.shape, x.stride(), x.dtype)
    assert set(Lying((50,), (1,), torch.uint8).made().tolist()) == {0, 1}


def test_bytes_that_an_operator_is_given() -> None:
    found = Calls()
    x, y = torch.zeros(3, 4)[:, 1:], torch.zeros(5, dtype=torch.int64)
    found.add("other", torch.add, (x, 2), {"other": y})
    (call,) = found
    assert call.bytes == 4 * (2 * 4 + 3) + 8 * 5  # from the first number to the last


def test_evaluation_has_its_own() -> None:
    with torch.device("meta"), stands_for("cpu"):
        model = tdformer.create_model("quickstart", time_steps=2, image_size=8)
        found = Calls()
        measure_evaluation(model, torch.zeros(2, model.config["in_channels"], 8, 8), False, found)
    had = names(found)
    assert had["fire"] > had["convolve"] > 10 and not had["statistics"] and not had["fire_backward"]


def test_a_kernel_is_no_sum_of_its_own_operators() -> None:
    """What a kernel's stand-in on meta calls is not counted beside it."""
    found, y, one = Calls(), torch.zeros(2, 3, 4, 5, 5, device="meta"), torch.ones(4, device="meta")
    drive = Drive(y, Norm(one, one, one, one), None, None, None)
    with stands_for("cpu"), live_bytes(torch.nn.Identity(), calls=found):
        kernels.fire(drive, 2)
        y + 1
    assert names(found) == {"fire": 1, "add.Tensor": 1}
