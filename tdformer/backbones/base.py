"""What a backbone is, and the registry of named models: adding one is a file that defines and registers it.

A backbone says its sizes (`Sizes`), its parts in order from the input to the head, how its weights start, the key names
of its published weights, and options of its own. The rest works with that: recomputation, a learning rate for each
part, feedback, published weights, sharded weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar

from torch import Tensor, nn

from ..errors import ModelError
from ..feedback import FeedbackOptions
from ..plugins import Registry
from ..policies import POLICIES, Place, Policy
from ..state import State
from ..unit import UnitOptions


class Sizes(Protocol):
    """The sizes of one backbone; those that are `size.Resizable` are one point of many."""

    @property
    def depth(self) -> int:
        """How many blocks have the width and the grid of H_n: those can be fed back, and are numbered from 0."""


S = TypeVar("S", bound=Sizes, covariant=True)


@dataclass(frozen=True)
class Given:
    """What a backbone is made with besides its sizes: the options of its units, the channels of its input, the
    feedback of its fed-back blocks by number, and the values of all `options` that it declares."""

    units: UnitOptions
    in_channels: int
    feedback: Mapping[int, FeedbackOptions] = field(default_factory=dict)
    own: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """How a family's published weights name their tensors.

    of: what a message calls them; known: whether names of a file are theirs; name: our name for one of them, None
    where there is no rule (then a name stands for itself); unused: what of them is left out, pattern: reason;
    check: raises ModelError for weights that have these names and are of a network which the sizes are not of;
    ours: neurons of ours that no published network has.
    """

    of: str
    known: Callable[[Mapping[str, Tensor]], bool]
    name: Callable[[str], str | None]
    unused: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Mapping[str, Tensor], Sizes], None] = lambda weights, sizes: None
    ours: tuple[str, ...] = ()


class Backbone(nn.Module, Generic[S]):
    """A function of one segment of time: stems `(x, state)` and blocks `(x, high, state)`, each run by `step`."""

    family: ClassVar[str]
    """A word for reports; the class's name in lower case unless it says another."""
    options: ClassVar[Mapping[str, object]] = {}
    """Options of `create_model` that are its own, by name, with their defaults."""
    published: ClassVar[Published | None] = None
    width: int
    """Channels of the last block, C of H_n."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.family = cls.__dict__.get("family", cls.__name__.lower())

    def __init__(self, sizes: S, given: Given) -> None:
        super().__init__()
        self.sizes = sizes
        self.policy: Policy = POLICIES.get("none")

    def parts(self) -> list[nn.Module]:
        """The modules that `forward` runs one after the other by `step`, in order from the input to the head.

        A part is what the policy `block` computes again, and what has a learning rate of its own under layer decay;
        parameters that are in none of them learn as the head does.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        """x `[T, B, C_in, H, W]`, high H_(n-1) or None -> the head's features `[T, B, C]`, H_n `[T, B, C, h, w]`."""
        raise NotImplementedError

    def initialise(self) -> None:
        """Draw the weights that do not start as PyTorch's do: here those of linear layers."""
        truncated(module for module in self.modules() if isinstance(module, nn.Linear))

    def step(self, part: nn.Module, state: State, *inputs: Tensor | None) -> Tensor:
        """`part(*inputs, state)`, kept or computed again as the policy says."""
        parts = self.parts()
        number = next((i for i, other in enumerate(parts) if other is part), None)
        if number is None:
            raise ModelError(
                f"{type(self).__name__} runs a {type(part).__name__} that is not among its parts(); add it"
            )
        return self.policy.part(part, Place(number, len(parts)), state, *inputs)


def truncated(layers: Iterable[nn.Module]) -> None:
    """Let the weights of linear layers and convolutions start at N(0, 0.02) cut at 2, their biases at 0."""
    for layer in layers:
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@dataclass(frozen=True)
class Entry(Generic[S]):
    """A named architecture, and the data it was made for."""

    backbone: type[Backbone[S]]
    sizes: S
    image_size: int
    in_channels: int
    num_classes: int
    time_steps: int = 4


MODELS: Registry[Entry[Sizes]] = Registry("model")
"""The names that `create_model` takes."""


def families() -> list[type[Backbone[Sizes]]]:
    """The backbones that have a name in `MODELS`, each once."""
    return list(dict.fromkeys(MODELS.get(name).backbone for name in MODELS))
