"""`sdc.Index`: searches with codes or vectors, reranked by recorded or attached features."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from click.testing import CliRunner

import sdc
from sdc.commands.search import search as search_command
from sdc.errors import SdcError, UsageError
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.retrieve.bits import pack
from sdc.retrieve.encode import EncodeSettings, run
from sdc.retrieve.index.index import Index as CodeIndex
from sdc.retrieve.rerank import shortlist
from sdc.retrieve.update import AddSettings, RemoveSettings, add, remove
from sdc.train.byte_tables import CodeTables
from sdc.train.fit_tables import fit_tables
from sdc.train.model import Model

WIDTH, BITS, ITEMS, QUERIES = 24, 64, 1000, 120


def vectors(count, seed):
    """Points around 40 centres, alike for all seeds."""
    centres = np.random.default_rng(0).standard_normal((40, WIDTH))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(40, size=count)] + 0.6 * rng.standard_normal((count, WIDTH))).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with feats.h5 of 1,000 items and 120 queries, a random projection, db.bin, and 50 queries in q.npy."""
    folder = tmp_path_factory.mktemp("index")
    features = vectors(ITEMS + QUERIES, 1)
    splits = {"database": np.arange(ITEMS), "query": np.arange(ITEMS, len(features))}
    listing = Listing([f"img/{row}" for row in range(len(features))], splits)
    write_features(folder / "feats.h5", listing, {"source": "import"}, WIDTH, np.float32, [features])
    rng = np.random.default_rng(2)
    tensors = {"output.weight": rng.standard_normal((BITS, WIDTH)), "output.bias": np.zeros(BITS)}
    Model(tensors, {"method": "lsh", "settings": {}}).save(folder / "model.safetensors")
    run(EncodeSettings(folder / "feats.h5", folder / "model.safetensors", out=folder / "db.bin"))
    np.save(folder / "q.npy", vectors(50, 3))
    return folder


@pytest.fixture
def index(made):
    return sdc.Index.open(made / "db.bin")


@pytest.fixture
def queries(made):
    return np.load(made / "q.npy")


def items_of(made):
    return np.array(FeatureStore(made / "feats.h5").features)


def exact(queries, items, k):
    """The k nearest rows of each query by cosine."""
    unit = [
        x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (queries, items)
    ]
    return np.argsort(-(unit[0] @ unit[1].T), axis=1, kind="stable")[:, :k]


def test_codes_are_searched_as_ever(index, made, queries):
    codes = index.model.encode(queries)
    expected = CodeIndex.open(made / "db.bin").search(codes, 7)
    found = index.search(codes, 7)
    assert isinstance(found, tuple)
    assert len(found) == 2
    distances, rows = found
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(rows, expected[1])
    assert (found.similarities, found.scores, found.rerank) == (None, None, None)
    assert index.search(codes).rows.shape == (50, 10)
    within = rows[0, :3]
    assert set(index.search(codes, 7, within=within).rows[0]) == set(within)


def test_vectors_are_encoded_by_the_recorded_model(index, queries):
    found, by_codes = index.search(queries, 5), index.search(index.model.encode(queries, query=True), 5)
    np.testing.assert_array_equal(found.rows, by_codes.rows)
    np.testing.assert_array_equal(found.distances, by_codes.distances)
    assert index.search(queries[:0], 5).rows.shape == (0, 5)
    assert index.search(queries[:0], 5, rerank=3).rows.shape == (0, 5)


@pytest.mark.parametrize("factor", ["4", "2.5", "auto"])
@pytest.mark.parametrize("precision", ["stored", "int8"])
def test_index_and_command_give_one_answer(index, made, queries, factor, precision):
    asked = ["--index", str(made / "db.bin"), "--queries", str(made / "q.npy"), "--rerank", factor, "--json"]
    done = CliRunner().invoke(search_command, [*asked, "--precision", precision], catch_exceptions=False)
    answer = json.loads(done.stdout)
    index = sdc.Index.open(made / "db.bin", precision=precision)
    found = index.search(queries, rerank="auto" if factor == "auto" else float(factor))
    for number, result in enumerate(answer["results"]):
        assert [near["row"] for near in result["neighbors"]] == found.rows[number].tolist()
        assert [near["similarity"] for near in result["neighbors"]] == found.similarities[number].tolist()
        assert [near["distance"] for near in result["neighbors"]] == found.distances[number].tolist()
    assert answer["rerank"] == found.rerank


