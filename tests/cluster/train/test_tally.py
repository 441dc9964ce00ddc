"""What an evaluation counts beside accuracy and loss, against counting one by one."""

from __future__ import annotations

import pytest
import torch

from cluster.train.tally import Tally
from pipelines.loader import NOT_COUNTED


@pytest.mark.parametrize(("classes", "outputs"), [(6, 8), (5, 5), (2, 2)])
def test_a_tally_counts(classes: int, outputs: int) -> None:
    draws = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, outputs, generator=draws), torch.randint(classes, (200,), generator=draws)
    tally = Tally([f"class {k}" for k in range(classes)])
    for part in range(0, 200, 64):
        tally.add(logits[part : part + 64], labels[part : part + 64])
    for k in range(outputs):
        for j in range(outputs):
            assert tally.confusion[k, j] == ((labels == k) & (logits.argmax(1) == j)).sum()
    among = [int(label) in logits[i].sort(descending=True)[1][:5] for i, label in enumerate(labels)]
    assert tally.row() == ({"top5": sum(among) / 200} if outputs > 5 else {})
    tally.add(logits[:3], torch.tensor([NOT_COUNTED, 1, NOT_COUNTED]))
    assert tally.samples == 201
    assert (tally.name(1), tally.name(classes)) == ("class 1", str(classes))
