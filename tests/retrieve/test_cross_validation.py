"""Choosing on some queries and measuring on others."""

from __future__ import annotations

import numpy as np
import pytest

from sdc.retrieve.cross_validation import cross_validated, folds


@pytest.mark.parametrize("count", [2, 9, 10, 11, 57])
def test_each_is_left_out_once_and_the_others_choose(count):
    masks = list(folds(count))
    assert (np.sum(masks, axis=0) == 1).all()
    assert len(masks) == min(count, 10)
    assert all(mask.any() and not mask.all() for mask in masks)
    values = np.random.default_rng(0).standard_normal(count)
    chosen = cross_validated(
        count, lambda others: values[others].max(), lambda greatest, own: np.full(own.sum(), greatest)
    )
    for place, greatest in enumerate(chosen):
        mask = next(mask for mask in masks if mask[place])
        assert greatest == values[~mask].max()
    assert (chosen >= values)[values < values.max()].all()  # the greatest one is not among those that chose for it
    assert chosen[values.argmax()] < values.max()
