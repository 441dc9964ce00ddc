"""The optimizer's groups."""

from __future__ import annotations

import tdformer
from cluster.train.engine import parameter_groups


def test_vectors_do_not_decay_and_early_layers_learn_slower() -> None:
    model = tdformer.create_model("quickstart", segments=2, feedback="all")
    groups = parameter_groups(model, 0.05, 0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    seen = {names[id(p)]: group for group in groups for p in group["params"]}
    assert seen.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert seen[name]["weight_decay"] == (0.05 if parameter.dim() > 1 else 0.0), name
    scales = [
        seen[name]["lr_scale"]
        for name in (
            "head.weight",
            "backbone.stages.2.0.attention.q.current.conv.weight",
            "backbone.embeds.2.units.0.current.conv.weight",
            "backbone.stages.1.0.mlp.fc1.current.conv.weight",
            "backbone.embeds.0.units.0.current.conv.weight",
        )
    ]
    assert scales == [1, 0.5, 0.25, 0.125, 2**-6]