def test_a_large_factor_is_exact_search(index, made, queries):
    found = index.search(queries, 10, rerank=1e9)
    np.testing.assert_array_equal(found.rows, exact(queries, items_of(made)[:ITEMS], 10))
    assert found.rerank["bytes"] == {"codes": ITEMS * BITS // 8, "features": ITEMS * WIDTH * 4}
    few = np.array([3, 500, 999])
    found = index.search(queries, 10, rerank=2, within=few)
    np.testing.assert_array_equal(found.rows, few[exact(queries, items_of(made)[few], 3)])


ATTACHED = {
    "array": lambda made: items_of(made),
    "memory map": lambda made: FeatureStore(made / "feats.h5").features,
    "other floats": lambda made: items_of(made).astype(np.float64),
    "feats.h5": lambda made: made / "feats.h5",
    "the path as text": lambda made: str(made / "feats.h5"),
    "another HDF5": lambda made: foreign(made),
}


def foreign(made):
    import h5py

    with h5py.File(made / "foreign.h5", "w") as file:
        file["embeddings"] = items_of(made)
    return made / "foreign.h5"


@pytest.mark.parametrize("kind", ATTACHED)
def test_attached_features_are_compared(index, made, queries, kind):
    expected = index.search(queries, rerank=4)
    other = sdc.Index.open(made / "db.bin", features=ATTACHED[kind](made))
    assert index.attach(ATTACHED[kind](made)) is index
    for each in (index, other):
        found = each.search(queries, rerank=4)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.similarities, expected.similarities)


def test_other_features_are_refused(index, made, tmp_path):
    items = items_of(made)
    cases = [
        (items[::-1], "not the features that were encoded: of 256 rows"),
        (vectors(len(items), 9), "not the features that were encoded"),
        (items[: ITEMS - 1], r"features of 999 rows, but the index has row 999"),
        (items[:, 1:], "features of 23 dimensions, the model takes 24"),
        (items[0], r"must be floats \(n, d\), found float32 of shape \(24,\)"),
        (items.astype(np.int64), "must be floats"),
    ]
    listing = Listing([str(row) for row in range(len(items))], {"database": np.arange(ITEMS)})
    other = write_features(tmp_path / "other.h5", listing, {"source": "import"}, WIDTH, np.float32, [items[::-1]])
    for features, message in [*cases, (other, "was encoded from features")]:
        with pytest.raises(UsageError, match=message):
            index.attach(features)
    with pytest.raises(SdcError, match=r"no file of features at .*gone\.h5"):
        index.attach(tmp_path / "gone.h5")
    broken = items.copy()
    broken[1] = np.nan
    with pytest.raises(SdcError, match="NaN or Inf in row 1"):
        index.attach(broken).search(items[:3], rerank=1e9)
    with pytest.raises(UsageError, match="unknown precision 'int4'"):
        index.attach(items, precision="int4")


@pytest.mark.parametrize("precision", ["stored", "float16", "int8"])
def test_in_memory_auto_is_measured_once(made, queries, monkeypatch, precision):
    measured = []

    def counting(*arguments, **further):
        measured.append(arguments[3:])
        return choose(*arguments, **further)

    choose = shortlist.choose
    monkeypatch.setattr(shortlist, "choose", counting)
    items = items_of(made)[:ITEMS]
    model = Model.load(made / "model.safetensors")
    index = sdc.Index.build(model.encode(items), model=made / "model.safetensors").attach(items, precision=precision)
    found = index.search(queries, rerank="auto", recall=0.9)
    np.testing.assert_array_equal(index.search(queries, rerank="auto", recall=0.9).rows, found.rows)
    assert measured == [(10, 0.9)]
    facts = found.rerank
    assert (facts["recall"]["asked"], facts["recall"]["measured_on"]) == (0.9, "database rows")
    assert facts["bytes"]["features"] == facts["shortlist"] * WIDTH * {"stored": 4, "float16": 2, "int8": 1}[precision]
    kept = np.mean([np.isin(*pair).mean() for pair in zip(exact(queries, items, 10), found.rows, strict=True)])
    assert kept > 0.87


def test_a_hasher_is_a_model_and_without_one_vectors_are_refused(made, queries):
    items = items_of(made)[:ITEMS]
    hasher = sdc.Hasher.load(made / "model.safetensors")
    index = sdc.Index.build(hasher.encode(items), model=hasher)
    assert index.attach(items).search(queries, 3, rerank=5).similarities.shape == (50, 3)
    plain = sdc.Index.build(hasher.encode(items))
    with pytest.raises(UsageError, match="this index knows no model"):
        plain.search(queries)
    with pytest.raises(UsageError, match="knows no model"):
        plain.attach(items)
    with pytest.raises(UsageError, match="makes codes of 64 bits, the index has 8"):
        sdc.Index.build(np.zeros((3, 1), np.uint8), model=hasher).search(queries)


