"""The model of a configuration, and weights put into it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tdformer
from cluster.build.model import example, load_weights
from cluster.errors import RunError


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model = tdformer.create_model("quickstart", segments=2, feedback="all")
    other = tdformer.create_model("quickstart", segments=2, feedback="none")
    with pytest.raises(RunError, match="is of another model: backbone.*control"):
        load_weights(model, other.state_dict(), tmp_path)
    wider = tdformer.create_model("quickstart", segments=2, feedback="all", num_classes=11)
    with pytest.raises(RunError, match=r"is of another model: head.*\[11"):
        load_weights(model, wider.state_dict(), tmp_path)


@pytest.mark.parametrize("name", ["hst_2_256", "spikformer_2_256"])
def test_models_made_for_event_frames_take_them(name: str) -> None:
    with torch.device("meta"):
        model = tdformer.create_model(name, segments=4, feedback="all")
        frames = example(model, 2, "meta")
        assert frames.shape == (16, 2, 2, 128, 128)
        assert model(frames).shape == (4, 2, 10)
