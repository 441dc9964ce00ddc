"""What kind of neuron a model is made of; and the options of a model, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import ModelError
from .surrogate import SURROGATES

Options = dict[str, Any]
"""Keyword arguments of `create_model`: those it names have the types that stand there, those of a backbone from outside
the types of its defaults."""


@dataclass(frozen=True)
class NeuronOptions:
    """tau in time steps; `v_reset=None` is the soft reset (V = H - V_th S); the defaults are the backbones'."""

    kind: str = "lif"
    tau: float = 2.0
    threshold: float = 1.0
    v_reset: float | None = 0.0
    surrogate: str = "sigmoid"
    alpha: float = 4.0
    detach_reset: bool = True

    @property
    def learned(self) -> bool:
        """Whether tau is."""
        return self.kind == "plif"

    def __post_init__(self) -> None:
        if self.kind not in ("lif", "plif"):
            raise ModelError(f"neuron is {self.kind!r}; choose lif or plif")
        if self.surrogate not in SURROGATES:
            raise ModelError(f"surrogate is {self.surrogate!r}; choose one of {', '.join(SURROGATES)}")
        if not self.tau >= 1:
            raise ModelError(f"tau is {self.tau}; the membrane time constant is at least 1 time step")
        if self.learned and self.tau == 1:
            raise ModelError("tau is 1, where a plif neuron cannot start; choose a tau above 1")
        if not self.alpha > 0:
            raise ModelError(f"alpha is {self.alpha}; the surrogate's slope must be above 0")
