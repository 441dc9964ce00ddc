"""Parts that are not trained: their weights get no gradient, their BatchNorm stays as it is, with every policy."""

from __future__ import annotations

import pytest
import torch

from tdformer import ModelError, create_model, segment_loss
from tdformer.norm import BatchNorm, norm_batch
from tdformer.policies import POLICIES

OPTIONS = {"time_steps": 4, "segments": 4, "feedback": "all", "cm": 3, "image_size": 16}
NAMES = ["backbone.embeds.0", "backbone.stages.2.0.attention.q", "backbone.stages.1.0.mlp.fc1.current.norm.weight"]


def passed(policy: str, borders: int, names: list[str]):
    torch.manual_seed(0)
    model = create_model("quickstart", **OPTIONS)
    for norm in (m for m in model.modules() if isinstance(m, BatchNorm)):
        torch.nn.init.uniform_(norm.weight, 1, 2)
        torch.nn.init.uniform_(norm.bias, 0, 1)
    model.freeze(names)
    model.set_recompute(policy, borders)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loss = segment_loss(model.train()(torch.rand(6, 1, 16, 16)), torch.arange(6))
    loss.backward()
    return model, before, loss


@pytest.mark.parametrize("names", [NAMES, ["backbone"]])
def test_every_policy_gives_the_same_gradients(names: list[str]) -> None:
    expected, before, loss = passed("none", 1, names)
    gradients = {n: p.grad for n, p in expected.named_parameters()}
    frozen = {n for n in gradients if any(f"{n}.".startswith(f"{name}.") for name in names)}
    assert {n for n, g in gradients.items() if g is None} == frozen
    assert gradients["head.weight"].abs().max() > 0
    for policy, borders in [*((name, 1) for name in POLICIES), ("unit", 2), ("unit", 4)]:
        model, _, own = passed(policy, borders, names)
        assert torch.equal(own, loss)
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == (name in frozen), (policy, name)
            assert parameter.grad is None or torch.equal(parameter.grad, gradients[name]), (policy, name)
        moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        still = [f"{name}." for name in names if not name.endswith("weight")]
        assert moved == {k for k in before if "running" in k and not k.startswith(tuple(still))}
        for norm in (m for m in model.modules() if isinstance(m, BatchNorm)):
            assert norm.training != norm.frozen


@pytest.mark.parametrize("names", [[], ["backbone"]])
def test_a_neuron_over_the_batch_takes_one_norm_batch_frozen_or_not(names: list[str]) -> None:
    """Else its sequence, and with it the gradients, would hang on how many images are computed at once."""
    torch.manual_seed(0)
    model = create_model("quickstart", **OPTIONS, leaky_proj_lif=True)
    model.freeze(names)
    norm_batch(model, 2)
    model.train()(torch.rand(2, 1, 16, 16))
    with pytest.raises(ModelError, match="^leaky_proj_lif runs over the whole batch: one norm batch a micro-batch"):
        model(torch.rand(4, 1, 16, 16))
    assert model.eval()(torch.rand(4, 1, 16, 16)).shape == (4, 10)


def test_a_name_of_no_part_is_refused_with_the_nearest() -> None:
    model = create_model("quickstart")
    for names, message in (
        (
            ["backbone.embed.0"],
            "names 'backbone.embed.0', which is no part of quickstart; the nearest is backbone.embeds.0",
        ),
        (["hed"], "the nearest is head"),
        ([""], "names '', which is no part"),
        (["backbone.embeds.1x"], "which is no part"),
        (["backbone", "head"], "leaves nothing of quickstart to train"),
    ):
        with pytest.raises(ModelError, match=message):
            create_model("quickstart").freeze(names)
    model.freeze([])
    assert all(p.requires_grad for p in model.parameters())
