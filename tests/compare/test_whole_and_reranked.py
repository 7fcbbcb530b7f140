"""What `sdc compare` has beside codes of one size: re-ranked codes, indexes of whole vectors, and their frontier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sdc.arrays import unit_rows
from sdc.compare import CompareSettings, read_comparison
from sdc.compare import compare as run
from sdc.compare.advice import advise
from sdc.compare.contenders import Codes, quantize
from sdc.compare.frontier import budgets, frontier
from sdc.compare.reranked import SHORTLIST, TwoStages
from sdc.compare.results import Latency, Mean, Result
from sdc.compare.run import QUICK
from sdc.compare.whole_vectors import build_whole
from sdc.errors import SdcError, UsageError
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.retrieve.bits import hamming
from sdc.train.methods import ITQ
from sdc.train.model import Model

ROWS, QUERIES = 1300, 60


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    features = (2 * rng.standard_normal((30, 48)))[rng.integers(0, 30, ROWS)] + rng.standard_normal((ROWS, 48))
    split = {"query": np.arange(QUERIES), "database": np.arange(QUERIES, ROWS), "train": np.arange(QUERIES, ROWS)}
    path = tmp_path_factory.mktemp("whole") / "feats.h5"
    ids = [str(row) for row in range(ROWS)]
    return FeatureStore(write_features(path, Listing(ids, split), {}, 48, np.float32, [features.astype(np.float32)]))


@pytest.fixture(scope="module")
def exact(store):
    """(Q, 10) positions by cosine."""
    unit = unit_rows(np.asarray(store.features), np.float64)
    return np.argsort(-(unit[:QUERIES] @ unit[QUERIES:].T), axis=1, kind="stable")[:, :10]


def found(contender, store):
    prepared = contender.prepare(store.take(store.splits["query"]))
    positions = contender.search(prepared, 10)[1]
    groups, width = contender.groups(prepared, 101)
    assert groups.shape == (QUERIES, ROWS - QUERIES)
    assert groups.max() < width
    listed = np.take_along_axis(groups, positions, axis=1)  # one ranking, however deep it is asked for
    assert (np.sort(listed, axis=1) == listed).all()
    assert (np.sort(groups, axis=1)[:, 9] == listed[:, 9]).all()
    return positions


@pytest.mark.parametrize(("name", "size"), [("int8", 48), ("hnsw", (48 + 256, 48 + 400)), ("ivfpq", 8 + 8 + 96)])
def test_whole_vectors_find_nearly_all_and_count_their_bytes(store, exact, name, size):
    one = build_whole(name, store, store.splits["train"], store.splits["database"], 8, 0)
    recall = np.mean([np.isin(*pair).mean() for pair in zip(exact, found(one, store), strict=True)])
    assert recall > 0.9
    assert size[0] < one.bytes < size[1] if isinstance(size, tuple) else one.bytes == size


def test_parts_that_do_not_divide_the_features_are_a_reason(store):
    with pytest.raises(SdcError, match="cuts vectors into 14 equal parts"):
        build_whole("ivfpq", store, store.splits["train"], store.splits["database"], 7, 0)


def test_reranked_codes_are_the_shortlist_by_cosine_and_then_hamming(store):
    rows = store.splits["database"]
    tensors = ITQ().fit(np.asarray(store.features)[rows], 16, 0)
    codes = Codes.encode(Model(tensors, {"method": "itq"}), store, rows)
    two = TwoStages(codes.model, codes.codes, store, rows)
    assert (two.bytes, two.disk) == (2, 2 + 4 * 48)
    positions = found(two, store)
    x = np.asarray(store.features)
    outputs, signs = codes.model.outputs(x[:QUERIES]), 2 * np.unpackbits(codes.codes, axis=1, bitorder="little") - 1.0
    near = hamming(codes.model.encode(x[:QUERIES]), codes.codes)
    unit = unit_rows(x, np.float64)
    for query in range(QUERIES):
        candidates = np.argsort(near[query], kind="stable")[: 4 * SHORTLIST]
        score = np.round(signs[candidates] @ outputs[query] / np.linalg.norm(outputs[query]) / 4, 9)
        kept = candidates[np.lexsort((candidates, -score))][:SHORTLIST]
        cosine = np.round(unit[QUERIES + kept] @ unit[query], 9)
        assert (positions[query] == kept[np.lexsort((kept, -cosine))][:10]).all()


@pytest.mark.parametrize(("name", "each", "factors"), [("rabitq", 1, 8), ("rabitq2", 2, 20), ("rabitq4", 4, 20)])
def test_rabitq_takes_the_bytes_it_is_given(store, name, each, factors):
    one = quantize(name, store, store.splits["train"], store.splits["database"], 28, 0)
    assert one.bytes == 28
    assert one._index.d == 8 * (28 - factors) // each
    found(one, store)
    with pytest.raises(UsageError, match="factors"):
        quantize(name, store, store.splits["train"], store.splits["database"], factors, 0)


def result(method, recall, size, ms, bits=64, **more):
    latency = Latency(0.0, (ms, ms), (ms, ms), 9)
    return Result(method, bits, "float", size, {10: Mean(recall, 0.01)}, latency=latency, **more)


def test_the_frontier_is_what_no_other_beats_in_time_and_recall():
    one, slower, better, large = (
        result("itq", 0.5, 8, 1.0), result("lsh", 0.5, 8, 2.0), result("pq", 0.7, 8, 3.0),
        result("hnsw", 0.9, 600, 0.5),
    )  # fmt: skip
    refused = Result("rabitq", 64, refused="too few bytes")
    results = [better, slower, large, refused, one]
    assert budgets(results) == [8, 1024]
    assert frontier(results, 8, 10) == [one, better]
    assert frontier(results, 1024, 10) == [large]
    assert frontier(results, 4, 10) == []


def test_advice_sets_reranked_codes_beside_whole_vectors_and_not_beside_codes():
    results = [
        replace(result("sdc", 0.5, 8, 0.1), query="code", build=1.0),
        result("sdc-reranked", 0.95, 8, 0.6, disk=776),
        result("int8", 0.96, 768, 5.0, bits=None),
        result("hnsw", 0.97, 1100, 0.3, bits=None),
    ]
    others = {one.method: {"recall": Mean(0.0, 0.01)} for one in results}
    text = " ".join(advise([replace(one, above=others) for one in results], 1000).text)
    assert "SDC re-ranked finds 0.950 of the 10 nearest neighbours with 8 bytes a vector in memory, in 0.6 ms" in text
    assert "int8 finds 0.960 with 768, in 5 ms" in text
    assert "no method finds clearly more of the 10 nearest neighbours than SDC, 0.500." in text


def test_quick_takes_fewer_methods_and_says_so(store, tmp_path):
    assert CompareSettings(quick=True, queries=50).as_measured().methods == QUICK
    assert CompareSettings(quick=True, methods=("itq",)).as_measured().queries == 200
    settings = CompareSettings(
        store.path, bits=(32,), methods=("itq", "itq-reranked", "int8", "sign-full-reranked"), quick=True,
        out=tmp_path / "out",
    )  # fmt: skip
    content = read_comparison(run(settings))
    assert run(settings) == settings.out  # kept
    assert content["settings"]["quick"] is True
    by_method = {each["method"]: each for each in content["results"]}
    assert (by_method["sign-full-reranked"]["bits"], by_method["sign-full-reranked"]["bytes"]) == (None, 6)
    assert by_method["itq-reranked"]["disk_bytes"] == 4 + 192 > by_method["itq"]["disk_bytes"] == 4
    assert by_method["itq-reranked"]["recall"]["10"]["value"] > by_method["itq"]["recall"]["10"]["value"]
    text = (settings.out / "results.md").read_text()
    assert "**A first look**" in text
    assert (settings.out / "frontier.png").stat().st_size > 1000
    with pytest.raises(UsageError, match="quick"):
        run(replace(settings, quick=False))
