"""Copies of features in fewer bytes, and searches that compare them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sdc.errors import SdcError, UsageError
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.retrieve.encode import EncodeSettings, run
from sdc.retrieve.features.compact_rows import compact_rows
from sdc.retrieve.features.feature_source import encoded_features
from sdc.retrieve.features.stored_rows import StoredRows
from sdc.retrieve.index.index import Index
from sdc.retrieve.rerank.choices import ShortlistChoice
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings
from sdc.retrieve.update import AddSettings, add
from sdc.train.model import Model

ROWS, WIDTH = 300, 12


def write(path, features, **splits):
    count, width = features.shape
    listing = Listing([f"{path.name}/{row}" for row in range(count)], splits)
    return write_features(path, listing, {"source": "import"}, width, features.dtype, [features])


@pytest.fixture
def rows(tmp_path):
    """Stored features of unlike dimensions, one of them all equal, and a row of zeros."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((ROWS, WIDTH)) * rng.uniform(0.01, 100, WIDTH) + rng.uniform(-50, 50, WIDTH)
    features[:, 3] = 7
    features[5], features[9] = 0, features[4]
    return StoredRows.of(FeatureStore(write(tmp_path / "feats.h5", features.astype(np.float32))))


def test_eight_bits_are_within_half_a_step_and_zero_is_exact(rows):
    copy = compact_rows(rows, "int8")
    every = np.arange(ROWS)
    found, features = copy.take(every), rows.take(every)
    assert found.dtype == np.float32
    assert (np.abs(found - features) <= np.ptp(features, axis=0) / 254 * 0.51).all()
    assert not found[5].any()
    assert (found[9] == found[4]).all()
    assert (copy.row_bytes, rows.row_bytes) == (WIDTH, 4 * WIDTH)


def test_float16_is_rounded_and_of_halves_no_copy_is_made(rows, tmp_path):
    copy = compact_rows(rows, "float16")
    np.testing.assert_array_equal(copy.take(np.array([7, 2])), rows.take(np.array([7, 2])).astype(np.float16))
    assert copy.row_bytes == 2 * WIDTH
    half = StoredRows.of(FeatureStore(write(tmp_path / "half.h5", np.ones((3, 4), np.float16))))
    assert compact_rows(half, "float16") is half
    assert not (tmp_path / "half.h5.float16").exists()


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_copy_is_kept_and_made_anew_when_it_no_longer_fits(rows, tmp_path, precision, caplog):
    caplog.set_level("INFO", "sdc")
    path = tmp_path / f"feats.h5.{precision}"
    compact_rows(rows, precision)
    made = path.stat().st_ino
    assert compact_rows(rows, precision).row_bytes == compact_rows(rows, precision).row_bytes
    assert path.stat().st_ino == made
    path.write_bytes(path.read_bytes()[:-9])  # cut short
    compact_rows(rows, precision).verify()
    other = StoredRows.of(FeatureStore(write(tmp_path / "feats.h5", np.full((4, WIDTH), 2, np.float32))))
    found = compact_rows(other, precision)
    np.testing.assert_allclose(found.take(np.arange(4)), 2)
    assert "is a copy of other features: made anew" in caplog.text
    assert sorted(each.name for each in tmp_path.iterdir()) == ["feats.h5", path.name]


