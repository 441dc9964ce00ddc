"""How much of what a device could compute a run makes use of: TFLOP/s, MFU and HFU."""

from __future__ import annotations

from dataclasses import dataclass

from ..build.planner import Recompute
from ..config import Config
from ..plan.chips import recognised
from ..run.kept import Start
from ..run.speed import Lap


@dataclass(frozen=True)
class Utilisation:
    """tflops = images of the global batches x flop_image / seconds / world, in 1e12 a second of one device (rank): the
    operations that the model asks for, whoever computes some of them again; seconds are those of whole steps, with the
    wait for data.

    mfu = tflops / peak, the device's rate by its data sheet in `train.precision` (with `train.tf32`: of TF32), for one
    in `chips.yaml`; hfu the same of `flop_image_done`, which is what the devices did. Both count dense operations.
    """

    image: int | None = None
    done: int | None = None
    world: int = 1
    peak: float | None = None
    """Operations a second; None: of no device in the table."""

    @classmethod
    def of(cls, start: Start, config: Config, chosen: Recompute | None = None) -> Utilisation:
        """start: its row of starts.jsonl, which the first rank wrote before it knew the others' memory. chosen: what
        all of them compute again, where they have agreed. Different devices have no peak in common."""
        device = str(start.get("device"))
        chip = None if "," in device else recognised(device)
        peak = None if chip is None else chip.peak(config.train.precision, config.train.tf32)
        image, done = start.get("flop_image"), start.get("flop_image_done")
        if (
            chosen is not None
            and image
            and (chosen.policy, chosen.borders) != (start.get("policy"), start.get("borders"))
        ):
            done = round(chosen.cost.flops / start["micro_batch"]) if chosen.cost else image  # unpriced: nothing again
        return cls(image, done, start.get("world", 1), peak)

    def row(self, lap: Lap) -> dict[str, float]:
        """As speed.jsonl has it, what of it is known, to four digits."""
        each = lap.rate / self.world
        found = {
            "tflops": self.image and each * self.image / 1e12,
            "mfu": self.image and self.peak and each * self.image / self.peak,
            "hfu": self.done and self.peak and each * self.done / self.peak,
        }
        return {key: float(f"{value:.4g}") for key, value in found.items() if value is not None}
