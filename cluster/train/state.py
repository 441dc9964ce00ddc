"""What a run is between two steps; keeping it, and going on from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.classes import mapping
from pipelines.order import Cursor
from pipelines.samples import Samples

from ..errors import RunError
from ..run import checkpoint
from ..run.folder import RunFolder
from .agreement import by_first, of_first, verified_by_all
from .scale import LossScale
from .watchdog import Watchdog


@dataclass
class TrainState:
    """What a run is between two steps, besides weights and moments.

    Learning rate, augmentation, mixing and torch's random numbers are pure functions of (seed, step), so they need
    no state of their own. `window` sums (loss, correct, images) since the last logged step; `evaluated`: epochs after
    which no evaluation is due any more; `skipped`: steps left out because the loss or the gradient was not finite,
    `in_a_row` of them just now; `metrics_bytes` and `metrics_sha256`: of metrics.jsonl; `scale`: of the next step, with
    fp16; `hooks`: what those of them that have a state keep, by their names.
    """

    step: int
    cursor: Cursor
    window: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    accuracy: float = 0.0
    best_accuracy: float = 0.0
    metrics_bytes: int = 0
    evaluated: int = 0
    skipped: int = 0
    in_a_row: int = 0
    metrics_sha256: str = ""
    scale: LossScale | None = None
    hooks: dict[str, dict[str, object]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        saved = self.__dict__ | {"cursor": self.cursor.to_dict(), "scale": self.scale and asdict(self.scale)}
        return {k: v for k, v in saved.items() if v or k not in ("scale", "hooks")}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> TrainState:
        """Raises TypeError, KeyError, ValueError or AttributeError where `saved` is not what `to_dict` returned."""
        scale = saved.get("scale")
        own = {"cursor": Cursor.from_dict(saved["cursor"]), "scale": scale and LossScale(**scale)}
        return cls(**(saved | own))


@dataclass(frozen=True)
class Resumed:
    """What a checkpoint has: of `parts`, `model` and `optimizer` are ours, the others are hooks'. Its tensors are
    mapped from files that may be removed."""

    parts: Mapping[str, dict[str, Tensor]]
    state: TrainState
    where: Path


class Checkpoints:
    """Those of one run, for its ranks together."""

    def __init__(self, folder: RunFolder, keep: int, watchdog: Watchdog, first_here: bool) -> None:
        """first_here: of its machine's ranks this is the one that reads what is there for all of them."""
        self.folder, self.watchdog, self.first_here = folder, watchdog, first_here
        self.saver = checkpoint.Saver(folder.checkpoints, keep)

    def newest(self, data: Samples, warn: Callable[[str], None]) -> Resumed | None:
        """The newest one that is whole for all ranks, which are to train on `data`; None: there is none yet.

        warn: told of damaged ones. Raises RunError where all are damaged, or it is of another version; DataError where
        it was trained on other classes or other data."""
        root = self.folder.checkpoints
        there = of_first(checkpoint.complete(root))
        found = checkpoint.newest_good(root, warn, there, lambda path: verified_by_all(path, self.first_here))
        if found is None:
            return None
        parts, saved = checkpoint.load(found, verified=True)
        try:
            state = TrainState.from_dict(saved["state"])
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise RunError(f"{found} has a state of another version ({error}); use the one that wrote it") from error
        # Another name is another digest too; this says which.
        if (classes := saved.get("classes")) is not None:
            mapping(classes, data.class_names, str(found), str(data.folder))
        state.cursor = state.cursor.check(data.digest, data.columns)
        return Resumed(parts, state, found)

    def due(self, minutes: float | None) -> bool:
        """Whether it is time to save, by this rank's clock; see `Saver.due`."""
        return self.saver.due(minutes)

    def begin(
        self, parts: dict[str, dict[str, Tensor]], state: TrainState, rest: Mapping[str, object], best: bool
    ) -> None:
        """On the first rank: write one while training goes on. rest: what else state.json holds."""
        metrics = self.folder.metrics
        state.metrics_bytes, state.metrics_sha256 = metrics.size(), metrics.digest()
        saved = {"format": checkpoint.FORMAT, "state": state.to_dict(), **rest}
        self.saver.begin(state.step, parts, saved, best, metrics.sync)

    def wait(self) -> None:
        """Wait for the one that is being written, however long it takes, as long as it gets on; its failure is every
        rank's."""
        rounds = min(5.0, self.watchdog.seconds / 4)
        before = None
        while (progress := by_first(lambda: self.saver.wait(rounds))) is not None:
            if progress != before:
                self.watchdog.alive()
            before = progress
        self.watchdog.alive()
