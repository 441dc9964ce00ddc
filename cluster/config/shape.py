"""On how many machines and processes a run is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Nodes, and processes and GPUs on each."""

    nodes: int
    processes: int
    gpus: int

    @property
    def world(self) -> int:
        return self.nodes * self.processes

    @classmethod
    def of(cls, nodes: int, processes: int | None, gpus: int) -> Shape:
        """processes: None: one a GPU, or 1."""
        return cls(nodes, processes or gpus or 1, gpus)

    def __str__(self) -> str:
        nodes = f"{self.nodes} nodes with " if self.nodes > 1 else ""
        gpus = f" and {self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus and self.gpus != self.processes else ""
        what = "GPU" if self.gpus and not gpus else "process"
        return f"{nodes}{self.processes} {what}{('es' if what == 'process' else 's') * (self.processes > 1)}{gpus}"
