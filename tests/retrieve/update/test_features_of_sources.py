"""The second stage and the features' own ranking find the features of added items in the files they came from."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from sdc.errors import SdcError, UsageError
from sdc.retrieve.diagnose import DiagnoseSettings, diagnose
from sdc.retrieve.evaluate import EvaluateSettings, evaluate
from sdc.retrieve.features import encoded_features
from sdc.retrieve.index.index import Index
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings


@pytest.fixture(params=[False, True], ids=["changed", "compacted"])
def grown(shelf, request):
    shelf.add([f"a{number}" for number in range(20)])
    shelf.add(["a3", "first/010", *(f"b{number}" for number in range(20))], version=1, replace=True)
    shelf.remove(["first/003", "a7", "b1"])
    if request.param:
        shelf.compact()
    return shelf


def versions(shelf, tools):
    """Of each item the features it must have."""
    index = Index.open(shelf.path)
    names, rows = index.database.names(), index.database.rows
    second = {"a3", "first/010", *(f"b{number}" for number in range(20))}
    return rows, np.stack([tools.features_of(name, int(name in second)) for name in names]), names


def test_rows_are_read_from_the_store_that_holds_them(grown, tools):
    rows, expected, _ = versions(grown, tools)
    store = encoded_features(Index.open(grown.path), None, verify=True)
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_array_equal(store.take(rows[order]), expected[order])
    np.testing.assert_array_equal(np.concatenate(list(store.blocks(rows, 7))), expected)
    assert store.dimension == 12


@pytest.mark.parametrize("factor", [10, "auto"])
def test_reranking_compares_the_features_of_added_items(grown, tools, factor):
    rows, expected, names = versions(grown, tools)
    asked = ("b5", "a3", "first/010", "first/020")
    found = search(SearchSettings(grown.path, ids=asked, k=5, rerank=factor, recall=0.99 if factor == "auto" else None))
    assert found["rerank"]["by"] == "features"
    directions = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    for result in found["results"]:
        similarities = directions @ directions[names.index(result["query"])]
        assert result["neighbors"][0]["id"] == result["query"]
        for near in result["neighbors"]:
            assert near["similarity"] == pytest.approx(similarities[names.index(near["id"])], abs=1e-6)
        if factor == 10:
            best = np.argsort(-similarities, kind="stable")[:5]
            assert [near["row"] for near in result["neighbors"]] == rows[best].tolist()


def test_evaluation_and_diagnosis_go_over_all_items(grown):
    found = evaluate(EvaluateSettings(grown.path, neighbors="float"))
    assert found["database"] == Index.open(grown.path).ntotal == len(grown.expected)
    assert 0 < found["neighbor_recall"]["10"] <= 1
    assert diagnose(DiagnoseSettings(grown.path))["rows"] == len(grown.expected)


def test_other_and_missing_features_are_named(grown, tools, caplog):
    caplog.set_level(logging.INFO)
    more = grown.folder / "more2.h5"
    moved = more.rename(grown.folder / "moved.h5")
    with pytest.raises(SdcError, match=r"no feature store at .*more2\.h5"):
        evaluate(EvaluateSettings(grown.path, neighbors="float"))
    np.save(grown.folder / "query.npy", tools.features_of("b5", 1)[None])
    found = search(SearchSettings(grown.path, queries=grown.folder / "query.npy", rerank=2))
    assert found["rerank"]["by"] == "codes"
    assert "more2.h5: the order is by codes alone" in caplog.text
    moved.rename(more)
    grown.store(["other"], "more2.h5")
    with pytest.raises(UsageError, match=r"were added from features .* put the right ones back"):
        search(SearchSettings(grown.path, ids=("b5",), rerank=2))


def test_features_of_items_that_are_all_gone_are_not_needed(grown, tools):
    index = Index.open(grown.path)
    grown.remove([name for name in grown.expected if not name.startswith("first")] + ["first/010"])
    for number in (1, 2):
        (grown.folder / f"more{number}.h5").unlink()
    store = encoded_features(Index.open(grown.path), None, verify=True)
    assert len(store.parts) == 1
    assert len(index) > len(Index.open(grown.path))
    grown.compact()
    assert len(encoded_features(grown.check(), None, verify=True).parts) == 1
    grown.add(["again"])
    assert len(encoded_features(grown.check(), None, verify=True).parts) == 2


def test_ground_truth_forgets_what_was_removed(tmp_path):
    from sdc.extract.store import Ragged
    from sdc.retrieve.index.records import Records
    from sdc.retrieve.update.changes import compact, remove
    from sdc.retrieve.update.settings import CompactSettings, RemoveSettings

    codes = np.arange(12, dtype=np.uint8)[:, None]
    lists = {"relevant": Ragged.of([[0, 3, 5], [3]])}
    queries = Records(codes[:2], np.arange(2), groundtruth=lists)
    path = Index.build(codes, queries=queries).save(tmp_path / "db.bin")
    remove(RemoveSettings(path, ("3", "7")))
    for again in (False, True):
        held = Index.open(path).queries.groundtruth["relevant"]
        assert [held[0].tolist(), held[1].tolist()] == [[0, 5], []]
        found = evaluate(EvaluateSettings(path, protocol="relevant", at=5))
        assert found["queries"] == 2
        if not again:
            compact(CompactSettings(path))
