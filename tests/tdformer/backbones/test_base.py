"""A backbone and a recompute policy that are defined here, outside the package, and what works with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tdformer import ModelError, TDFormer, create_model, list_models, load_pretrained, segment_loss
from tdformer.attention import SelfAttention, borrowed
from tdformer.backbones import MLP, MODELS, Backbone, Block, Entry, Given, Published, families, pooled
from tdformer.norm import BatchNorm
from tdformer.packing import add
from tdformer.policies import POLICIES, Choice, Place, Policy, choices, smallest
from tdformer.recompute import recomputed
from tdformer.state import State
from tdformer.unit import Unit


@dataclass(frozen=True)
class Sizes:
    """Of a column of blocks on one grid."""

    width: int
    depth: int


class Column(Backbone[Sizes]):
    """One unit, `depth` blocks, and a unit that `wide` makes one of kernel 3: a part each. `gain` is in none."""

    options = {"wide": False}
    published = Published(
        "Column",
        lambda weights: any(key.startswith("net.") for key in weights),
        lambda key: _name(key),
        {r"net\.age": "nobody asks"},
    )

    def __init__(self, sizes: Sizes, given: Given) -> None:
        super().__init__(sizes, given)
        self.width, units = sizes.width, given.units
        self.entry = Unit(units, given.in_channels, sizes.width, kernel=3)
        self.column = nn.ModuleList(
            Block(SelfAttention(units, sizes.width, 2, feedback=given.feedback.get(i)), MLP(units, sizes.width))
            for i in range(sizes.depth)
        )
        self.exit = Unit(units, sizes.width, sizes.width, kernel=3 if given.own["wide"] else 1)
        self.gain = nn.Parameter(torch.ones(sizes.width))

    def parts(self) -> list[nn.Module]:
        return [self.entry, *self.column, self.exit]

    def initialise(self) -> None:
        nn.init.constant_(self.exit.current.conv.weight, 0.25)

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        x = pooled(self.step(self.entry, state, x), state)
        for block in self.column:
            x = self.step(block, state, x, high)
        return add(x, self.step(self.exit, state, x)).mean((3, 4)) * self.gain, x


def _name(key: str) -> str | None:
    return re.sub(r"^net\.", "backbone.", key).replace(".layer.", ".current.") if key.startswith("net.") else None


class Alternate(Policy):
    """Every other part is computed again."""

    auto = 15

    def part(self, part: nn.Module, place: Place, state: State, *inputs: Tensor | None) -> Any:
        run.append(place)
        return recomputed(part, part, state, *inputs) if place.number % 2 else part(*inputs, state)


run: list[Place] = []


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They are there for one test."""
    for registry in (MODELS, POLICIES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    MODELS.register("column_2_8", Entry(Column, Sizes(8, 2), 8, 1, 4))
    POLICIES.register("alternate", Alternate())
    torch.manual_seed(0)
    run.clear()
    yield


def column(**options: Any) -> TDFormer:
    """A column whose layers fire."""
    model = create_model("column_2_8", segments=2, feedback="all", neuron="plif", **options)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.bias.uniform_(0.5, 1.5)
        model.head.weight.normal_()
    return model


def test_it_has_a_name_sizes_and_options_of_its_own() -> None:
    assert "column_2_8" in list_models() and MODELS.origin("column_2_8") == __name__ and Column in families()
    model = create_model("column_2_8", wide=True, feedback="last")
    assert model.config["wide"] is True and model.config["feedback"] == [1]
    assert model.backbone.exit.current.conv.kernel_size == (3, 3)
    assert bool((model.backbone.exit.current.conv.weight == 0.25).all())  # its own start
    assert model.head.weight.abs().max() <= 0.1  # the head's
    assert create_model(**model.config).config == model.config
    assert "wide" not in create_model("hst_4_384", wide=False).config
    for options, message in (
        ({"wide": 1}, "^wide is 1; give a bool, such as False$"),
        ({"wise": True}, "^column_2_8 has no option 'wise'; did you mean 'wide'\\?$"),
        ({"leaky_proj_lif": True}, "^leaky_proj_lif belongs to QKFormer and column_2_8 has no such option; leave"),
        ({"feedback": [2]}, "column_2_8 has blocks 0 to 1 that can be fed back"),
    ):
        with pytest.raises(ModelError, match=message):
            create_model("column_2_8", **options)
    with pytest.raises(ModelError, match="^wide belongs to Column and hst_4_384 has no such option; leave it off$"):
        create_model("hst_4_384", wide=True)


def trained(policy: str, borders: int = 1) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of a few steps, and weights, statistics and the last gradients after them."""
    torch.manual_seed(1)
    model = column()
    model.set_recompute(policy, borders)
    images, labels = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = segment_loss(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    found = dict(model.state_dict())
    return losses, found | {f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_every_policy_trains_it_to_the_same_bits() -> None:
    losses, kept = trained("none")
    assert losses[-1] < losses[0] and all(f"grad {n}" in kept for n, _ in column().named_parameters())
    assert not run
    for policy in POLICIES:
        for borders in POLICIES.get(policy).borders(2):
            losses2, kept2 = trained(policy, borders)
            assert losses2 == losses, policy
            assert kept.keys() == kept2.keys()
            assert [name for name in kept if not torch.equal(kept[name], kept2[name])] == [], policy
    assert set(run) == {Place(i, 4) for i in range(4)}


def test_a_policy_says_whether_auto_tries_it() -> None:
    assert choices(2) == [
        Choice("none"),
        Choice("alternate"),
        Choice("block"),
        Choice("unit"),
        Choice("unit", 2),
    ]
    assert smallest() == "unit"
    with pytest.raises(ModelError, match="^recompute policy 'alternat' is unknown; did you mean 'alternate'\\?$"):
        column(recompute="alternat")


def test_its_parts_are_its_depths() -> None:
    model = column()
    depths = model.depths()
    assert depths.keys() == dict(model.named_parameters()).keys()
    for name, depth in depths.items():
        start = {"entry": 0, "column": 1, "exit": 3, "gain": 4}.get(name.split(".")[1], 4)
        assert depth == start + (int(name.split(".")[2]) if ".column." in name else 0), name


def test_the_parts_of_our_backbones_hold_all_but_what_lies_behind_them() -> None:
    for name, behind in (("tiny_hst", set()), ("tiny_spikformer", set()), ("tiny_sdt", {"head_neuron.w", "high.w"})):
        model = create_model(name, feedback="all", segments=2, neuron="plif")
        last = len(model.backbone.parts())
        outside = {n.removeprefix("backbone.") for n, d in model.depths().items() if d == last}
        assert outside == behind | {"head.weight", "head.bias"}


def test_a_part_that_is_not_named_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Column, "parts", lambda self: [self.entry, *self.column])
    with pytest.raises(ModelError, match="^Column runs a Unit that is not among its parts\\(\\); add it$"):
        column()(torch.rand(1, 1, 8, 8))


def test_its_published_weights_are_read() -> None:
    model = column()
    wanted = {name: torch.rand_like(v) for name, v in model.state_dict().items() if ".control." not in name}
    fixed = {name: value for name, value in wanted.items() if not name.endswith(".w")}
    published = {re.sub("^backbone", "net", name).replace(".current.", ".layer."): v for name, v in fixed.items()}
    published |= {name: v[0] for name, v in published.items() if "running" in name}  # one network: one set of them
    report = load_pretrained(model, published | {"net.age": torch.zeros(1)})
    assert report.family == "column" and report.skipped == {"net.age": "nobody asks"}
    assert set(report.loaded) == fixed.keys() and {name for name in report.fresh if ".control." not in name}
    for name, value in fixed.items():
        assert torch.equal(model.state_dict()[name], value[:1].expand_as(value) if "running" in name else value), name
    with pytest.raises(ModelError, match="^state dict: net.wrong has no place in column_2_8"):
        load_pretrained(model, published | {"net.wrong": torch.zeros(1)})
    with pytest.raises(ModelError, match="^these are weights of column and tiny_sdt is a sdt; choose its model$"):
        load_pretrained(create_model("tiny_sdt"), published)
    with pytest.raises(ModelError, match="give Column, QKFormer, .* or TDFormer weights$"):
        load_pretrained(model, {"layer.weight": torch.zeros(1)})


def test_what_it_computes_with_is_named_for_sharding() -> None:
    """Each unit's parameters, the control modules' mixers, and nothing twice."""
    model = column()
    found = [(id(module), id(parameter)) for module, parameter in borrowed(model)]
    names = {id(p): n for n, p in model.named_parameters()}
    mixers = {names[p] for _, p in found if ".mix." in names[p]}
    assert mixers == {f"backbone.column.{i}.attention.control.mix.weight" for i in range(2)}
    units = [m for m in model.modules() if isinstance(m, Unit)]
    assert {(id(u), id(p)) for u in units for p in u.parameters()} <= set(found)
    assert len(found) == len(set(found))
    own = create_model("column_2_8", segments=2, feedback="all", mixer="processing")
    ways = {id(parameter) for _, parameter in borrowed(own)}
    assert all(id(p) in ways for n, p in own.named_parameters() if ".processing.mix." in n)
