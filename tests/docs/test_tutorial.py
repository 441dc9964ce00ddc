"""The tutorial, as it is written: its blocks one after the other in an empty folder, each command in a process of its
own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from blocks import ROOT, Reader, blocks

PAGE = ROOT / "docs" / "tutorial.md"


def output(after: str) -> str:
    """The output that the page shows after the commands that begin with `after`."""
    found = re.search(rf"^```\n{re.escape(after)}.*?^```\n\n```text\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert found
    return found[1]


@pytest.mark.timeout(1800)
def test_a_reader_gets_from_pictures_to_a_prediction(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    printed: dict[str, str] = {}
    after_kills: list[str] = []
    for block in blocks(PAGE):
        assert not block.why_not
        last = reader.do(block)
        after_kills += [last] * ("kill -9" in block.text)
        printed.setdefault(" ".join(block.text.split()[:2]), last)
    assert (tmp_path / "runs" / "fruit" / "curves.png").is_file()
    assert {*output("tdformer shard").splitlines()} <= {*printed["tdformer shard"].splitlines()}
    assert json.loads(printed["tdformer eval"].splitlines()[-1])["accuracy"] > 0.8

    named = re.search(r"^(\S+: apple) \((\d+)%\)$", printed["python predict.py"], re.M)
    assert named
    assert output("python predict.py").startswith(named[1])
    assert int(named[2]) > 60

    first = printed["tdformer predict"].splitlines()[0]
    assert first.startswith(f"{named[1]} ") and output("tdformer predict").startswith(f"{named[1]} ")
    assert abs(float(re.findall(r"([\d.]+)%", first)[0]) - int(named[2])) < 1
    assert (tmp_path / "fruit.html").is_file() and (tmp_path / "fruit.safetensors.md").is_file()

    chained = last.splitlines()[-16:]  # of the block with the chain: predictions of 16 plums
    assert sum(": plum " in line for line in chained) > 12, last

    # On a busy machine one may have ended before its kill.
    went_on = [re.search("goes on from step [1-9]", said) for said in after_kills]
    assert len(went_on) == 3 and any(went_on), after_kills

    # A network that never fires names all pictures alike.
    plums = reader.shell("python predict.py pictures/val/plum/*.png")
    assert plums.count(": plum") > 12, plums
