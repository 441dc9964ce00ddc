"""examples/: each program runs as it is, in the order of examples/README.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blocks import ROOT, Reader

FOLDER = ROOT / "examples"
PROGRAMS = re.findall(r"^\| \[(\w+\.py)\]", (FOLDER / "README.md").read_text(), re.M)


def test_the_page_names_every_program() -> None:
    assert sorted(PROGRAMS) == sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.mark.timeout(1800)
def test_examples_run(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    printed = {name: reader.shell(f"python {FOLDER / name}") for name in PROGRAMS}

    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed["own_loop.py"])]
    assert losses[-1] < losses[0]
    accuracy = re.search(r"accuracy ([\d.]+)%", printed["own_loop.py"])
    assert accuracy
    assert float(accuracy[1]) > 80

    assert (tmp_path / "digits.safetensors").is_file()
    guesses = re.findall(r"a (\d) is taken for a (\d)\n", printed["predict.py"])
    assert len(guesses) == 32
    assert len({guess for _, guess in guesses}) > 1  # a network that never fires has one answer
    assert sum(label == guess for label, guess in guesses) >= 8  # 3 by chance

    assert "step 5: 2 micro-batches of (16, 1, 8, 8), 64 different pictures\n" in printed["loader.py"]
    assert printed["loader.py"].endswith("360 of 360 test pictures\n")
