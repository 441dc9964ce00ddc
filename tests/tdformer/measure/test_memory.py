"""Live bytes and the work of a step, each against what is written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tdformer import create_model, heads, kernels
from tdformer.measure import live_bytes, measure_evaluation, measure_step


def test_launches_of_convolutions() -> None:
    """cuDNN has one kernel, and two in backward; a 1 x 1 is products, each an operator of its own."""
    with torch.device("meta"), kernels.stands_for("cuda"):
        model = create_model("quickstart")
        work = measure_step(model, torch.zeros(4, 1, 28, 28))[0].work
    convolutions = sum(isinstance(m, nn.Conv2d) and m.kernel_size[0] == 3 for m in model.modules())
    assert convolutions and work.launches == work.operators + convolutions


def test_bytes_live_from_their_first_tensor_until_the_last_is_gone() -> None:
    model = nn.Linear(1, 1)
    with live_bytes(model) as live:
        a = torch.zeros(1000)
        view = a.view(10, 100)
        assert live.now == 4000  # one storage, once
        b = a + 1
        del a
        assert live.now == 8000 and view.any() == 0
        del view, b
    assert live.now < 100 and live.peak >= 8000 and max(live.timeline) == live.peak
    before = live.now
    torch.zeros(1000)
    assert live.now == before  # nobody counts any longer


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_work_of_a_convolution(device: str) -> None:
    """2 a multiply-add; backward is two as large, one where the input needs no gradient."""
    with torch.device(device):
        layer, x = nn.Conv2d(3, 5, 3, padding=1), torch.zeros(2, 3, 8, 8)
    once, weights = 2 * 2 * 8 * 8 * 5 * 3 * 9, sum(p.numel() for p in layer.parameters()) * 4
    with live_bytes(layer, [x]) as live:
        y = layer(x)
        assert live.now == 2 * 5 * 8 * 8 * 4
        read = x.nbytes + sum(p.nbytes for p in layer.parameters())
        assert (live.work.matrix_flops, live.work.matrix_bytes) == (once, read + y.nbytes)
        assert (live.work.operators, live.work.flops) == (1, once)
        y.sum().backward()
    assert live.work.matrix_flops == 2 * once and live.gradients == weights
    assert live.together >= live.peak and live.then <= live.gradients
    x.requires_grad_()
    with live_bytes(layer, [x]) as again:
        layer(x).sum().backward()
    assert again.work.matrix_flops == 3 * once


def test_products_of_activations_are_told_from_those_of_matrices() -> None:
    with live_bytes(nn.Linear(1, 1)) as live:
        a, b = torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)
        a @ b
        (a > 0).to(torch.uint8)
    assert live.work.attention_flops == 2 * 2 * 3 * 4 * 5 and live.work.matrix_flops == 0
    assert live.work.attention_bytes == a.nbytes + b.nbytes + 2 * 3 * 5 * 4
    assert live.work.packing_bytes > 0


def test_products_of_heads_where_channels_lie_last() -> None:
    """K^T V and Q times that, each 2 a multiply-add over a head's channels, for each token; backward is five such."""
    with torch.device("meta"), kernels.stands_for("cuda"):
        q, k, v = (torch.zeros(3, 2, 8, 4, 5, requires_grad=True) for _ in range(3))
        with live_bytes(nn.Linear(1, 1)) as live:
            y = heads.product(q, k, v, 2, 0.125)
            assert live.work.attention_flops == 3 * 2 * 2 * 20 * 2 * (2 * 4 * 4)  # two heads of four channels
            y.backward(torch.zeros_like(y))
    assert live.work.attention_flops == 3 * 2 * 2 * 20 * 7 * (2 * 4 * 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_by_operators_copy_heads_and_those_of_a_program_do_not(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On meta as where they are computed. Of four channels a head and 20 pixels a square is a fifth of a tensor: two
    and copies of k and v are there at the peak of forward; of backward two, copies of all four, two
    gradients, and the third as a product and as it lies."""
    monkeypatch.setenv("TDFORMER_KERNELS", "gpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = []
    for device in ("meta", "cpu")[: 1 + (dtype == torch.float32)]:
        q, k, v, grad = (torch.zeros(3, 2, 4, 5, 8, dtype=dtype, device=device).movedim(-1, 2) for _ in range(4))
        with kernels.stands_for("cuda"), live_bytes(nn.Identity(), (q, k, v, grad)) as live:
            y = kernels.product(q, k, v, 2, 0.125)
            forward, live.peak = live.peak - live.now, live.now
            made = kernels.product_backward(grad, q, k, v, 2, 0.125)
            assert live.now == 4 * q.nbytes
        found.append((forward / y.nbytes, (live.peak - live.now) / made[0].nbytes, live.work))
    copied = 2 * 0.2 + 2 - 1, 2 * 0.2 + 4 + 4 - 3
    assert found[0][:2] == pytest.approx(copied if dtype == torch.float32 else (0, 0))
    assert all(one == found[0] for one in found)


def test_of_several_segments_more_is_kept_and_the_work_is_the_same() -> None:
    with torch.device("meta"):
        images = torch.zeros(4, 1, 28, 28)
        one, two = (create_model("quickstart", segments=segments, recompute="none") for segments in (1, 2))
        (whole, live), (cut, _) = measure_step(one, images), measure_step(two, images)
        passed = measure_evaluation(one, images)
    assert 0 < whole.kept <= whole.peak <= whole.together == live.together
    assert whole.flops == whole.work.matrix_flops + whole.work.attention_flops
    assert cut.work.attention_flops == whole.work.attention_flops
    assert cut.flops > whole.flops  # a picture is convolved once a segment
    assert 2.5 * passed.flops < whole.flops < 3 * passed.flops  # its first layer has no gradient to pass on
    assert [noted.operators for noted in whole.course[:-1]] == list(range(64, whole.work.operators + 1, 64))
    assert all(p.grad is None for p in one.parameters())
