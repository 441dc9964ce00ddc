"""Each option of `create_model` reaches the modules: looked at there, and not in what the model says of itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tdformer import ModelError, ModelOptions, create_model
from tdformer.attention import SelfAttention
from tdformer.feedback import Processing
from tdformer.neuron import Neuron
from tdformer.norm import BatchNorm

ASKED: dict[str, Any] = {
    **{"width": 48, "depths": [1, 2, 1], "heads": 2, "mlp_ratio": 2.5, "num_classes": 5, "in_channels": 2},
    **{"image_size": 32, "time_steps": 6, "segments": 3, "feedback": [0], "cm": 2, "pm": 2, "mixer": "add"},
    **{"clamp": (0.5, 3.0), "neuron": "plif", "tau": 1.5, "threshold": 0.6, "v_reset": None, "surrogate": "arctan"},
    **{"alpha": 2.0, "detach_reset": False, "segment_norm": "shared", "border_dtype": "bf16", "recompute": "block"},
}
"""None of them the default."""


def test_each_option_reaches_the_modules() -> None:
    assert {key for key, usual in vars(ModelOptions()).items() if ASKED[key] == usual} == set()
    model: Any = create_model("quickstart", **ASKED)
    first, last = model.backbone.embeds[0].units[0].current.conv, model.backbone.stages[-1][0]
    attention = next(part for part in last.modules() if isinstance(part, SelfAttention))
    processing = next(part for part in last.modules() if isinstance(part, Processing))
    neurons = [part for part in model.modules() if isinstance(part, Neuron)]
    norms = [part for part in model.modules() if isinstance(part, BatchNorm)]
    assert model.head.weight.shape == (5, 48) and first.in_channels == 2
    assert [len(stage) for stage in model.backbone.stages] == [1, 2, 1]
    assert attention.heads == 2 and last.mlp.fc1.current.conv.out_channels == 120
    assert (model.time_steps, model.segments) == (6, 3)
    assert sum(isinstance(part, Processing) for part in model.modules()) == 1
    assert attention.control is not None and attention.control.cm == 2 and attention.control.mix is None
    assert processing.core and processing.plif and (processing.low, processing.high) == (0.5, 3.0)
    for neuron in neurons:
        options = neuron.options
        assert (options.kind, options.v_reset, options.surrogate) == ("plif", None, "arctan")
        assert (options.alpha, options.detach_reset) == (2.0, False)
    assert {round(neuron.options.threshold, 6) for neuron in neurons} >= {0.6}
    assert {round(1 / decay.item(), 6) for neuron in neurons if (decay := neuron.decay()) is not None} == {1.5}
    assert {len(norm.running_mean) for norm in norms} == {1}
    assert model.keep.rounded and model.recompute == "block"
    with pytest.raises(ModelError, match=r"the model takes \[2, 32, 32\]"):
        model(torch.zeros(1, 2, 28, 28))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("segment_norm", "none", "segment_norm is 'none'; choose shared or per_segment"),
        ("border_dtype", "fp16", "border_dtype is 'fp16'; choose fp32 or bf16"),
        ("clamp", (0.0, 1.0, 2.0), "clamp is [0.0, 1.0, 2.0]; it is [b, a], for example [0, 1]"),
        ("segments", 3, "4 time steps do not divide into 3 segments; choose segments that divide them"),
    ],
)
def test_what_cannot_be_is_one_line(option: str, value: Any, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        create_model("quickstart", **{option: value})
    assert str(caught.value) == said
