"""BatchNorm across segments: running statistics shared by the segments, or kept for each.

    python -m benchmarks.batchnorm [key=value ...]

Trains the quick start with each setting, both at the same time, and prints the test accuracy of every segment's output
and the firing rate of the feedback. Overrides are settings of configs/quickstart.yaml.
"""

from __future__ import annotations

import json
import subprocess
import sys

import torch

import tdformer
from cluster.build.model import load_weights
from cluster.config import load
from cluster.run import checkpoint
from pipelines.loader import eval_loader, to_device
from pipelines.store.tars import TarDataset
from tdformer.measure import measure_firing
from tdformer.state import State

RECIPE = "configs/quickstart.yaml"
SETTINGS = ("shared", "per_segment")


@torch.no_grad()
def accuracy_by_segment(model: tdformer.TDFormer, data: TarDataset) -> list[float]:
    """Test accuracy of each segment's own output, the last of which is the model's."""
    correct = torch.zeros(model.segments)
    for batch in eval_loader(data, rank=0, world=1, batch_size=250, workers=0):
        images = to_device(batch.images, data.mean, data.std, torch.device("cpu"))
        state, high = State(), None
        for segment, x in enumerate(images.expand(model.time_steps, *images.shape).chunk(model.segments)):
            state.segment = segment
            logits, high = model.segment(x, high, state)
            correct[segment] += (logits.argmax(1) == batch.labels).sum()
    return (correct / len(data)).tolist()


def main(overrides: list[str]) -> None:
    words = {s: [f"name=batchnorm-{s}", f"model.segment_norm={s}", "train.threads=1", *overrides] for s in SETTINGS}
    command = [sys.executable, "-m", "cluster.cli", "train", RECIPE]
    runs = [subprocess.Popen([*command, *words[s]], stdout=subprocess.DEVNULL) for s in SETTINGS]
    if any([run.wait() for run in runs]):
        sys.exit("a training failed")
    for setting in SETTINGS:
        config = load(RECIPE, words[setting])
        weights, saved = checkpoint.load_weights(checkpoint.complete(config.run_path / "checkpoints")[0])
        model = tdformer.create_model(**saved["model"]).eval()
        load_weights(model, weights, config.run_path)
        with measure_firing(model) as firing:
            accuracies = accuracy_by_segment(model, TarDataset(config.data.folder / "test"))
        feedback = {name: round(f.rate, 4) for name, f in firing.items() if ".processing." in name}
        print(json.dumps({"segment_norm": setting, "accuracy_by_segment": accuracies, "feedback_rate": feedback}))


if __name__ == "__main__":
    main(sys.argv[1:])
