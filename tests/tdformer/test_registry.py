"""Sizes: the parameter counts of the paper's tables, and options that cannot work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tdformer
from tdformer import ModelError, create_model, default_alphas, segment_loss


def parameters(name: str, **options: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, **options).parameters())


UNUSED = {"spikformer_4_384": 6144, "sdt_2_256": 128}  # LayerNorms, talking heads: in the published files only


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("hst_10_384", {}, 16_473_688),
        ("hst_10_512", {}, 29_079_336),
        ("hst_10_768", {}, 64_962_760),
        ("hst_4_384", {}, 6_706_234),
        ("hst_4_384", {"num_classes": 100}, 6_740_884),
        ("spikformer_4_384", {}, 9_330_874 - 6144),
        ("sdt_2_256", {}, 2_567_082 - 128),
        ("sdt_2_512", {}, 10_233_546 - 128),
    ],
)
def test_backbones_have_the_published_number_of_parameters(name: str, options: dict, count: int) -> None:
    assert parameters(name, **options) == count


@pytest.mark.parametrize("cm", [1, 2, 3])
@pytest.mark.parametrize("pm", [1, 2, 3, 4])
@pytest.mark.parametrize("mixer", ["concat", "processing"])
def test_a_fed_back_block_costs_c_squared_plus_c(cm: int, pm: int, mixer: str) -> None:
    for name, blocks, c, printed in (("spikformer_4_384", 4, 384, 992), ("sdt_2_256", 2, 256, 269)):
        fed = parameters(name, feedback="all", segments=2, cm=cm, pm=pm, mixer=mixer)
        assert fed - parameters(name) == blocks * (c * c + c)
        assert (fed + UNUSED[name]) // 10_000 == printed  # the table's two decimals, cut off


@pytest.mark.parametrize(("feedback", "printed"), [("first", 6555), ("last", 6555), ([3], 6555), ("all", 6909)])
def test_the_sizes_of_table_1(feedback: Any, printed: int) -> None:
    for mixer in ("concat", "processing"):
        assert parameters("hst_10_768", feedback=feedback, segments=2, mixer=mixer) // 10_000 == printed


def test_parameters_do_not_depend_on_time() -> None:
    assert len({parameters("hst_4_384", segments=n, feedback="all") for n in (1, 2, 4)}) == 1
    assert parameters("hst_4_384", mixer="add", feedback="all") - parameters("hst_4_384") == 2 * 384


def test_every_listed_model_can_be_made() -> None:
    for name in tdformer.list_models():
        assert parameters(name, segments=2, feedback="all") > parameters(name) > 0


@pytest.mark.parametrize(
    ("name", "shape"),
    [("tiny_hst", (2, 3, 16, 16)), ("tiny_spikformer", (2, 3, 16, 16)), ("tiny_sdt", (2, 3, 16, 16)),
     ("tiny_hst_imagenet", (2, 3, 32, 32)), ("tiny_hst_dvs", (4, 2, 2, 32, 32))],
)  # fmt: skip
def test_shapes_of_the_logits(tiny, name: str, shape: tuple[int, ...]) -> None:
    model = tiny(name, segments=2, feedback="all", num_classes=7, time_steps=4)
    images = torch.rand(shape, dtype=torch.float64)
    assert model(images).shape == (2, 2, 7)
    assert model.eval()(images).shape == (2, 7)


def test_odd_and_oblong_images(tiny) -> None:
    model = tiny("tiny_hst_imagenet", image_size=[15, 9], segments=2, feedback="all")
    assert model(torch.rand(2, 3, 15, 9, dtype=torch.float64)).shape == (2, 2, 5)


def test_segment_loss_is_the_weighted_sum() -> None:
    logits, targets = torch.randn(3, 4, 5), torch.randint(5, (4,))
    assert default_alphas(3) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    alphas = [0.2, 0.3, 0.5]
    log_p = logits.log_softmax(-1)
    wanted = -sum(a * log_p[n, range(4), targets].mean() for n, a in enumerate(alphas))
    torch.testing.assert_close(segment_loss(logits, targets, alphas), wanted)
    soft = torch.nn.functional.one_hot(targets, 5).float()
    torch.testing.assert_close(segment_loss(logits, soft, alphas), wanted)
    for wrong in ([0.5, 0.5], [0.5, 0.5, 0.5]):
        with pytest.raises(ModelError, match="alphas"):
            segment_loss(logits, targets, wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "hst_4_385"}, "did you mean 'hst_4_384'"),
        ({"name": "?"}, "choose from"),
        ({"segments": 3}, "4 time steps do not divide into 3 segments"),
        ({"segments": 0}, "segments"),
        ({"time_steps": 0}, "0 time steps"),
        ({"feedback": "some"}, "feedback is 'some'"),
        ({"feedback": [2]}, "names block 2"),
        ({"feedback": [-1]}, "names block -1"),
        ({"feedback": "all", "cm": 4}, "cm is 4"),
        ({"feedback": "all", "pm": 5}, "pm is 5"),
        ({"mixer": "sum"}, "mixer is 'sum'"),
        ({"clamp": [1, 0]}, "clamp is"),
        ({"clamp": [1]}, "clamp is"),
        ({"neuron": "relu"}, "neuron is 'relu'"),
        ({"segment_norm": "both"}, "segment_norm is 'both'"),
        ({"recompute": "all"}, "recompute policy 'all'"),
        ({"name": "tiny_sdt", "leaky_proj_lif": True}, "leaky_proj_lif belongs to QKFormer"),
    ],
)
def test_options_that_cannot_work(options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        create_model(**{"name": "tiny_hst"} | options)
    assert "\n" not in str(error.value)


def test_heads_that_do_not_divide_the_channels() -> None:
    from tdformer.attention import QKAttention, SelfAttention
    from tdformer.unit import UnitOptions

    for attention in (QKAttention, SelfAttention):
        with pytest.raises(ModelError, match="do not divide by 3 heads"):
            attention(UnitOptions(), 16, 3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 16, 16), r"give \[B, C, H, W\]"),
        ((3, 2, 3, 16, 16), "3 frames for a model of 4"),
        ((2, 1, 16, 16), "set in_channels"),
        ((2, 3, 16, 17), "image_size"),
    ],
)
def test_images_that_do_not_fit(tiny, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny("tiny_hst")(torch.rand(shape, dtype=torch.float64))
