from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from pipelines.raw import catalog


def test_digits_are_split_in_a_fixed_stratified_way():
    dataset = catalog.get("digits")
    train, test = (dataset.load(split, None) for split in dataset.splits)
    assert [len(train[1]), len(test[1])] == [1437, 360]
    assert np.bincount(test[1]).min() >= 35 and np.bincount(test[1]).max() <= 37
    together = np.concatenate([train[0], test[0]]).reshape(1797, -1)
    original = (load_digits().data * 15).astype(np.uint8)
    assert np.array_equal(together[np.lexsort(together.T)], original[np.lexsort(original.T)])