def test_a_model_given_to_open_must_be_the_one_that_encoded(made, tmp_path, queries, caplog):
    same = sdc.Index.open(made / "db.bin", model=made / "model.safetensors").search(queries)
    np.testing.assert_array_equal(same.rows, sdc.Index.open(made / "db.bin").search(queries).rows)
    tensors = {"output.weight": np.ones((BITS, WIDTH)), "output.bias": np.zeros(BITS)}
    other = Model(tensors, {"method": "lsh", "settings": {}})
    for model in (other, other.save(tmp_path / "other.safetensors")):
        with pytest.raises(UsageError, match="was encoded by the model"):
            sdc.Index.open(made / "db.bin", model=model).search(queries)
    path = sdc.Index.build(pack(other.outputs(queries))).save(tmp_path / "db.bin")  # records no model
    assert sdc.Index.open(path, model=other).search(queries, 1).distances.tolist() == [[0]] * 50
    assert "is taken on trust" in caplog.text


def test_queries_that_make_no_sense_are_refused(index, queries):
    with pytest.raises(UsageError, match="reranking compares features: give the queries' vectors"):
        index.search(index.model.encode(queries), rerank=3)
    with pytest.raises(UsageError, match="query codes must be"):
        index.search(queries.astype(np.int64))
    with pytest.raises(UsageError, match="the model of the index takes 24 dimensions"):
        index.search(queries[:, 1:])
    with pytest.raises(UsageError, match="the model of the index takes 24 dimensions"):
        index.search(queries[0])
    with pytest.raises(UsageError, match="k must be at least 1, found 0"):
        index.search(queries, 0, rerank=3)
    with pytest.raises(UsageError, match="a number from 1 on"):
        index.search(queries, rerank=0.5)
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        index.search(queries, rerank="auto", recall=2)
    bad = queries.copy()
    bad[4, 2] = np.inf
    with pytest.raises(SdcError, match=r"1 vectors hold NaN or Inf \(rows 4\)"):
        index.search(bad, rerank=3)


@pytest.fixture
def own(made, tmp_path):
    """A copy of the folder that a test may change."""
    for name in ("feats.h5", "model.safetensors", "db.bin"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    return tmp_path


def test_a_changed_index_is_reranked_as_it_stands(own, queries):
    more = vectors(90, 5)
    listing = Listing([f"more/{row}" for row in range(90)], {"database": np.arange(90)})
    write_features(own / "more.h5", listing, {"source": "import"}, WIDTH, np.float32, [more])
    add(AddSettings(features=own / "more.h5", index=own / "db.bin"))
    remove(RemoveSettings(index=own / "db.bin", ids=tuple(f"img/{row}" for row in range(0, 400, 2))))
    index = sdc.Index.open(own / "db.bin")
    rows = index.items.rows(np.arange(index.ntotal))
    everything = np.concatenate([items_of(own), more])
    found = index.search(queries, 10, rerank=1e9)
    np.testing.assert_array_equal(found.rows, rows[exact(queries, everything[rows], 10)])
    np.testing.assert_array_equal(index.attach(everything).search(queries, 10, rerank=1e9).rows, found.rows)
    with pytest.raises(UsageError, match="but the index has row 1209"):
        index.attach(items_of(own))


def test_without_features_codes_give_the_order(own, queries, caplog):
    caplog.set_level("INFO", "sdc")
    features = (own / "feats.h5").rename(own / "moved.h5")
    index = sdc.Index.open(own / "db.bin")
    found = index.search(queries, rerank=4)
    index.search(queries, rerank=4)
    assert (found.similarities, found.rerank["by"]) == (None, "codes")
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert caplog.text.count("the order is by codes alone") == 1
    with pytest.raises(SdcError, match="not at hand"):
        index.search(queries, rerank="auto")
    assert index.attach(features).search(queries, rerank=4).rerank["by"] == "features"


def test_what_is_found_can_be_pickled(index, queries):
    found = index.search(queries, rerank=4)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.rows, found.rows)
    np.testing.assert_array_equal(again.similarities, found.similarities)
    assert again.rerank == found.rerank


