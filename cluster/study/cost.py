"""What the cells of a study have cost, and what is left of them will, as their finished siblings did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from ..run.states import RunState
from .folder import ENDED, CellFolder
from .usage import Uses


class Costs:
    """In device-seconds: processes times seconds."""

    def __init__(self, cells: Sequence[CellFolder]) -> None:
        self.cells = {cell.path.name: cell for cell in cells}
        self.facts = {name: facts for name, cell in self.cells.items() if (facts := cell.facts) is not None}
        self._uses = Uses()

    def of(self, name: str) -> float:
        """So far."""
        return sum(use.seconds for use in self._uses.of(self.cells[name].path))

    def spent(self) -> float:
        """Of all cells, so far."""
        return sum(map(self.of, self.cells))

    def left(self, states: Mapping[str, RunState]) -> dict[str, float | None]:
        """Of each cell that is not ended, what is to come; None: it is not known.

        An image costs what it did in those finished cells that have the most axes in common with it; before there are
        some, what the plan says.
        """
        rates = {n: self.of(n) / self.facts[n]["images"] for n, state in states.items() if state == RunState.FINISHED}
        found: dict[str, float | None] = {}
        for name, state in states.items():
            if state in ENDED:
                continue
            axes = self.facts[name]["axes"].items()
            common = {n: sum(self.facts[n]["axes"].get(key) == value for key, value in axes) for n in rates}
            near = [rates[n] for n in rates if common[n] == max(common.values())]
            share = 1 - min(1.0, self.cells[name].done() / max(1, self.facts[name]["steps"]))
            found[name] = share * self.facts[name]["images"] * median(near) if near else self._planned(name, share)
        return found

    def _planned(self, name: str, share: float) -> float | None:
        """So much of all its steps, as its plan has them."""
        seconds = self.facts[name].get("plan", {}).get("predicted.seconds_step")
        world = self.cells[name].shape.world
        return None if seconds is None else share * self.facts[name]["steps"] * seconds * world
