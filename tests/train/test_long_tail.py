"""Long-tailed training sets: the law, the groups, and what training makes of them."""

from __future__ import annotations

import logging
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdc
from sdc.errors import UsageError
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.train.long_tail import GROUPS, class_groups, long_tail
from sdc.train.model import Model
from sdc.train.run import TrainSettings, run


def test_rows_without_a_label_are_of_no_class():
    labels = np.array([-1, 0, 0, 1, -1, 1, 0, 0, 1, 1])
    rows = np.arange(10) * 3
    kept = long_tail(rows, labels, 2, 0)
    np.testing.assert_array_equal(kept, long_tail(rows[labels >= 0], labels[labels >= 0], 2, 0))
    assert class_groups(labels) == class_groups(labels[labels >= 0])


def kept_sizes(labels, ratio, seed=0):
    """Rows kept of each class that has any, largest first."""
    kept = long_tail(np.arange(len(labels)), labels, ratio, seed)
    return sorted(np.unique(labels[kept], return_counts=True)[1].tolist(), reverse=True)


@pytest.mark.parametrize(
    ("classes", "each", "total", "first", "last"), [(10, 5000, 12406, 5000, 50), (100, 500, 10847, 500, 5)]
)
def test_the_law_gives_the_known_sizes_of_long_tailed_cifar(classes, each, total, first, last):
    sizes = kept_sizes(np.repeat(np.arange(classes), each), 100)
    assert (sum(sizes), sizes[0], sizes[-1], len(sizes)) == (total, first, last, classes)


@given(
    st.lists(st.integers(1, 300), min_size=2, max_size=12),
    st.floats(1, 50, exclude_min=True),
    st.integers(0, 2**32 - 1),
)
def test_the_ratio_is_kept_to_rounding_in_any_classes(sizes, ratio, seed):
    sizes = np.maximum(sizes, int(np.ceil(ratio)))  # large enough in any order of the classes
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(random.choice(1000, len(sizes), replace=False), sizes))
    rows = np.sort(random.choice(5 * len(labels), len(labels), replace=False))
    kept = long_tail(rows, labels, ratio, seed)
    assert (np.diff(kept) > 0).all()
    assert np.isin(kept, rows).all()
    left = labels[np.isin(rows, kept)]
    assert set(left) == set(labels)
    counts = np.sort(np.unique(left, return_counts=True)[1])[::-1]
    steps = ratio ** (-np.arange(len(counts)) / (len(counts) - 1))
    # Each count is n · step rounded down, for one n: it lies between the bounds that each sets.
    assert (counts / steps).max() < ((counts + 1) / steps).min() * (1 + 1e-9)

    groups = class_groups(left)
    assert list(groups) == list(GROUPS)
    assert sorted(chain(*groups.values())) == sorted(set(labels.tolist()))
    held = [[int((left == label).sum()) for label in group] for group in groups.values() if group]
    assert all(min(one) >= max(other) for one, other in pairwise(held))


@pytest.mark.parametrize(
    ("classes", "sizes"), [(2, (1, 0, 1)), (3, (1, 1, 1)), (4, (1, 2, 1)), (10, (3, 4, 3)), (100, (33, 34, 33))]
)
def test_groups_are_thirds_by_training_size(classes, sizes):
    numbers = np.random.default_rng(0).permutation(classes)  # class numbers[0] is the largest
    groups = class_groups(np.repeat(numbers, np.arange(classes, 0, -1)))
    assert tuple(map(len, groups.values())) == sizes
    assert list(chain(*groups.values())) == numbers.tolist()