@pytest.fixture(scope="module")
def tabled(made, tmp_path_factory):
    """The folder of `made` with a model that has byte tables."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "feats.h5").write_bytes((made / "feats.h5").read_bytes())
    np.save(folder / "q.npy", vectors(50, 3))
    plain, features = Model.load(made / "model.safetensors"), items_of(made)
    tables = CodeTables(fit_tables(plain.encode(features), features / np.linalg.norm(features, axis=1, keepdims=True)))
    Model(plain.tensors, plain.metadata, tables).save(folder / "model.safetensors")
    run(EncodeSettings(folder / "feats.h5", folder / "model.safetensors", out=folder / "db.bin"))
    return folder


def test_vectors_are_scored_by_byte_tables_as_by_the_command(tabled):
    queries = np.load(tabled / "q.npy")
    asked = ["--index", str(tabled / "db.bin"), "--queries", str(tabled / "q.npy"), "--json"]
    for recall in (0.95, 0.8, 1):
        options = [] if recall == 0.95 else ["--recall", str(recall)]
        done = CliRunner().invoke(search_command, [*asked, *options], catch_exceptions=False)
        answer = json.loads(done.stdout)
        found = sdc.Index.open(tabled / "db.bin").search(queries, recall=recall)
        assert answer["float"] == found.in_float
        for number, result in enumerate(answer["results"]):
            assert [near["row"] for near in result["neighbors"]] == found.rows[number].tolist()
            assert [near["score"] for near in result["neighbors"]] == found.scores[number].tolist()
    assert (found.similarities, found.rerank, found.in_float["candidates"]) == (None, None, ITEMS)


def test_in_memory_vectors_are_scored_by_the_tables_of_the_model(tabled):
    queries, items = np.load(tabled / "q.npy"), items_of(tabled)[:ITEMS]
    hasher = sdc.Hasher.load(tabled / "model.safetensors")
    index = sdc.Index.build(hasher.encode(items), model=hasher)
    expected = sdc.Index.open(tabled / "db.bin").search(queries, recall=1)
    np.testing.assert_array_equal(index.search(queries, recall=1).rows, expected.rows)
    np.testing.assert_array_equal(index.search(queries, recall=1).scores, expected.scores)
    guessed = index.search(queries).in_float  # there is nothing to measure with
    assert (guessed.keys(), guessed["by"]) == ({"by", "candidates"}, "tables")
    measured = index.attach(items).search(queries).in_float
    assert measured["recall"]["measured_on"] == "database rows"
    assert index.search(hasher.encode(queries)).in_float is None


def a_set(seed):
    """4,000 items, 1,000 queries to choose with and 1,000 unseen ones, of as many clusters as the seed says."""
    rng = np.random.default_rng(seed)
    centres, basis = rng.standard_normal((10 + 20 * seed, 12)), rng.standard_normal((12, 32))
    points = centres[rng.integers(len(centres), size=6000)] + rng.uniform(0.3, 0.8) * rng.standard_normal((6000, 12))
    features = (points @ basis + 0.3 * rng.standard_normal((6000, 32))).astype(np.float32)
    return features[:4000], features[4000:5000], features[5000:]


def of_a_file(seed, folder, items, split):
    """An index of a file that has a query split, by a random projection."""
    features, rows = np.concatenate([items, split]), np.arange(5000)
    listing = Listing([str(row) for row in rows], {"database": rows[:4000], "query": rows[4000:]})
    write_features(folder / "feats.h5", listing, {"source": "import"}, 32, np.float32, [features])
    weight = np.random.default_rng(seed).standard_normal((64, 32))
    Model({"output.weight": weight, "output.bias": np.zeros(64)}, {}).save(folder / "model.safetensors")
    paths = {"features": "feats.h5", "model": "model.safetensors", "out": "db.bin"}
    return sdc.Index.open(run(EncodeSettings(**{key: folder / name for key, name in paths.items()}, overwrite=True)))


def in_memory(seed, folder, items, split):
    """An index of arrays, by a model that was fitted to them; its own items stand in for queries."""
    hasher = sdc.Hasher(bits=32, method="itq", seed=seed).fit(items)
    return sdc.Index.build(hasher.encode(items), model=hasher).attach(items, precision="int8" if seed % 2 else "stored")


@pytest.mark.slow
@pytest.mark.parametrize("made_of", [of_a_file, in_memory])
def test_the_promised_recall_is_missed_once_in_24_at_most(made_of, tmp_path):
    missed = []
    for seed in range(24):
        items, split, unseen = a_set(seed)
        found = made_of(seed, tmp_path, items, split).search(unseen, 10, rerank="auto", recall=0.95)
        assert found.rerank["recall"]["queries"] == 1000
        assert found.rerank["shortlist"] < 1000  # reached by choosing, not by comparing everything
        kept = np.mean([np.isin(*pair).mean() for pair in zip(exact(unseen, items, 10), found.rows, strict=True)])
        missed += [(seed, kept)] if kept < 0.95 else []
    assert len(missed) <= 1, missed
