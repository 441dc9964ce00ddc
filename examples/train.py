"""A run started from Python, as `tdformer train digits KEY=VALUE ...` starts it; then its model as one file.

Kill it and start it again: it goes on. Settings can be given: python train.py train.epochs=30 name=long
"""

import json
import sys
from pathlib import Path

from cluster import export, load, prepare, start

if __name__ == "__main__":  # more than one process would import this file again
    few = ["train.epochs=3", "train.global_batch=32", "train.warmup_epochs=0.3"]
    settings = ["name=from-python", *few, *sys.argv[1:]]
    prepare(Path("digits"), [])  # shards in data/digits, unless they are there
    config = load("digits", settings)
    code = start(config, processes=1)
    if code:
        sys.exit(code)

    rows = [json.loads(line) for line in (config.run_path / "metrics.jsonl").read_text().splitlines()]
    print(f"{len(rows)} rows in metrics.jsonl, the last one: {rows[-1]}")
    print(export(config.run_path, Path("digits.safetensors")))
