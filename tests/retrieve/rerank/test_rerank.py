from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.arrays import directions
from sdc.errors import SdcError, UsageError
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.retrieve.bits import hamming, pack, unpack
from sdc.retrieve.encode import EncodeSettings, run
from sdc.retrieve.features import encoded_features
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.records import Records
from sdc.retrieve.rerank import shortlist
from sdc.retrieve.rerank.reranker import Reranker
from sdc.retrieve.rerank.scoring import WIDTH, code_scores, rerank, shortlist_size
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings
from sdc.retrieve.update import AddSettings, add
from sdc.train.byte_tables import CodeTables
from sdc.train.fit_tables import fit_tables
from sdc.train.model import Model


def cosine(a, b):
    """Plain, rounded as the product promises, 0 where a vector has no direction."""
    length = math.hypot(*map(float, a)) * math.hypot(*map(float, b))
    return round(math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True)) / length, 9) if length else 0.0


def signs(code):
    return [1 if bit else -1 for bit in unpack(code[None])[0]]


def plainly(codes, rows, output, k, size=None, query=None, features=None):
    """One query's (row, Hamming distance, similarity), best first, and the rows whose features that takes."""
    own = pack(np.array([output]))
    near = [(int(hamming(own, code[None])[0, 0]), int(row), code) for code, row in zip(codes, rows, strict=True)]
    near = sorted(near, key=lambda item: item[:2])[: None if size is None else WIDTH * size]
    scored = sorted((-cosine(output, signs(code)), row, distance) for distance, row, code in near)
    if query is None:
        return [(row, distance, -score) for score, row, distance in scored[:k]], set()
    best = [(row, distance) for _, row, distance in scored[:size]]
    found = sorted((-cosine(query, features[row]), row, distance) for row, distance in best)
    return [(row, distance, -similarity) for similarity, row, distance in found[:k]], {row for row, _ in best}


def listed(hits, place=0):
    return list(zip(hits.rows[place].tolist(), hits.distances[place].tolist(), hits.similarities[place], strict=True))


def agree(found, expected):
    """The same rows and distances in the same order, and the same similarities but for their last digits."""
    assert [hit[:2] for hit in found] == [hit[:2] for hit in expected]
    assert [hit[2] for hit in found] == pytest.approx([hit[2] for hit in expected], abs=1e-6)


whole = st.integers(-2, 2)  # few values: many ties


@st.composite
def problems(draw):
    count, bits, dimension = draw(st.integers(1, 30)), draw(st.sampled_from([8, 16])), draw(st.integers(1, 3))
    rows = np.array(sorted(draw(st.sets(st.integers(0, 60), min_size=count, max_size=count))))

    def matrix(n, width):
        return np.array(draw(st.lists(st.lists(whole, min_size=width, max_size=width), min_size=n, max_size=n)))

    features = np.zeros((61, dimension), np.float16)
    features[rows] = matrix(count, dimension)
    return pack(matrix(count, bits)), rows, matrix(2, bits).astype(np.float32), matrix(2, dimension), features


