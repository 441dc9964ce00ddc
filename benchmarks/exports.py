"""Exported programs against the model that they are of, picture by picture.

    python -m benchmarks.exports RUN

RUN is a trained run with shards. Its first 1,000 training pictures (or all, where there are fewer), seen as in
evaluation, go through the model, whose BatchNorm is not folded, and through its .pt2 and .onnx. A spike can flip where
a potential meets its threshold to rounding, and then logits differ by more than rounding.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

import tdformer
from cluster.build.data import opened, view
from cluster.results.export import export
from cluster.results.exported import READERS
from cluster.run.folder import RunFolder
from pipelines.loader import eval_loader, to_device

from . import machine, table

PICTURES, BATCH = 1000, 50


def row(name: str, found: Tensor, wanted: Tensor) -> list[str]:
    differ = (found - wanted).abs().amax(1)
    same, other = int((found == wanted).all(1).sum()), int((found.argmax(1) != wanted.argmax(1)).sum())
    return [name, str(same), f"{differ.max():.2g}", str(int((differ > 1e-4).sum())), str(other)]


@torch.no_grad()
def compared(run: Path) -> str:
    config = RunFolder(run).config()
    assert config is not None
    data = opened(config, "train")
    count = min(PICTURES, len(data)) // BATCH * BATCH
    batches = eval_loader(data, rank=0, world=1, batch_size=BATCH, workers=0, view=view(config, data))
    seen = [to_device(b.images, data.mean, data.std, torch.device("cpu")) for b in islice(batches, count // BATCH)]

    def over(model: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([model(images) for images in seen])

    with tempfile.TemporaryDirectory() as folder:
        export(run, weights := Path(folder, "m.safetensors"))
        model = tdformer.from_pretrained(weights).eval()
        wanted, rows = over(model), []
        for suffix, read in READERS.items():
            export(run, file := Path(folder, f"m{suffix}"), batch=BATCH)
            rows.append(row(suffix, over(read(file)), wanted))
    accuracy = float((wanted.argmax(1) == torch.as_tensor(data.labels[:count])).float().mean())
    head = ["program", f"equal to the bit, of {count}", "largest difference", "by more than 1e-4", "another class"]
    name, steps, spread = model.config["name"], model.time_steps, wanted.std(0).mean()
    about = f"`{name}`, T = {steps}, accuracy on them {accuracy:.1%}, logits of standard deviation {spread:.2g}"
    return f"{about}\n\n{table(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    print(machine(), compared(parser.parse_args().run), sep="; ")


if __name__ == "__main__":
    main()