def test_the_seed_orders_classes_and_higher_ratios_are_subsets():
    rows, labels = np.arange(1000) * 2 + 1, np.arange(1000) % 10
    kept = long_tail(rows, labels, 20, 0)
    assert (kept == long_tail(rows, labels, 20, 0)).all()
    assert set(long_tail(rows, labels, 80, 0)) < set(kept)
    largest = {class_groups((long_tail(rows, labels, 20, seed) - 1) // 2 % 10)["head"][0] for seed in range(20)}
    assert len(largest) > 4


@pytest.mark.parametrize("ratio", [1, 0.5, -3, 0, float("nan"), float("inf")])
def test_what_is_no_ratio_is_refused(ratio):
    with pytest.raises(UsageError, match=r"--imbalance is .*expected .* a number above 1"):
        long_tail(np.arange(20), np.arange(20) % 2, ratio, 0)


def test_classes_that_do_not_allow_it_are_refused():
    with pytest.raises(UsageError, match="at least two classes, found 1"):
        long_tail(np.arange(20), np.zeros(20, int), 2, 0)
    with pytest.raises(UsageError, match="leaves no row of the smallest of 2 classes: the largest can have 10 rows"):
        long_tail(np.arange(20), np.arange(20) % 2, 11, 0)
    assert kept_sizes(np.arange(20) % 2, 10) == [10, 1]


def features(folder, labels):
    rng = np.random.default_rng(0)
    listing = Listing(
        [str(row) for row in range(400)],
        {"train": np.arange(40, 400), "query": np.arange(40), "database": np.arange(400)},
        labels,
    )
    values = rng.standard_normal((400, 16)).astype(np.float32)
    return write_features(folder / "feats.h5", listing, {"source": "import"}, 16, np.float32, [values])


@pytest.mark.parametrize("train_on", ["train", "database"])
def test_training_takes_the_kept_rows_and_records_the_groups(tmp_path, caplog, train_on):
    labels = np.arange(400, dtype=np.int32) % 6 + 3
    store = FeatureStore(features(tmp_path, labels))
    settings = {"features": store.path, "method": "pcah", "bits": 8, "train_on": train_on, "seed": 4}
    out = tmp_path / "model.safetensors"
    caplog.set_level(logging.INFO, "sdc")
    model = Model.load(run(TrainSettings(**settings, imbalance=12, out=out)))
    kept = long_tail(store.splits["train"], labels[40:], 12, 4)
    assert f"imbalance 12: {len(kept)} of 360 training rows are kept" in caplog.text
    assert model.metadata["training"]["rows"] == len(kept) < 200
    assert model.metadata["settings"]["imbalance"] == 12
    assert model.metadata["groups"] == class_groups(labels[kept])
    assert [len(classes) for classes in model.metadata["groups"].values()] == [2, 2, 2]
    # The model is that of these rows alone.
    alone = sdc.Hasher(bits=8, method="pcah", seed=4).fit(store.features[kept])
    np.testing.assert_array_equal(alone.encode(store.features), sdc.Hasher.load(out).encode(store.features))

    run(TrainSettings(**settings, imbalance=12, out=out))
    assert "nothing to do" in caplog.text
    with pytest.raises(UsageError, match=r"imbalance: found 12, wanted 20"):
        run(TrainSettings(**settings, imbalance=20, out=out))
    with pytest.raises(UsageError, match=r"imbalance: found 12, wanted null"):
        run(TrainSettings(**settings, out=out))


def test_without_imbalance_nothing_of_it_is_recorded(tmp_path):
    path = features(tmp_path, np.arange(400, dtype=np.int32) % 6)
    model = Model.load(run(TrainSettings(features=path, method="pcah", bits=8, out=tmp_path / "m.safetensors")))
    assert "imbalance" not in model.metadata["settings"]
    assert "groups" not in model.metadata
    assert model.metadata["training"]["rows"] == 360


@pytest.mark.parametrize(
    ("labels", "found"), [(None, "has none"), (np.eye(4, dtype=np.uint8)[np.arange(400) % 4], r"has several \(4 clas")]
)
def test_imbalance_needs_one_label_a_row(tmp_path, labels, found):
    path = features(tmp_path, labels)
    with pytest.raises(UsageError, match=rf"--imbalance needs one label a row, .*feats\.h5 {found}"):
        run(TrainSettings(features=path, imbalance=5, out=tmp_path / "m.safetensors"))
    assert [file.name for file in tmp_path.iterdir()] == ["feats.h5"]
