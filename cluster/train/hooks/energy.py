"""Energy: the column `energy_mj`, of an image by Eqs 109-110 of the paper, for accuracy against energy. It is there
where `train.hooks` names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from tdformer.measure import Rated, measure_rated

from ...config import Config
from ..slots import Addend
from ..step import Step
from .hook import HOOKS, Hook


@HOOKS.register("energy")
class Energy(Hook):
    """The mean of all images of a logged step, as they go through the model in training."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.rated = Rated()  # of this rank's share

    def slots(self, world: int) -> Mapping[str, int]:
        return {"energy_pj": 1, "energy_images": 1}

    def during(self, step: Step) -> AbstractContextManager[object]:
        return self._measured() if step.logs else nullcontext()

    @contextmanager
    def _measured(self) -> Iterator[None]:
        with measure_rated(self.run.engine.module) as self.rated:
            yield

    def share(self, step: Step) -> Mapping[str, Addend]:
        return {"energy_pj": self.rated.pj, "energy_images": self.rated.images} if step.logs else {}

    def step(self, step: Step) -> None:
        if step.logs:
            (pj,), (images,) = step.sums["energy_pj"], step.sums["energy_images"]
            step.row["energy_mj"] = pj / images * 1e-9
