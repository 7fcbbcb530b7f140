"""Training with labels: the order of pairs, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sdc.errors import UsageError
from sdc.train.loop import fit
from sdc.train.methods.sdc import relevant_first
from sdc.train.model import Model
from sdc.train.presets import make_recipe

RNG = np.random.default_rng(0)
LABELS = RNG.integers(6, size=900)
# The labels hide behind directions of more variance, which have nothing to do with them.
TOLD = 3 * np.eye(6)[LABELS] + RNG.standard_normal((900, 6))
X = np.concatenate([TOLD, 3 * RNG.standard_normal((900, 12))], axis=1).astype(np.float32)


def orders(similarities):
    return similarities.argsort(1, stable=True)


@pytest.mark.parametrize("kind", ["single", "some", "multi"])
def test_relevant_pairs_come_first_each_kind_in_its_order(kind):
    torch.manual_seed(0)
    unit = F.normalize(torch.randn(80, 16))
    labels = (torch.rand(80, 5) < 0.3).to(torch.uint8) if kind == "multi" else torch.randint(7, (80,)) + 1000
    if kind == "some":
        labels[::4] = -1  # no label
    known = (labels[:, None] == labels) & (labels != -1) if kind != "multi" else None
    shared = labels.int() @ labels.int().T if known is None else known.int()
    lifted = relevant_first(unit, labels)
    before, after = unit @ unit.T, lifted @ lifted.T
    assert lifted.norm(dim=1).max() <= 1 + 1e-6
    for row in range(80):
        others = torch.arange(80) != row
        s, old, new = shared[row, others], before[row, others], after[row, others]
        ranked = new.argsort()
        assert (s[ranked].diff() >= 0).all()  # more shared labels, nearer
        for count in s.unique():
            np.testing.assert_array_equal(old[s == count].argsort(), new[s == count].argsort())


def same_label_nearest(tensors):
    codes = np.where(Model(tensors, {}).outputs(X) > 0, 1, -1)
    similarities = codes[600:] @ codes[:600].T
    top = np.argsort(-similarities, axis=1)[:, :20]
    return (LABELS[:600][top] == LABELS[600:, None]).mean()


def test_labels_find_what_features_hide():
    found = {}
    for supervised in (False, True):
        recipe = make_recipe(bits=16, epochs=40, batch_size=64, lr=0.03, supervised=supervised)
        found[supervised] = same_label_nearest(fit(X, np.arange(600), recipe, extras={"labels": LABELS})[0])
    assert found[True] > found[False] + 0.06


def test_without_labels_it_is_refused():
    with pytest.raises(UsageError, match=r"learns from labels, and these features have none.*--supervised"):
        fit(X, np.arange(600), make_recipe(bits=16, supervised=True))


def test_rows_without_a_label_do_not_share_one():
    lifted = relevant_first(F.normalize(torch.randn(4, 8)), torch.zeros(4, 3, dtype=torch.uint8))
    assert torch.isfinite(lifted).all()


def test_labels_are_for_methods_that_learn_from_them():
    with pytest.raises(UsageError, match="greedyhash has no use for labels"):
        make_recipe(method="greedyhash", supervised=True)


def test_feature_neighbors_do_not_stop_training_with_labels():
    assert make_recipe(supervised=True).patience == 0
    assert make_recipe(supervised=True, budget=9.0).patience == 0
    assert make_recipe(supervised=True, patience=7).patience == 7