@given(problems(), st.integers(1, 12), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_equals_a_plain_implementation_over_the_shortlist(problem, k, factor):
    codes, rows, outputs, queries, features = problem
    index = Index.build(codes, rows=rows)
    k = min(k, len(rows))
    size = shortlist_size(k, factor, len(rows))
    distances, near = index.search(pack(outputs), min(len(rows), WIDTH * size))
    by_codes = rerank(index, distances, near, outputs, k)
    for place, output in enumerate(outputs):
        expected, _ = plainly(codes, rows, output, k, size)
        agree(listed(by_codes, place), expected)
    for place, (output, query) in enumerate(zip(outputs, queries, strict=True)):
        expected, touched = plainly(codes, rows, output, k, size, query, features)
        poisoned = features.copy()
        poisoned[sorted(set(range(len(features))) - touched)] = np.nan
        one = slice(place, place + 1)
        hits = rerank(
            index, distances[one], near[one], outputs[one], k,
            shortlist=size, queries=queries[one], features=poisoned,
        )  # fmt: skip
        agree(listed(hits), expected)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An index of 3000 clustered vectors whose query split has 400, and 400 further queries."""
    folder = tmp_path_factory.mktemp("clusters")
    rng = np.random.default_rng(0)
    centres, basis = rng.standard_normal((60, 10)), rng.standard_normal((10, 32))
    points = centres[rng.integers(60, size=3800)] + 0.5 * rng.standard_normal((3800, 10))
    features = (points @ basis + 0.3 * rng.standard_normal((3800, 32))).astype(np.float16)
    listing = Listing([str(n) for n in range(3800)], {"query": np.arange(3000, 3400), "database": np.arange(3000)})
    write_features(folder / "feats.h5", listing, {"source": "import"}, 32, np.float16, [features])
    tensors = {"output.weight": rng.standard_normal((64, 32)), "output.bias": np.zeros(64)}
    Model(tensors, {"method": "lsh", "settings": {}}).save(folder / "model.safetensors")
    paths = {"features": "feats.h5", "model": "model.safetensors", "out": "db.bin"}
    run(EncodeSettings(**{key: folder / name for key, name in paths.items()}))
    return folder


def opened(folder):
    parts = Index.open(folder / "db.bin"), Model.load(folder / "model.safetensors")
    return *parts, FeatureStore(folder / "feats.h5")


def test_a_full_shortlist_is_exact_with_equal_vectors_by_row():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 8)).astype(np.float16)
    features[[150, 90, 31]] = features[4]
    outputs = rng.standard_normal((201, 16)).astype(np.float32)
    index = Index.build(pack(outputs[:200]))
    distances, rows = index.search(pack(outputs[200:]), 200)
    hits = rerank(index, distances, rows, outputs[200:], 500, queries=features[4:5], features=features)
    expected = sorted(range(200), key=lambda row: (-cosine(features[4], features[row]), row))
    assert hits.rows[0].tolist() == expected
    assert hits.rows[0, :4].tolist() == [4, 31, 90, 150]
    assert hits.similarities[0, :4].tolist() == [1, 1, 1, 1]


def test_the_asymmetric_order_has_more_neighbors_than_hamming(made):
    index, model, store = opened(made)
    queries = np.arange(3400, 3600)
    outputs = model.outputs(store.take(queries))
    x = store.features.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    truth = np.argsort(-x[queries] @ x[:3000].T, axis=1)[:, :10]
    distances, rows = index.search(pack(outputs), 40)
    finer = rerank(index, distances, rows, outputs, 10).rows
    kept = [np.mean([np.isin(*pair).mean() for pair in zip(truth, top, strict=True)]) for top in (rows[:, :10], finer)]
    assert kept[1] > kept[0] + 0.04


@pytest.mark.parametrize(
    ("k", "factor", "size"), [(10, 1, 10), (10, 2.5, 25), (3, 1.1, 4), (10, 1e300, 99), (99, 1, 99)]
)
def test_the_factor_makes_k_the_size_of_the_shortlist(k, factor, size):
    assert shortlist_size(k, factor, 99) == size


def test_arrays_that_do_not_fit_are_refused():
    index = Index.build(np.zeros((5, 2), np.uint8))
    distances, rows = index.search(np.zeros((2, 2), np.uint8), 5)
    outputs, vectors = np.ones((2, 16), np.float32), np.ones((5, 3))
    with pytest.raises(UsageError, match=r"outputs of 2 queries must be \(2, 16\), found \(2, 8\)"):
        rerank(index, distances, rows, outputs[:, :8], 3)
    with pytest.raises(UsageError, match=r"must be \(2, 3\), found \(1, 3\)"):
        rerank(index, distances, rows, outputs, 3, queries=vectors[:1], features=vectors)
    with pytest.raises(UsageError, match="give both, or neither"):
        rerank(index, distances, rows, outputs, 3, features=vectors)
    with pytest.raises(UsageError, match="at least 1, found 0"):
        rerank(index, distances, rows, outputs, 0)


def check_results(scene, found, vectors, k, size, *, by_features=True):
    store, index, model = scene.store, scene.index, scene.model
    for result, vector in zip(found["results"], vectors, strict=True):
        output = model.outputs(vector[None].astype(np.float32))[0]
        extra = (vector, store.features) if by_features else ()
        expected, _ = plainly(index.database.codes, index.database.rows, output, k, size, *extra)
        name = "similarity" if by_features else "score"
        hits = [(near["row"], near["distance"], near[name]) for near in result["neighbors"]]
        agree(hits, expected)
        assert [near["id"] for near in result["neighbors"]] == index.ids(np.array([row for row, *_ in hits]))


def test_queries_of_every_kind_are_reranked_by_their_features(scene):
    asked = SearchSettings(scene.folder / "db.bin", k=5, rerank=3)
    found = search(replace(asked, limit=8))
    check_results(scene, found, scene.store.features[scene.index.queries.rows[:8]], 5, 15)
    assert found["rerank"] == {
        "by": "features", "candidates": 60, "shortlist": 15, "precision": "stored",
        "bytes": {"codes": 60 * 2, "features": 15 * 24 * 4},
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found
    vectors = np.random.default_rng(3).standard_normal((4, 24)).astype(np.float32)
    np.save(scene.folder / "q.npy", vectors)
    mixed = replace(asked, queries=scene.folder / "q.npy", ids=("img/0007.png", "img/0399.png"))
    check_results(scene, search(mixed), [*vectors, *scene.store.features[[7, 399]]], 5, 15)
    check_results(scene, search(replace(mixed, limit=3)), vectors[:3], 5, 15)


def test_all_of_the_database_can_be_compared(scene):
    found = search(SearchSettings(scene.folder / "db.bin", k=10_000, rerank=1, limit=1))
    what = {name: found["rerank"][name] for name in ("by", "candidates", "shortlist")}
    assert (found["k"], what) == (400, {"by": "features", "candidates": 400, "shortlist": 400})
    similarities = [near["similarity"] for near in found["results"][0]["neighbors"]]
    assert similarities == sorted(similarities, reverse=True)
    assert sorted(near["row"] for near in found["results"][0]["neighbors"]) == list(range(400))


def test_without_features_codes_give_the_order_or_an_error(scene, caplog):
    caplog.set_level("INFO", "sdc")
    vectors = np.random.default_rng(3).standard_normal((4, 24)).astype(np.float32)
    np.save(scene.folder / "q.npy", vectors)
    asked = SearchSettings(scene.folder / "db.bin", k=5, rerank=3, queries=scene.folder / "q.npy")
    moved = (scene.folder / "feats.h5").rename(scene.folder / "moved.h5")
    found = search(asked)
    assert "by codes alone (asymmetric distance)" in caplog.text
    assert found["rerank"] == {"by": "codes", "candidates": 60, "bytes": {"codes": 120, "features": 0}}
    moved.rename(scene.folder / "feats.h5")
    check_results(scene, found, vectors, 5, 15, by_features=False)
    (scene.folder / "feats.h5").rename(moved)
    with pytest.raises(SdcError, match="are not at hand: say where with --features"):
        search(replace(asked, queries=None))
    with pytest.raises(SdcError, match=r"no feature store at .*feats\.h5"):
        search(replace(asked, rerank="auto"))
    with pytest.raises(SdcError, match=r"no feature store at .*gone\.h5"):
        search(replace(asked, features=scene.folder / "gone.h5"))
    assert "similarity" in search(replace(asked, features=moved))["results"][0]["neighbors"][0]


def test_a_filter_restricts_what_is_reranked(scene):
    (scene.folder / "some.txt").write_text("img/0003.png\nimg/0200.png\nimg/0201.png\n")
    asked = SearchSettings(scene.folder / "db.bin", k=5, rerank=1, limit=3, only_ids=scene.folder / "some.txt")
    for result in search(asked)["results"]:
        query = scene.store.features[scene.store.ids().index(result["query"])]
        expected = sorted((3, 200, 201), key=lambda row: -cosine(query, scene.store.features[row]))
        assert [near["row"] for near in result["neighbors"]] == expected


def test_no_candidates_give_no_neighbors():
    index = Index.build(np.zeros((5, 2), np.uint8))
    none = np.empty((2, 0), np.int32), np.empty((2, 0), np.int64)
    features = np.ones((5, 3))
    assert rerank(index, *none, np.ones((2, 16)), 3).rows.shape == (2, 0)
    assert rerank(index, *none, np.ones((2, 16)), 3, queries=features[:2], features=features).rows.shape == (2, 0)


def test_other_features_are_refused_wherever_they_are(scene):
    asked = SearchSettings(scene.folder / "db.bin", rerank=3)
    other = scene.write_features("other.h5", seed=1)
    with pytest.raises(UsageError, match="was encoded from features"):
        search(replace(asked, features=other))
    scene.write_features(seed=1)
    with pytest.raises(UsageError, match="was encoded from features"):
        search(asked)


# -- auto --


def recall_of(*arguments):
    return float(np.mean(recalls_of(*arguments)))


def recalls_of(index, model, store, rows, k, size):
    """Of items of the store, their own rows left out, one by one."""
    x = store.features.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    database, found = index.database.rows, []
    distances = hamming(pack(model.outputs(store.take(rows))), index.database.codes)
    bits = 2.0 * unpack(index.database.codes) - 1
    for row, distance, output in zip(rows, distances, model.outputs(store.take(rows)), strict=True):
        others = np.flatnonzero(database != row)
        truth = others[np.lexsort((others, -np.round(x[database[others]] @ x[row], 9)))][:k]
        near = others[np.lexsort((others, distance[others]))][: WIDTH * size]
        scores = np.round(bits[near] @ output.astype(np.float64) / np.linalg.norm(output.astype(np.float64)) / 8, 9)
        found.append(np.isin(truth, near[np.lexsort((near, -scores))][:size]).mean())
    return np.array(found)


@pytest.mark.parametrize("recall", [0.8, 0.95])
def test_auto_reaches_the_recall_on_unseen_queries_economically(made, recall):
    index, model, store = opened(made)
    choice = shortlist.choose(index, model, store, 10, recall)
    assert (choice.queries, choice.of) == (400, "query")
    assert abs(choice.achieved - recall_of(index, model, store, index.queries.rows, 10, choice.shortlist)) < 0.005
    unseen = np.arange(3400, 3800)
    assert recall_of(index, model, store, unseen, 10, choice.shortlist) >= recall
    assert recall_of(index, model, store, unseen, 10, int(choice.shortlist / 1.5)) < recall


@pytest.mark.parametrize(("count", "times"), [(100, 1.8), pytest.param(200, 1.5, marks=pytest.mark.slow)])
def test_auto_keeps_its_promise_to_unseen_queries_over_seeds(made, count, times):
    index, model, store = opened(made)
    everyone = np.arange(3000, 3800)
    codes = pack(model.outputs(store.take(everyone)))
    reached = functools.cache(lambda size: recalls_of(index, model, store, everyone, 10, size))
    sizes = []
    for seed in range(20):
        chosen = np.sort(np.random.default_rng(seed).choice(800, count, replace=False))
        split = Records(codes[chosen], everyone[chosen])
        part = Index.build(index.database.codes, rows=index.database.rows, queries=split)
        choice = shortlist.choose(part, model, store, 10, 0.95)
        assert choice.queries == count
        assert np.delete(reached(choice.shortlist), chosen).mean() >= 0.95
        sizes.append(choice.shortlist)
    assert reached(int(np.median(sizes) / times)).mean() < 0.95


def test_auto_without_queries_leaves_an_item_out_of_its_ranking(made):
    index, model, store = opened(made)
    alone = Index.build(index.database.codes, rows=index.database.rows)
    choice = shortlist.choose(alone, model, store, 5, 0.9)
    assert (choice.queries, choice.of) == (1000, "database")
    measured_on = np.linspace(0, 2999, 1000).astype(int)
    reached = recall_of(alone, model, store, measured_on, 5, choice.shortlist)
    assert 0.9 < reached < 0.93
    assert abs(choice.achieved - reached) < 0.005


def test_what_ties_at_the_last_place_is_as_good_as_any(tmp_path):
    rng = np.random.default_rng(0)
    features = np.repeat(rng.standard_normal((40, 16)), 25, axis=0).astype(np.float16)  # 25 of each kind
    rows = np.arange(1000)
    listing = Listing([str(n) for n in rows], {"query": rows[::10], "database": rows})
    write_features(tmp_path / "feats.h5", listing, {}, 16, np.float16, [features])
    store = FeatureStore(tmp_path / "feats.h5")
    model = Model({"output.weight": rng.standard_normal((32, 16)), "output.bias": np.zeros(32)}, {})
    codes = pack(model.outputs(features))
    index = Index.build(codes, queries=Records(codes[::10], rows[::10]))
    choice = shortlist.choose(index, model, store, 10, 1.0)
    assert (choice.shortlist, choice.achieved) == (10, 1)


def test_whole_recall_keeps_all_and_a_k_of_all_is_not_measured(made):
    index, model, store = opened(made)
    choice = shortlist.choose(index, model, store, 3, 1.0)
    assert recall_of(index, model, store, index.queries.rows, 3, choice.shortlist) == 1
    everything = shortlist.choose(index, model, store, 2999, 0.5)
    assert (everything.shortlist, everything.queries) == (3000, 0)


@pytest.fixture
def own(made, tmp_path):
    """A copy of the index's folder that a test may write to."""
    for name in ("feats.h5", "model.safetensors", "db.bin"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    return tmp_path


def test_the_choice_is_remembered_for_this_index_k_and_recall(own, monkeypatch, caplog):
    measured = []

    def counting(*arguments, **precision):
        measured.append(arguments[3:])
        return choose(*arguments, **precision)

    choose = shortlist.choose
    monkeypatch.setattr(shortlist, "choose", counting)
    asked, memory = SearchSettings(own / "db.bin", rerank="auto", limit=2), own / "db.bin.rerank.json"
    first = search(asked)
    assert (first["rerank"]["recall"]["asked"], first["rerank"]["recall"]["queries"]) == (0.95, 400)
    assert first["rerank"]["recall"]["achieved"] > 0.9
    assert search(asked) == first
    assert len(measured) == 1
    smaller = search(replace(asked, recall=0.5))
    assert smaller["rerank"]["shortlist"] < first["rerank"]["shortlist"]
    search(replace(asked, k=3))
    assert measured == [(10, 0.95), (10, 0.5), (3, 0.95)]
    assert search(asked) == first
    assert len(measured) == 3
    memory.write_text(memory.read_text().replace('"shortlist": ', '"shortlist": 1'))  # damaged
    assert search(asked) == first
    assert "checksum" in caplog.text
    memory.write_text("[]")
    assert search(asked) == first
    assert len(measured) == 5
    # Another index in its place: more shows than the codes.
    other = Model.load(own / "model.safetensors")
    other.tensors["output.bias"][:] = 1
    Model(other.tensors, other.metadata).save(own / "model.safetensors")
    paths = {"features": "feats.h5", "model": "model.safetensors", "out": "db.bin"}
    run(EncodeSettings(**{key: own / name for key, name in paths.items()}, overwrite=True))
    search(asked)
    assert len(measured) == 6


def test_an_answer_comes_where_nothing_can_be_remembered(own, caplog):
    (own / "db.bin.rerank.json").mkdir()
    assert len(search(SearchSettings(own / "db.bin", rerank="auto", limit=2))["results"]) == 2
    assert "is not remembered" in caplog.text


def test_damaged_features_are_not_measured_with(own):
    data = bytearray((own / "feats.h5").read_bytes())
    data[len(data) // 2] ^= 1
    (own / "feats.h5").write_bytes(data)
    with pytest.raises(SdcError, match="is damaged in /features"):
        search(SearchSettings(own / "db.bin", rerank="auto", limit=2))
    assert not (own / "db.bin.rerank.json").exists()


def test_a_large_shortlist_is_remarked_on(made, monkeypatch, caplog):
    index, model, store = opened(made)
    monkeypatch.setattr(shortlist, "_LARGE", 100)
    found = shortlist.choose(index, model, store, 10, 1.0)
    shortlist.log_choice(found, index, store)
    assert found.shortlist > 100
    share = f"{found.shortlist / 30:.1f} % of the database"
    assert share in caplog.text
    assert "codes of 64 bits" in caplog.text
    assert "longer codes" in caplog.text


# -- byte tables --


@pytest.fixture(scope="module")
def tabled(made, tmp_path_factory):
    """The index of `made` by a model with byte tables; the last 200 items were added later."""
    folder = tmp_path_factory.mktemp("tables")
    features = FeatureStore(made / "feats.h5").features
    for name, rows in (("feats.h5", np.arange(2800)), ("more.h5", np.arange(2800, 3000))):
        split = {"database": np.arange(len(rows)), "query": np.arange(len(rows), len(rows) + 400)}
        everything = np.concatenate([features[rows], features[3000:3400]])
        ids = [f"{name}/{n}" for n in range(len(everything))]
        write_features(folder / name, Listing(ids, split), {"source": "import"}, 32, np.float16, [everything])
    plain = Model.load(made / "model.safetensors")
    tables = fit_tables(plain.encode(features[:2800]), directions(features[:2800]))
    Model(plain.tensors, plain.metadata, CodeTables(tables)).save(folder / "model.safetensors")
    run(EncodeSettings(features=folder / "feats.h5", model=folder / "model.safetensors", out=folder / "db.bin"))
    add(AddSettings(features=folder / "more.h5", index=folder / "db.bin"))
    return folder


def table_order(index, model, query, positions):
    """Positions by the cosine of a query and what their codes decode to, from the decoder's own decoding."""
    decoder, codes = model.tables.decoder, index.items.codes(positions)
    factors = 1 / decoder.length_values()[decoder.lengths(codes)]
    unit = query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))
    scores = decoder.decode(codes).astype(np.float64) @ unit * factors
    order = np.lexsort((positions, -scores))
    return positions[order], scores[order]


def test_byte_tables_order_the_shortlist(tabled, made):
    index, model, store = opened(tabled)
    queries = FeatureStore(made / "feats.h5").features[3400:3440].astype(np.float32)
    outputs, size, k = model.outputs(queries), 15, 5
    distances, positions = index.search_positions(pack(outputs), WIDTH * size)
    x = np.concatenate([store.features[:2800], FeatureStore(tabled / "more.h5").features[:200]])
    reranker = Reranker(index, model, None, k, size)
    by_codes = reranker.rerank(distances, positions, queries, outputs)
    for place, query in enumerate(queries):
        order, scores = table_order(index, model, query, positions[place])
        np.testing.assert_allclose(by_codes.similarities[place], scores[:k], atol=1e-5)
        assert set(by_codes.positions[place, :2]) <= set(order[:3])  # what all but ties may change places
    reranker = Reranker(index, model, encoded_features(index, None, verify=False), k, size)
    hits, clear = reranker.rerank(distances, positions, queries, outputs), 0
    for place, query in enumerate(queries):
        order, scores = table_order(index, model, query, positions[place])
        if scores[size - 1] - scores[size] > 1e-5:  # else rounding may decide who is in the shortlist
            best = sorted(order[:size].tolist(), key=lambda position: (-cosine(query, x[position]), position))
            assert hits.positions[place].tolist() == best[:k]
            clear += 1
    assert clear > 30


def test_lengths_are_recorded_added_or_computed(tabled):
    index, model, _ = opened(tabled)
    positions = np.array([[0, 2799, 2800], [2999, 5, 2801]])
    lengths, decoder = index.items.lengths(positions), model.tables.decoder
    np.testing.assert_array_equal(lengths.ravel(), decoder.lengths(index.items.codes(positions.ravel())))
    queries = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
    without = Index.build(index.database.codes)
    assert without.items.lengths(positions) is None
    found = [code_scores(each, positions, model.outputs(queries), decoder, queries) for each in (index, without)]
    np.testing.assert_array_equal(*found)
    with pytest.raises(UsageError, match="the queries' features"):
        code_scores(index, positions, model.outputs(queries), decoder)


def test_auto_takes_a_smaller_shortlist_with_byte_tables(tabled, made):
    model, signs_only = Model.load(tabled / "model.safetensors"), Model.load(made / "model.safetensors")
    index, _, store = opened(made)
    sizes = [shortlist.choose(index, each, store, 10, 0.9).shortlist for each in (model, signs_only)]
    assert sizes[0] <= sizes[1]


def test_without_features_byte_tables_give_the_order(tabled, caplog):
    caplog.set_level("INFO", "sdc")
    vectors = np.random.default_rng(3).standard_normal((2, 32)).astype(np.float32)
    np.save(tabled / "q.npy", vectors)
    index, model, _ = opened(tabled)
    hidden = [(tabled / name).rename(tabled / f"{name}.away") for name in ("feats.h5", "more.h5")]
    found = search(SearchSettings(tabled / "db.bin", k=5, rerank=2, queries=tabled / "q.npy"))
    for path in hidden:
        path.rename(path.with_suffix(""))
    assert "by codes alone (byte tables)" in caplog.text
    for result, vector in zip(found["results"], vectors, strict=True):
        _, positions = index.search_positions(model.encode(vector[None], query=True), 40)
        _, scores = table_order(index, model, vector, positions[0])
        np.testing.assert_allclose([near["score"] for near in result["neighbors"]], scores[:5], atol=1e-5)


# -- the command --


@pytest.mark.parametrize("value", ["0", "-1", "0.99", "abc", "inf", "nan", "", "Auto"])
def test_a_factor_that_is_none_is_a_usage_error(value):
    from sdc.commands.search import search as command

    done = CliRunner().invoke(command, ["--rerank", value])
    assert done.exit_code == 2
    assert "a number from 1 on, or auto" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rerank": 0.5}, "a number from 1 on"),
        ({"rerank": math.inf}, "a number from 1 on"),
        ({"rerank": "most"}, "or auto; found 'most'"),
        ({"rerank": 3, "recall": 0.9}, "give it with that"),
        ({"recall": 0.9}, "give it with that"),
        ({"rerank": "auto", "recall": 0.0}, "above 0 and at most 1, found 0"),
        ({"rerank": "auto", "recall": 1.01}, "above 0 and at most 1"),
        ({"rerank": "auto", "k": 0}, "k must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(scene, options, message):
    with pytest.raises(UsageError, match=message):
        search(SearchSettings(scene.folder / "db.bin", **options))


def test_the_command_prints_what_the_order_goes_by(scene):
    from sdc.commands.search import search as command

    asked = ["--index", str(scene.folder / "db.bin"), "-k", "2", "--rerank", "2.5", "--id", "img/0007.png"]
    done = CliRunner().invoke(command, asked)
    assert done.output.splitlines()[-1] == "img/0007.png: img/0007.png (1.0000)  img/0011.png (1.0000)"
    found = json.loads(CliRunner().invoke(command, [*asked, "--json"]).stdout)
    assert found["rerank"]["shortlist"] == 5
    assert list(found["results"][0]["neighbors"][0]) == ["id", "row", "distance", "similarity", "label"]
