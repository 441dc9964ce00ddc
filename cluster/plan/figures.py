"""A plan: figures by section, each with its unit and where it is from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Figure(NamedTuple):
    """value: None: not known, and source says why, and what to do about it."""

    value: float | None
    unit: str
    source: str


Section = dict[str, Figure]

NOT_IN_TOTAL = ("available", "largest_micro_batch", "hidden_gradients", "total")
"""Of memory and step, what stands beside the parts and their sum."""


@dataclass(frozen=True)
class Plan:
    """about: what is planned, in words and numbers. choice: of the ways that `train.micro_batch: auto` looked at, the
    milliseconds an image; {} where it is a number. fits: whether the memory is enough. memory: GiB of one process;
    step: seconds; both by part, with `total`, their sum. warnings: what to look at before it is queued."""

    about: dict[str, str | int]
    fits: bool
    memory: Section
    host: Section
    step: Section
    run: Section
    checkpoint: Section
    disk: Section
    warnings: tuple[str, ...] = ()
    choice: Section = field(default_factory=dict)

    def sections(self) -> dict[str, Section]:
        """In the order in which they are shown."""
        names = ("choice",) * bool(self.choice) + ("memory", "host", "step", "run", "checkpoint", "disk")
        return {name: getattr(self, name) for name in names}

    def row(self) -> dict[str, float | None]:
        """The columns `predicted` of a study's table. The peak is of what a run measures: tensors on a GPU, on a CPU
        all that is resident."""
        memory = dict(self.memory)
        if (libraries := self.host["libraries"]).value is not None:
            memory["libraries"] = libraries
        peak = [figure.value for key, figure in memory.items() if key not in NOT_IN_TOTAL]
        parts: dict[str, float | None] = {
            "predicted.seconds_step": self.step["total"].value,
            "predicted.peak_gib": sum(value for value in peak if value is not None),
        }
        for section, unit in ((self.step, "seconds"), (memory, "gib")):
            parts |= {f"predicted.{unit}.{k}": f.value for k, f in section.items() if k not in NOT_IN_TOTAL}
        return parts

    def as_json(self) -> dict[str, object]:
        """For programs: {section: {name: {value, unit, source}}}."""
        told = {name: {k: f._asdict() for k, f in section.items()} for name, section in self.sections().items()}
        return {"about": self.about, "fits": self.fits, **told, "warnings": list(self.warnings)}

    def text(self) -> str:
        """For people: a line each."""
        lines = [", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.about.items())]
        for name, section in self.sections().items():
            lines += ["", name]
            for key, (value, unit, source) in section.items():
                shown = "not known" if value is None else f"{_digits(value)} {unit}"
                lines.append(f"  {key.replace('_', ' '):<24} {shown:>20}  {source}")
        return "\n".join([*lines, *(f"\nwarning: {line}" for line in self.warnings)])

    def line(self) -> str:
        """The whole in one line, as a launch says it."""
        memory = f"{_digits(self.memory['total'].value)} GiB a process"
        if (room := self.memory["available"].value) is not None:
            memory += f" of {_digits(room)}"
        if (hours := self.run["hours"]).value is None:
            return f"plan: {memory}; time is not known ({hours.source})"
        step, taken = self.step["total"].value, self.run["gpu_hours"]
        return (
            f"plan: {memory}; {_digits(step)} s a step, {_digits(hours.value)} h, {_digits(taken.value)} {taken.unit}"
        )


def _digits(value: float | None) -> str:
    """At least three that count."""
    if value is None:
        return "?"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
