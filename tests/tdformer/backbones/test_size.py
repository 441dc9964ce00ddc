"""Sizes of the three families that are no name's own: what they count, compute and refuse."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import lcm
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tdformer import ModelError, TDFormer, create_model, from_pretrained, load_pretrained, save_pretrained, segment_loss
from tdformer.attention import borrowed
from tdformer.backbones import MODELS, Size
from tdformer.backbones.size import OPTIONS
from tdformer.measure import measure_evaluation
from tdformer.policies import POLICIES

FAMILIES = {
    "tiny_hst": (2, 3),
    "tiny_hst_imagenet": (2, 3),
    "tiny_hst_dvs": (8, 2),
    "tiny_spikformer": (8, 1),
    "tiny_sdt": (8, 1),
    "tiny_sdt_dvs": (8, 1),
}
"""Of each network: into how many parts its stem cuts the first stage's width, and how many stages it has."""


@st.composite
def sizes(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A name, and another size of it: as small as they come."""
    name = draw(st.sampled_from([*FAMILIES]))
    parts, stages = FAMILIES[name]
    heads = draw(st.integers(1, 3))
    share = 2 if stages > 1 else 1  # of the first stages
    narrow = lcm(parts, heads)
    size = {
        "width": draw(st.integers(1, 2)) * narrow * share,
        "depths": draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages)),
        "heads": heads,
        "mlp_ratio": draw(st.sampled_from([0.5, 1, 1.5, 4])),
    }
    if name == "tiny_sdt":
        del size["heads"]  # its attention has none
    return name, {option: value for option, value in size.items() if draw(st.booleans()) or option == "width"}


def unit(inputs: int, outputs: int, kernel: int = 1, bias: bool = False) -> int:
    """Parameters of a convolution and its BatchNorm."""
    return inputs * outputs * kernel**2 + bias * outputs + 2 * outputs


def block(width: int, hidden: int, matrices: int, bias: bool = False) -> int:
    """Of so many matrices, an output projection and a perceptron."""
    attention = matrices * unit(width, width, bias=bias) + unit(width, width, bias=True)
    return attention + unit(width, hidden, bias=True) + unit(hidden, width, bias=True)


def counted(model: TDFormer) -> int:
    """Parameters by the sizes in its options alone, written out from the published architectures."""
    size = {option: model.config[option] for option in OPTIONS}
    width, depths, classes = size["width"], size["depths"], model.config["num_classes"]
    channels, ratio = model.config["in_channels"], size["mlp_ratio"]
    head = width * classes + classes
    if not model.config["name"].startswith("tiny_hst"):
        chain = [channels, width // 8, width // 4, width // 2, width, width]
        stem = sum(unit(a, b, 3) for a, b in pairwise(chain))
        biased = model.config["name"] == "tiny_spikformer"
        return stem + depths[0] * block(width, int(ratio * width), 3, biased) + head
    widths = [width // 2] * (len(depths) - 1) + [width]
    first = {
        "tiny_hst": [widths[0] // 2, widths[0]],
        "tiny_hst_imagenet": [widths[0] // 2, widths[0], widths[0]],
        "tiny_hst_dvs": [widths[0] // 8, widths[0] // 4, widths[0] // 2, widths[0]],
    }[model.config["name"]]
    chain = [channels, *first]
    total = sum(unit(a, b, 3) for a, b in pairwise(chain))
    total += unit(chain[2 if model.config["name"] == "tiny_hst_dvs" else 1], widths[0])  # the shortcut
    for before, own in pairwise(widths):
        total += unit(before, own, 3) + unit(own, own, 3) + unit(before, own)
    for i, (own, depth) in enumerate(zip(widths, depths, strict=True)):
        total += depth * block(own, int(ratio * own), 3 if i == len(depths) - 1 else 2)
    return total + head


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=sizes())
def test_a_size_says_how_many_parameters_there_are(at: tuple[str, dict[str, Any]]) -> None:
    name, options = at
    with torch.device("meta"):
        model = create_model(name, **options)
        own = create_model(name).config
        again = create_model(**model.config)
    assert sum(p.numel() for p in model.parameters()) == counted(model)
    assert {option: model.config[option] for option in OPTIONS} == {o: options.get(o, own[o]) for o in OPTIONS}
    assert again.config == model.config and [p.shape for p in again.parameters()] == [*map(_shape, model.parameters())]
    with torch.device("meta"):
        fed = create_model(name, **options, segments=2, feedback="all")
    width, blocks = model.config["width"], model.config["depths"][-1]
    assert sum(p.numel() for p in fed.parameters()) - counted(model) == blocks * (width**2 + width)


def _shape(parameter: torch.Tensor) -> torch.Size:
    return parameter.shape


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=sizes())
@example(at=("tiny_sdt_dvs", {"width": 8, "heads": 1}))  # what one head leaves was a view with channels side by side
def test_every_policy_computes_a_resized_network_alike(tiny: Callable[..., TDFormer], at: Any) -> None:
    """Outputs that differ between pictures, gradients and statistics, to the bit; and each part has its place."""
    name, options = at
    torch.manual_seed(0)
    model = tiny(name, torch.float32, **options, segments=2, feedback="all", time_steps=2, image_size=16)
    frames = model.config["in_channels"] == 2
    images = torch.rand(*[2] * frames, 3, model.config["in_channels"], *model.config["image_size"])
    begun = {key: value.clone() for key, value in model.state_dict().items()}
    found = {}
    for policy in ("none", *(p for p in POLICIES if p != "none")):
        model.load_state_dict(begun)
        model.set_recompute(policy)
        model.zero_grad()
        logits = model.train()(images)
        segment_loss(logits, torch.arange(3)).backward()
        gradients = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        found[policy] = {"logits": logits, **gradients, **dict(model.named_buffers())}
        found[policy] = {key: value.detach().clone() for key, value in found[policy].items()}
    logits = found["none"]["logits"]
    assume(float((logits - logits.mean(1, keepdim=True)).abs().max()) > 1e-3)  # in some, all that fires always does
    for policy, values in found.items():
        assert values.keys() == found["none"].keys()
        assert [key for key, value in values.items() if not torch.equal(value, found["none"][key])] == [], policy
    parts = model.backbone.parts()
    stages = len(model.config["depths"])
    assert len(parts) == (stages if stages > 1 else 1) + sum(model.config["depths"])
    assert sorted({depth for depth in model.depths().values()}) == [*range(len(parts) + 1)]
    held = {id(parameter) for _, parameter in borrowed(model)}  # what ZeRO 3 is told of
    assert held <= {id(parameter) for parameter in model.parameters()}
    with torch.device("meta"):
        outline = create_model(**model.config)
    assert measure_evaluation(outline, images.to("meta")).flops == measure_evaluation(model, images).flops > 0


def test_a_name_s_own_values_change_nothing(tmp_path: Path) -> None:
    """And a file that says no size, as those of earlier versions, is of the name's own."""
    torch.manual_seed(0)
    model = create_model("tiny_hst", segments=2, feedback="all")
    torch.manual_seed(0)
    same = create_model("tiny_hst", width=16, depths=[1, 1, 2], heads=2, mlp_ratio=4.0, segments=2, feedback="all")
    assert model.config == same.config
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in model.state_dict().items())
    model.config = {key: value for key, value in model.config.items() if key not in OPTIONS}
    save_pretrained(model, tmp_path / "old.safetensors")
    loaded = from_pretrained(tmp_path / "old.safetensors")
    assert loaded.config == same.config
    wide = create_model("tiny_hst", width=32, depths=[1, 2, 1], mlp_ratio=2)
    save_pretrained(wide, tmp_path / "wide.safetensors")
    read = from_pretrained(tmp_path / "wide.safetensors")
    assert read.config == wide.config and read.config["width"] == 32
    with pytest.raises(
        ModelError, match=r"is \[8, 3, 3, 3\] and the model's .* \[4, 3, 3, 3\]; choose the model it is of"
    ):
        load_pretrained(create_model("tiny_hst"), wide.state_dict())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hst_10_768", {"width": 1000}, "width is 1000, and with 12 heads it is a multiple of 48; the nearest is 1008"),
        ("hst_10_768", {"heads": 7}, "heads is 7, which do not divide a width of 768; the nearest that do are 6"),
        ("hst_10_768", {"width": 0}, "width is 0; give a whole number of at least 1"),
        ("hst_10_768", {"width": 768.0}, "width is 768.0; give a whole number of at least 1"),
        ("hst_10_768", {"heads": True}, "heads is True; give a whole number of at least 1"),
        ("hst_10_768", {"depths": [1, 2]}, r"depths is \[1, 2\], and hst_10_768 has 3 stages; give as many numbers, "
                                           r"such as \[1, 2, 7\]"),
        ("hst_10_768", {"depths": [1, 0, 7]}, r"depths is \[1, 0, 7\]; give whole numbers of at least 1, such as .*"),
        ("hst_10_768", {"depths": 9}, r"depths is \[9\], and hst_10_768 has 3 stages; .*"),
        ("hst_10_768", {"depths": "9"}, "depths is '9'; give whole numbers of at least 1, .*"),
        ("hst_10_768", {"mlp_ratio": 0}, "mlp_ratio is 0; give a number above 0, such as 4"),
        ("hst_10_768", {"mlp_ratio": float("nan")}, "mlp_ratio is nan; give a number above 0, such as 4"),
        ("hst_10_768", {"mlp_ratio": 0.001}, "mlp_ratio is 0.001, which leaves no hidden channel beside 192; "
                                             "the smallest that leaves one is 0.005209"),
        ("quickstart", {"width": 1}, "width is 1, and with 4 heads it is a multiple of 16; the nearest is 16"),
        ("spikformer_8_512", {"width": 100}, "width is 100, and with 8 heads it is a multiple of 8; .* 104"),
        ("spikformer_8_512", {"depths": [4, 4]}, r"depths is \[4, 4\], and spikformer_8_512 has 1 stage; .*"),
        ("sdt_8_768", {"heads": 8}, "heads is 8, and sdt_8_768 has no such choice; leave it off"),
        ("sdt_8_768", {"width": 12}, "width is 12, and it is a multiple of 8; the nearest is 16"),
    ],
)  # fmt: skip
def test_a_size_that_cannot_be_is_refused_with_the_nearest(name: str, options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ModelError, match=f"^{message}$"):
        create_model(name, **options)


def test_each_name_is_a_point_of_its_family() -> None:
    """From any other name of the same kind, its own size leads to it."""
    with torch.device("meta"):
        for name, other in (("hst_10_768", "hst_10_384"), ("sdt_8_768", "sdt_6_512"),
                            ("spikformer_8_768", "spikformer_8_512"), ("spikformer_4_384", "spikformer_2_384"),
                            ("hst_2_256_gesture", "hst_2_256")):  # fmt: skip
            size = MODELS.get(name).sizes.size
            assert isinstance(size, Size)
            own, led = create_model(name), create_model(other, **size.options())
            assert [(key, value.shape) for key, value in own.state_dict().items() if "head" not in key] == [
                (key, value.shape) for key, value in led.state_dict().items() if "head" not in key
            ]
