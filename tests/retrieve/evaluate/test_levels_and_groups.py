"""Two levels of labels, and groups of classes: carried into db.bin, and evaluated."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from sdc.errors import UsageError
from sdc.extract.store import FeatureStore
from sdc.retrieve.bits import hamming
from sdc.retrieve.evaluate import EvaluateSettings, average_precision, evaluate
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.records import Records
from sdc.train.long_tail import class_groups
from sdc.train.model import Model

GROUPS = {"head": [3, 0], "middle": [4], "tail": [1, 2]}  # of the scene's five classes


def rebuilt(scene, queries=(), metadata=(), **arrays):
    """The scene's index with other arrays beside its codes, or other metadata."""
    index = scene.index
    held = {name: getattr(index.database, name) for name in ("labels", "labels_coarse", "rows")} | arrays
    stored = {name: getattr(index.queries, name) for name in ("codes", "rows", "labels", "labels_coarse")}
    entries = Records(**{**stored, **dict(queries)})
    built = Index.build(index.database.codes, **held, queries=entries, metadata={**index.metadata, **dict(metadata)})
    return built.save(scene.folder / "rebuilt.bin")


def grouped(scene, groups, queries=()):
    """The scene's index as if its model had recorded `groups`."""
    return rebuilt(scene, queries, {"model": {**scene.index.metadata["model"], "groups": groups}})


def worked(folder, **options):
    """Four items at distances 1, 2, 3, 4 of two queries, one of class 0 and one of class 2."""
    queries = Records(np.zeros((2, 1), np.uint8), np.array([8, 9]), None, np.array([0, 2]), np.array([0, 1]))
    codes = np.array([[0b1], [0b11], [0b111], [0b1111]], np.uint8)
    labels, coarse = np.array([0, 1, 2, 0]), np.array([0, 0, 1, 0])
    return Index.build(codes, labels=labels, labels_coarse=coarse, queries=queries, **options).save(folder / "db.bin")


def test_both_levels_and_the_fall_in_a_worked_example(tmp_path):
    scores = evaluate(EvaluateSettings(worked(tmp_path)))
    # Of class 0 stand at places 1 and 4, of its coarse one at 1, 2 and 4; of class 2 and its coarse one at 3.
    fine, coarse = ((1 + 2 / 4) / 2 + 1 / 3) / 2, ((1 + 2 / 2 + 3 / 4) / 3 + 1 / 3) / 2
    assert scores["map"] == pytest.approx(fine, abs=1e-12)
    assert scores["coarse"]["map"] == pytest.approx(coarse, abs=1e-12)
    assert scores["fall"] == pytest.approx(coarse - fine, abs=1e-12)
    assert scores["coarse"]["map"] > scores["map"]
    assert scores["coarse"]["precision"]["1"] == scores["precision"]["1"] == 0.5
    assert scores["coarse"]["recall"]["4"] == 1
    assert "groups" not in scores


def test_groups_in_a_worked_example(tmp_path):
    groups = {"head": [0], "middle": [1], "tail": [2]}  # no query is of class 1
    scores = evaluate(EvaluateSettings(worked(tmp_path, metadata={"model": {"groups": groups}})))
    assert scores["groups"] == {
        "head": {"map": pytest.approx(0.75, abs=1e-12), "queries": 1, "classes": 1},
        "tail": {"map": pytest.approx(1 / 3, abs=1e-12), "queries": 1, "classes": 1},
    }


@pytest.mark.parametrize("coarse", ["single", "multi"])
@pytest.mark.parametrize("labels", ["single", "multi"])
def test_each_level_is_what_an_index_with_only_that_level_has(make_scene, labels, coarse):
    scene = make_scene(labels=labels, coarse=coarse)
    settings = {"neighbors": "float", "features": scene.folder / "feats.h5"}
    both = evaluate(EvaluateSettings(scene.folder / "db.bin", **settings))
    one, two = scene.index.database, scene.index.queries
    fine = evaluate(EvaluateSettings(rebuilt(scene, labels_coarse=None), **settings))
    alone = rebuilt(
        scene,
        {"labels": two.labels_coarse, "labels_coarse": None},
        labels=one.labels_coarse,
        labels_coarse=None,
    )
    upper = evaluate(EvaluateSettings(alone, **settings))
    assert "coarse" not in fine
    assert {name: value for name, value in both.items() if name not in ("coarse", "fall")} == fine
    assert both["coarse"] == {name: upper[name] for name in both["coarse"]}
    assert {"map", "map_best", "map_worst", "map_all", "precision", "recall", "map_float"} <= set(both["coarse"])
    assert both["fall"] == both["coarse"]["map"] - both["map"]
    assert both["fall"] != 0


def test_many_blocks_give_both_levels_of_one(make_scene, monkeypatch):
    scene = make_scene(coarse="single")
    whole = evaluate(EvaluateSettings(scene.folder / "db.bin"))
    monkeypatch.setattr("sdc.retrieve.evaluate.distance_counts._PAIRS", 3 * 400)
    assert evaluate(EvaluateSettings(scene.folder / "db.bin")) == whole


