"""A global batch is split exactly, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import config as configs
from cluster.config import Config, load
from cluster.errors import RunError


@given(st.integers(1, 96), st.integers(0, 12), st.integers(1, 6))
def test_the_batch_is_split_exactly_or_refused(batch: int, micro: int, world: int):
    divides = batch % world == 0 and (micro == 0 or batch % (world * micro) == 0)
    try:
        config = load(None, [f"train.global_batch={batch}", f"train.micro_batch={micro}"])
        plan = configs.resolve(config, world)
    except RunError as e:
        assert not divides
        assert "train.global_batch" in str(e)
    else:
        assert divides
        assert plan.world * plan.accumulation * plan.micro_batch == plan.global_batch == batch
        assert plan.accumulation == 1 or plan.micro_batch == micro


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(RunError, match="exceeds the 127 training images"):
        configs.resolve(Config(), 1, dataset_size=127)
    assert configs.resolve(Config(), 1, dataset_size=128).micro_batch == 128
