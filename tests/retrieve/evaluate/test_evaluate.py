"""`evaluate` against plain recomputations, and its invariances."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from sdc.errors import SdcError, UsageError
from sdc.retrieve.bits import hamming
from sdc.retrieve.evaluate import EvaluateSettings, average_precision, evaluate
from sdc.retrieve.features import Cosines
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.records import Records

MEANS = ("map", "map_best", "map_worst", "map_all")


def rankings(scene):
    """Of each query, over the rows that are ranked: their positions, Hamming distances and relevance."""
    index = scene.index
    database, queries = index.database, index.queries
    for code, row, label in zip(queries.codes, queries.rows, queries.labels, strict=True):
        others = np.flatnonzero(database.rows != row)
        distances = hamming(code[None], database.codes)[0][others]
        labels = database.labels[others]
        relevant = labels == label if labels.ndim == 1 else (labels & label).any(axis=1)
        yield others, distances, relevant


def settings_of(scene, **options):
    return EvaluateSettings(index=scene.folder / "db.bin", **options)


@pytest.mark.parametrize("labels", ["single", "multi"])
@pytest.mark.parametrize("database", ["all", "without"])
def test_scores_leave_the_query_out_of_its_ranking(make_scene, labels, database):
    scene = make_scene(labels=labels, database=database)
    scores = evaluate(settings_of(scene, at=60))
    found = list(rankings(scene))
    assert len(found[0][0]) == {"all": 399, "without": 370}[database]
    for name, options in {
        "map": {"at": 60},
        "map_best": {"at": 60, "ties": "best"},
        "map_worst": {"at": 60, "ties": "worst"},
        "map_all": {},
    }.items():
        expected = np.mean([average_precision(d, r, **options) for _, d, r in found])
        assert scores[name] == pytest.approx(expected, abs=1e-12), name
    assert scores["map_worst"] < scores["map"] < scores["map_best"]
    assert {k: scores[k] for k in ("protocol", "at", "queries", "database")} == {
        "protocol": "category", "at": 60, "queries": 30, "database": {"all": 400, "without": 370}[database],
    }  # fmt: skip
    assert json.loads(json.dumps(scores)) == scores


def test_what_has_no_label_is_relevant_to_nothing_and_asks_nothing(make_scene, caplog):
    scene = make_scene(labels="some")
    index = scene.index
    without = int((index.queries.labels == -1).sum())
    assert 0 < without < 30
    with caplog.at_level(logging.INFO):
        scores = evaluate(settings_of(scene, at=60, neighbors="float"))
    asked = zip(index.queries.labels, rankings(scene), strict=True)
    expected = [average_precision(d, relevant, at=60) for label, (_, d, relevant) in asked if label != -1]
    assert scores["map"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert scores["queries"] == len(expected) == 30 - without
    assert scores["unlabelled"] == {"queries": without, "database": int((index.database.labels == -1).sum())}
    assert f"{without} of 30 queries have no label and are left out" in caplog.text


def test_coarse_scores_leave_out_what_has_no_coarse_label(tmp_path):
    queries = Records(np.zeros((2, 1), np.uint8), np.array([8, 9]), None, np.array([0, 2]), np.array([0, -1]))
    codes, labels = np.array([[0b1], [0b11], [0b111]], np.uint8), np.array([0, 2, 0])
    index = Index.build(codes, labels=labels, labels_coarse=np.array([-1, -1, 0]), queries=queries)
    scores = evaluate(EvaluateSettings(index.save(tmp_path / "db.bin")))
    assert scores["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2, abs=1e-12)
    assert scores["coarse"]["map"] == pytest.approx(1 / 3, abs=1e-12)
    assert scores["queries"] == 2


@pytest.mark.parametrize("which", ["queries", "database"])
def test_labels_that_are_all_missing_are_none(make_scene, which):
    scene = make_scene()
    held = {"queries": scene.index.queries, "database": scene.index.database}
    held[which] = replace(held[which], labels=np.full(len(held[which]), -1, np.int32))
    database = held["database"]
    index = Index.build(database.codes, labels=database.labels, rows=database.rows, queries=held["queries"])
    index.save(scene.folder / "db.bin")
    with pytest.raises(UsageError, match="the protocol category needs labels of the queries, found none"):
        evaluate(settings_of(scene, protocol="category"))


def test_precision_and_recall_are_means_over_orders_of_ties(scene):
    scores = evaluate(settings_of(scene, at=60))
    assert list(scores["precision"]) == ["1", "10", "60", "100"]
    rng = np.random.default_rng(0)
    hits = np.zeros((4, 300))
    for i in range(hits.shape[1]):
        for _, distances, relevant in rankings(scene):
            ranked = relevant[np.lexsort((rng.random(len(distances)), distances))]
            hits[:, i] += ranked.cumsum()[[0, 9, 59, 99]] / 30
    for k, sample in zip((1, 10, 60, 100), hits, strict=True):
        error = 5 * sample.std() / np.sqrt(len(sample))
        assert abs(scores["precision"][str(k)] * k - sample.mean()) < error
    relevant_in_all = [r.sum() for *_, r in rankings(scene)]
    assert scores["recall"]["100"] < 100 / min(relevant_in_all)
    assert sorted(scores["recall"].values()) == list(scores["recall"].values())


def test_nothing_depends_on_the_order_of_the_database(make_scene):
    scene = make_scene()
    scene.write_features("shuffled.h5", order=np.random.default_rng(4).permutation(400))
    scene.encode("shuffled.h5", out="shuffled.bin")
    one = evaluate(settings_of(scene, neighbors="float"))
    other = evaluate(EvaluateSettings(scene.folder / "shuffled.bin", neighbors="float"))
    for name in (*MEANS, "map_float"):
        assert one[name] == pytest.approx(other[name], abs=1e-12), name
    for name in ("precision", "recall", "neighbor_recall"):
        assert one[name] == pytest.approx(other[name], abs=1e-12), name


def test_recall_and_float_map_are_of_the_cosine_ranking(scene):
    scores = evaluate(settings_of(scene, neighbors="float"))
    features = scene.store.features.astype(np.float64)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-30)
    rng = np.random.default_rng(0)
    overlap, aps = {k: np.zeros(200) for k in (1, 10, 100)}, []
    for query, (others, distances, relevant) in zip(scene.index.queries.rows, rankings(scene), strict=True):
        cosine = 1 - features[others] @ features[query]
        aps.append(average_precision(np.round(cosine, 9), relevant, at=50))
        for i in range(200):
            ours = np.lexsort((rng.random(len(others)), distances))
            exact = np.lexsort((rng.random(len(others)), np.round(cosine, 9)))
            for k, sample in overlap.items():
                sample[i] += len(np.intersect1d(ours[:k], exact[:k])) / k / 30
    assert scores["map_float"] == pytest.approx(np.mean(aps), abs=1e-9)
    assert scores["map_float"] > scores["map"]
    for k, sample in overlap.items():
        assert abs(scores["neighbor_recall"][str(k)] - sample.mean()) <= 5 * sample.std() / np.sqrt(200) + 1e-12


def test_equal_vectors_tie_and_zeros_have_cosine_distance_1(scene):
    distances = Cosines(scene.store, np.array([13, 7]), np.arange(400)).distances(slice(0, 2))
    assert (distances[0] == 1e9).all()
    assert distances[1, 13] == 1e9
    assert distances[1, 7] == distances[1, 11] == 0


def test_without_labels_neighbors_are_evaluated_with_a_message(make_scene, caplog):
    scene = make_scene(labels=None)
    with caplog.at_level(logging.INFO, "sdc"):
        scores = evaluate(settings_of(scene))
    assert "has no labels: the recall of the features' neighbours is evaluated instead" in caplog.text
    assert set(scores) == {"protocol", "queries", "database", "neighbor_recall"}
    assert 0 < scores["neighbor_recall"]["1"] < 1
    with pytest.raises(UsageError, match="no labels: there are no curves"):
        evaluate(settings_of(scene, curves=scene.folder / "curves.csv"))


def test_r_is_asked_or_recorded_or_the_clamped_database(scene, caplog):
    assert evaluate(settings_of(scene))["at"] == 50
    assert evaluate(settings_of(scene, at=70))["at"] == 70
    with caplog.at_level(logging.INFO, "sdc"):
        scores = evaluate(settings_of(scene, at=5000))
    assert scores["at"] == 399
    assert scores["map"] == pytest.approx(scores["map_all"], abs=1e-12)
    assert "R = 5000 is clamped to the 399 items" in caplog.text


def unlucky(scene):
    """The index with a query class that the database lacks."""
    index = scene.index
    labels = index.queries.labels.copy()
    labels[:6] = 77
    queries = replace(index.queries, labels=labels)
    parts = {"labels": index.database.labels, "rows": index.database.rows, "ids": index.database.names()}
    return Index.build(index.database.codes, **parts, queries=queries, metadata=index.metadata).save(
        scene.folder / "unlucky.bin"
    )


def test_a_query_with_no_hit_counts_as_0_or_is_left_out(scene, caplog):
    path = unlucky(scene)
    with caplog.at_level(logging.INFO, "sdc"):
        zero = evaluate(EvaluateSettings(path))
    assert "6 of 30 queries have no relevant item in their top 50: counted as AP 0" in caplog.text
    skip = evaluate(EvaluateSettings(path, no_hit="skip", neighbors="float"))
    assert zero["no_hit"] == {"queries": 6, "rule": "zero"}
    assert skip["no_hit"] == {"queries": 6, "rule": "skip"}
    for name in MEANS:
        assert skip[name] * 24 == pytest.approx(zero[name] * 30, abs=1e-12)
    assert skip["precision"] == zero["precision"]


def test_curves_and_each_querys_values_go_to_json_and_csv(scene):
    scores = evaluate(settings_of(scene, at=60, curves=scene.folder / "curves.json"))
    tables = json.loads((scene.folder / "curves.json").read_text())
    assert [q["id"] for q in tables["query"]] == scene.index.queries.names()
    for name, key in (("map", "ap"), ("map_best", "ap_best"), ("map_worst", "ap_worst"), ("map_all", "ap_all")):
        assert np.mean([q[key] for q in tables["query"]]) == pytest.approx(scores[name], abs=1e-12)
    by_cutoff = {record["at"]: record for record in tables["cutoff"]}
    assert by_cutoff[60]["precision"] == pytest.approx(scores["precision"]["60"], abs=1e-12)
    assert by_cutoff[399]["recall"] == pytest.approx(1)
    assert [record["radius"] for record in tables["radius"]] == list(range(17))
    ball = np.mean([r[d <= 3].mean() if (d <= 3).any() else 0 for _, d, r in rankings(scene)])
    assert tables["radius"][3]["precision"] == pytest.approx(ball, abs=1e-12)
    assert tables["radius"][16]["recall"] == pytest.approx(1)

    evaluate(settings_of(scene, at=60, curves=scene.folder / "curves.csv"))
    rows = list(csv.DictReader((scene.folder / "curves.csv").open()))
    assert set(rows[0]) == {"table", "key", "metric", "value"}
    values = {(row["table"], row["key"], row["metric"]): row["value"] for row in rows}
    assert float(values["radius", "3", "precision"]) == tables["radius"][3]["precision"]
    assert float(values["query", tables["query"][2]["id"], "ap"]) == tables["query"][2]["ap"]
    assert len(rows) == sum((len(record) - 1) for table in tables.values() for record in table)


def test_other_features_are_refused_with_both_fingerprints(scene):
    other = scene.write_features("other.h5", seed=5)
    with pytest.raises(UsageError) as caught:
        evaluate(settings_of(scene, neighbors="float", features=other))
    assert scene.store.fingerprint in str(caught.value)
    assert "other.h5" in str(caught.value)
    (scene.folder / "feats.h5").unlink()
    with pytest.raises(SdcError, match=r"feats\.h5"):
        evaluate(settings_of(scene, neighbors="float"))
    assert evaluate(settings_of(scene))["map"] > 0  # labels and codes are in db.bin


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "categry"}, "did you mean 'category'"),
        ({"neighbors": "flaot"}, "did you mean 'float'"),
        ({"no_hit": "skp"}, "did you mean 'skip'"),
        ({"at": 0}, "at least 1, found 0"),
        ({"curves": "curves.txt"}, r"\.csv or a \.json file"),
    ],
)
def test_unknown_settings_are_named(scene, options, message):
    if "curves" in options:
        options = {"curves": scene.folder / options["curves"]}
    with pytest.raises(UsageError, match=message):
        evaluate(settings_of(scene, **options))


def test_an_index_without_queries_is_refused(make_scene):
    with pytest.raises(UsageError, match="has no query split to evaluate with"):
        evaluate(settings_of(make_scene(queries=0)))


def test_many_blocks_give_the_scores_of_one(scene, monkeypatch):
    whole = evaluate(settings_of(scene, neighbors="float"))
    monkeypatch.setattr("sdc.retrieve.evaluate.distance_counts._PAIRS", 3 * 400)
    assert evaluate(settings_of(scene, neighbors="float")) == whole