def test_a_damaged_copy_is_found_by_verify(rows, tmp_path):
    path = tmp_path / "feats.h5.int8"
    copy = compact_rows(rows, "int8")
    data = bytearray(path.read_bytes())
    data[data.find(np.asarray(copy.features).tobytes()) + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(SdcError, match=r"feats\.h5\.int8 is damaged in /features, rows 0 to 299"):
        compact_rows(rows, "int8").verify()


def test_numbers_beyond_float16_are_refused_without_a_file(tmp_path):
    big = StoredRows.of(FeatureStore(write(tmp_path / "big.h5", np.full((3, 4), 1e6, np.float32))))
    with pytest.raises(UsageError, match=r"up to 1e\+06, and float16 ends at 65504: take int8"):
        compact_rows(big, "float16")
    assert [each.name for each in tmp_path.iterdir()] == ["big.h5"]


def test_a_copy_is_no_feature_store(rows, tmp_path):
    compact_rows(rows, "int8")
    with pytest.raises(SdcError, match="is a copy of features that --rerank reads, expected the feature store itself"):
        FeatureStore(tmp_path / "feats.h5.int8")


# -- searches --


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A changed index of 1,100 items and 120 queries in float32, by a random projection."""
    folder = tmp_path_factory.mktemp("precision")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 24))
    features = (centres[rng.integers(30, size=1220)] + 0.6 * rng.standard_normal((1220, 24))).astype(np.float32)
    np.save(folder / "features.npy", features)
    write(folder / "feats.h5", features[:1120], database=np.arange(1000), query=np.arange(1000, 1120))
    write(folder / "more.h5", features[1120:], database=np.arange(100))
    tensors = {"output.weight": rng.standard_normal((64, 24)), "output.bias": np.zeros(64)}
    Model(tensors, {"method": "lsh", "settings": {}}).save(folder / "model.safetensors")
    run(EncodeSettings(folder / "feats.h5", folder / "model.safetensors", out=folder / "db.bin"))
    add(AddSettings(features=folder / "more.h5", index=folder / "db.bin"))
    return folder


@pytest.mark.parametrize(("precision", "row_bytes"), [("stored", 96), ("float16", 48), ("int8", 24)])
def test_searches_compare_features_in_the_precision_asked_for(made, precision, row_bytes):
    found = search(SearchSettings(made / "db.bin", k=5, rerank=1e9, limit=10, precision=precision))
    assert found["rerank"]["bytes"]["features"] == 1100 * row_bytes
    assert found["rerank"]["precision"] == precision
    index = Index.open(made / "db.bin")
    store = encoded_features(index, None, verify=True, precision=precision)
    x = store.take(index.database.rows).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    queries = store.original.take(index.queries.rows[:10]).astype(np.float64)
    for result, query in zip(found["results"], queries, strict=True):
        similarities = x @ (query / np.linalg.norm(query))
        best = np.argsort(-similarities, kind="stable")[:5]
        assert [near["row"] for near in result["neighbors"]] == index.database.rows[best].tolist()
        np.testing.assert_allclose([near["similarity"] for near in result["neighbors"]], similarities[best], atol=1e-7)
    copies = {each.name for each in made.glob(f"*.h5.{precision}")}
    assert copies == (set() if precision == "stored" else {f"feats.h5.{precision}", f"more.h5.{precision}"})


def test_auto_counts_what_eight_bits_lose_and_remembers_apart(made):
    asked = SearchSettings(made / "db.bin", rerank="auto", recall=0.9)
    whole, eight = search(asked), search(replace(asked, precision="int8"))
    assert whole["rerank"]["shortlist"] <= eight["rerank"]["shortlist"]
    index, x = Index.open(made / "db.bin"), np.load(made / "features.npy").astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    database = np.concatenate([x[:1000], x[1120:]])
    truth = np.argsort(-(x[1000:1120] @ database.T), axis=1, kind="stable")[:, :10]
    found = [[near["row"] for near in result["neighbors"]] for result in eight["results"]]
    kept = np.mean([np.isin(index.database.rows[best], rows).mean() for best, rows in zip(truth, found, strict=True)])
    assert abs(kept - eight["rerank"]["recall"]["achieved"]) < 0.02
    remembered = json.loads((made / "db.bin.rerank.json").read_text())["choices"]
    assert [each.get("precision") for each in remembered] == [None, "int8"]
    assert search(replace(asked, precision="int8")) == eight


def test_a_recall_that_eight_bits_do_not_reach_is_refused(made):
    with pytest.raises(SdcError, match=r"comparing features in int8 loses 0\.\d+ of them"):
        search(SearchSettings(made / "db.bin", rerank="auto", recall=1.0, precision="int8"))


def test_choices_of_an_older_sdc_are_those_of_stored_features():
    older = {"k": 10, "recall": 0.95, "shortlist": 40, "achieved": 0.96, "error": 0.01, "queries": 100, "of": "query"}
    choice = ShortlistChoice.from_json({**older, "nprobe": None})
    assert (choice.precision, choice.search_options) == ("stored", {})
    assert choice.to_json() == {**older, "nprobe": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"precision": "int8"}, "give it with that"), ({"precision": "int4", "rerank": 3}, "unknown precision 'int4'")],
)
def test_a_precision_that_makes_no_sense_is_refused(made, options, message):
    with pytest.raises(UsageError, match=message):
        search(SearchSettings(made / "db.bin", **options))