@pytest.mark.parametrize("coarse", ["single", "multi"])
def test_coarse_labels_go_into_the_index_and_come_back(make_scene, coarse):
    scene = make_scene(coarse=coarse)
    index, store = scene.index, scene.store
    for part, split in ((index.database, "database"), (index.queries, "query")):
        np.testing.assert_array_equal(part.labels_coarse, store.labels_coarse[store.splits[split]])
        assert part.labels_coarse.dtype == store.labels_coarse.dtype
        some = part.take(np.array([5, 2]))
        np.testing.assert_array_equal(some.labels_coarse, part.labels_coarse[[5, 2]])
    again = Index.open(index.save(scene.folder / "again.bin"))
    assert again.fingerprint == index.fingerprint
    order = np.random.default_rng(0).permutation(len(index))
    database = index.database
    shuffled = Index.build(
        database.codes[order], rows=database.rows[order], labels_coarse=database.labels_coarse[order]
    )
    np.testing.assert_array_equal(shuffled.database.labels_coarse, database.labels_coarse)


def test_coarse_labels_alone_or_on_one_side_are_no_level(make_scene):
    scene = make_scene(coarse="single")
    assert "coarse" not in evaluate(EvaluateSettings(rebuilt(scene, {"labels_coarse": None})))
    bare = rebuilt(scene, {"labels": None}, labels=None)
    assert set(evaluate(EvaluateSettings(bare))) == {"protocol", "queries", "database", "neighbor_recall"}


def test_coarse_labels_that_do_not_fit_are_refused():
    codes = np.zeros((3, 1), np.uint8)
    with pytest.raises(UsageError, match=r"3 codes need whole-number coarse labels, .*found int64 of shape \(2,\)"):
        Index.build(codes, labels_coarse=np.zeros(2, int))
    queries = Records(codes, np.arange(3), labels_coarse=np.zeros((3, 2), np.uint8))
    with pytest.raises(UsageError, match="coarse labels of the queries and of the database differ in width"):
        Index.build(codes, labels_coarse=np.zeros((3, 4), np.uint8), queries=queries)


@pytest.mark.parametrize("no_hit", ["zero", "skip"])
def test_groups_weighted_by_their_queries_give_the_map_of_all(scene, no_hit):
    labels = scene.index.queries.labels.copy()
    labels[:6] = 77  # not in the database: no hit
    path = grouped(scene, {**GROUPS, "tail": [*GROUPS["tail"], 77]}, {"labels": labels})
    scores = evaluate(EvaluateSettings(path, no_hit=no_hit))
    groups = scores["groups"]
    assert list(groups) == ["head", "middle", "tail"]
    assert [group["classes"] for group in groups.values()] == [2, 1, 3]
    assert sum(group["queries"] for group in groups.values()) == {"zero": 30, "skip": 24}[no_hit]
    weighted = sum(group["map"] * group["queries"] for group in groups.values())
    assert weighted / sum(group["queries"] for group in groups.values()) == pytest.approx(scores["map"], abs=1e-12)
    assert len({group["map"] for group in groups.values()}) == 3


def test_a_groups_map_is_that_of_its_queries_rankings(scene):
    groups = evaluate(EvaluateSettings(grouped(scene, GROUPS)))["groups"]
    index = scene.index
    database, queries = index.database, index.queries
    for name, classes in GROUPS.items():
        aps = []
        for q in np.flatnonzero(np.isin(queries.labels, classes)):
            others = database.rows != queries.rows[q]
            distances = hamming(queries.codes[[q]], database.codes)[0]
            aps.append(average_precision(distances[others], (database.labels == queries.labels[q])[others], at=50))
        assert groups[name] == {
            "map": pytest.approx(np.mean(aps), abs=1e-12), "queries": len(aps), "classes": len(classes),
        }  # fmt: skip


def test_a_group_of_skipped_queries_is_left_out(scene):
    labels = scene.index.queries.labels.copy()
    labels[:6] = 77
    scores = evaluate(EvaluateSettings(grouped(scene, {**GROUPS, "tail": [77]}, {"labels": labels}), no_hit="skip"))
    assert set(scores["groups"]) == {"head", "middle"}


def test_groups_are_indexed_for_the_training_features_alone(scene, caplog):
    store = scene.store
    groups = class_groups(store.labels)
    metadata = {**scene.model.metadata, "features": {"fingerprint": store.fingerprint}, "groups": groups}
    Model(scene.model.tensors, metadata).save(scene.folder / "tailed.safetensors")
    index = Index.open(scene.encode(model="tailed.safetensors", out="tailed.bin"))
    assert index.metadata["model"]["groups"] == groups
    assert set(evaluate(EvaluateSettings(scene.folder / "tailed.bin"))["groups"]) == {"head", "middle", "tail"}

    other = FeatureStore(scene.write_features("other.h5", seed=3))
    assert other.fingerprint != store.fingerprint
    with caplog.at_level(logging.INFO, "sdc"):
        index = Index.open(scene.encode("other.h5", model="tailed.safetensors", out="other.bin"))
    assert "head, middle and tail classes are those of the other features" in caplog.text
    assert "groups" not in index.metadata["model"]
    assert "groups" not in scene.index.metadata["model"]
