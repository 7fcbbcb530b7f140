"""`sdc evaluate` by each protocol: what it takes from the index, what it reports, and what it refuses."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError, UsageError
from sdc.extract.store import Listing, Ragged, write_features
from sdc.retrieve.bits import hamming
from sdc.retrieve.evaluate import EvaluateSettings, average_precision, evaluate, revisited
from sdc.retrieve.features import Cosines
from sdc.retrieve.index.index import Index

MARKS = ("easy", "hard", "junk")
SUFFIXES = {"": "row", "_expected": "expected", "_best": "best", "_worst": "worst"}


def plain_ap(relevant, at, denominator):
    """AP@R of a ranking without ties, its sum of precisions over one of three numbers."""
    found, total = 0, 0.0
    for rank, good in enumerate(relevant[:at], start=1):
        found += good
        total += found / rank if good else 0
    divisor = {"found": found, "all": sum(relevant), "capped": min(sum(relevant), at)}[denominator]
    return total / divisor if found else 0.0


@pytest.fixture
def make(make_scene):
    """Gives the scene's codes a ground truth of random rows, and the protocol to its features' provenance."""

    def make(names, protocol, *, labels=None, empty=(), database="all", **lists):
        scene = make_scene(labels=labels, database=database)
        index = scene.index
        rng = np.random.default_rng(3)
        held = {name: [] for name in names}
        for _ in range(len(index.queries)):
            drawn = iter(rng.permutation(index.database.rows))
            for name in names:
                count = 0 if name in empty else int(rng.integers(0, 25))
                held[name].append([next(drawn) for _ in range(count)])
        for name, changed in lists.items():
            held[name][: len(changed)] = changed
        metadata = copy.deepcopy(index.metadata)
        metadata["features"]["provenance"]["protocol"] = protocol
        truth = {name: Ragged.of(rows) for name, rows in held.items()}
        queries = replace(index.queries, groundtruth=truth)
        kept = {"labels": index.database.labels, "rows": index.database.rows, "ids": index.database.names()}
        built = Index.build(index.database.codes, **kept, queries=queries, metadata=metadata)
        built.save(scene.folder / "db.bin")
        return scene

    return make


def score(scene, **options):
    return evaluate(EvaluateSettings(scene.folder / "db.bin", **options))


def rankings(scene, distances=None):
    """Of each query, over the rows that are ranked: distances, and by list the columns that are in it."""
    index = scene.index
    database, queries = index.database, index.queries
    distances = hamming(queries.codes, database.codes) if distances is None else distances
    for q, row in enumerate(queries.rows):
        others = database.rows != row
        rows = database.rows[others]
        columns = {name: np.flatnonzero(np.isin(rows, lists[q])) for name, lists in queries.groundtruth.items()}
        yield distances[q][others], columns


def by_revisited(scene, ties, distances=None):
    """The three settings, query by query (rankings may be of other lengths), by the function for arrays."""
    values = {setting: [] for setting in ("easy", "medium", "hard")}
    for row, columns in rankings(scene, distances):
        found = revisited(row[None], *([columns[mark]] for mark in MARKS), ties=ties)
        for setting, one in found.items():
            values[setting].append([one["map"], *one["mp"].values()])
    return {setting: np.nanmean(each, axis=0) for setting, each in values.items()}


@pytest.mark.parametrize("database", ["all", "without"])
def test_revisited_is_recorded_and_leaves_out_the_query(make, database):
    scene = make(MARKS, {"name": "revisited"}, database=database)
    if database == "all":  # a query that is its own positive
        assert any(row in lists for row, lists in zip(scene.index.queries.rows, truth_of(scene, "easy"), strict=True))
    scores = score(scene, neighbors="float")
    for suffix, ties in SUFFIXES.items():
        for setting, values in by_revisited(scene, ties).items():
            found = scores[setting]
            assert found[f"map{suffix}"] == pytest.approx(values[0], abs=1e-12), (setting, ties)
            assert list(found[f"mp{suffix}"]) == ["1", "5", "10"]
            np.testing.assert_allclose(list(found[f"mp{suffix}"].values()), values[1:], rtol=0, atol=1e-12)
    index, store = scene.index, scene.store
    cosines = Cosines(store, index.queries.rows, index.database.rows).distances(slice(0, len(index.queries)))
    for setting, values in by_revisited(scene, "expected", cosines).items():
        assert scores[setting]["map_float"] == pytest.approx(values[0], abs=1e-12)
        assert scores[setting]["queries"] == sum(
            any(len(columns[mark]) for mark in {"easy": MARKS[:1], "medium": MARKS[:2], "hard": MARKS[1:2]}[setting])
            for _, columns in rankings(scene)
        )
    assert (scores["protocol"], scores["queries"]) == ("revisited", 30)
    assert 0 < scores["neighbor_recall"]["10"] < 1
    assert json.loads(json.dumps(scores)) == scores
    assert "by (distance, row)" in scores["conventions"]["ties"]
    assert "easy: hard and junk; medium: junk; hard: easy and junk" in scores["conventions"]["ignored"]


def truth_of(scene, name):
    lists = scene.index.queries.groundtruth[name]
    return [lists[q] for q in range(len(lists))]


def test_many_blocks_give_the_scores_of_one(make, monkeypatch):
    scene = make(MARKS, {"name": "revisited"})
    whole = score(scene, neighbors="float")
    monkeypatch.setattr("sdc.retrieve.evaluate.distance_counts._PAIRS", 7 * 400)
    assert score(scene, neighbors="float") == whole


def test_a_setting_without_positives_is_left_out_and_said(make, caplog):
    scene = make(MARKS, {"name": "revisited"}, empty=("hard",))
    with caplog.at_level(logging.WARNING, "sdc"):
        scores = score(scene)
    assert "no query has positives in the setting hard: it is left out" in caplog.text
    assert "hard" not in scores
    assert scores["easy"] == scores["medium"]
    with pytest.raises(SdcError, match=r"no query of .* has easy or hard items"):
        score(make(MARKS, {"name": "revisited"}, empty=("easy", "hard")))


@pytest.mark.parametrize("denominator", [None, "found", "all", "capped"])
def test_relevant_rows_are_scored_at_r_by_either_denominator(make, denominator):
    scene = make(["relevant"], {"name": "relevant", "at": 15})
    scores = score(scene, denominator=denominator, neighbors="float")
    index, store = scene.index, scene.store
    cosines = Cosines(store, index.queries.rows, index.database.rows).distances(slice(0, len(index.queries)))

    def mean(name, ties, at=15, distances=None):
        values = []
        for row, columns in rankings(scene, distances):
            relevant = np.isin(np.arange(len(row)), columns["relevant"])
            values.append(average_precision(row, relevant, at=at, ties=ties, denominator=name))
        return pytest.approx(np.mean(values), abs=1e-12)

    used = denominator or "all"
    assert (scores["protocol"], scores["at"]) == ("relevant", 15)
    assert scores["map"] == mean(used, "expected")
    assert scores["map_best"] == mean(used, "best")
    assert scores["map_worst"] == mean(used, "worst")
    assert scores["map_all"] == mean("all", "expected", None)
    assert scores["map_float"] == mean(used, "expected", distances=cosines)
    assert scores["denominators"] == {"all": mean("all", "expected"), "capped": mean("capped", "expected")}
    assert scores["denominators"]["all"] < scores["denominators"]["capped"]
    words = {"found": "in the top R", "all": "all relevant items", "capped": "min(all relevant items, R)"}
    assert words[used] in scores["conventions"]["denominator"]
    assert score(scene, at=1000)["at"] == 399


def test_queries_without_a_hit_count_or_not_by_denominator(make):
    scene = make(["relevant"], {"name": "relevant", "at": 100}, relevant=[[]] * 6)
    zero, skip = score(scene), score(scene, no_hit="skip")
    missed = zero["no_hit"]["queries"]
    assert missed >= 6
    for name in ("all", "capped"):
        assert skip["denominators"][name] * (30 - missed) == pytest.approx(zero["denominators"][name] * 30, abs=1e-12)
    assert zero["conventions"]["no_hit"].endswith("counted as AP 0")
    assert skip["conventions"]["no_hit"].endswith("left out of the mean")


def test_another_than_the_recorded_protocol_can_be_chosen(make):
    scene = make((*MARKS, "relevant"), {"name": "revisited"}, labels="single")
    assert {"easy", "medium", "hard"} <= {*score(scene)}
    by_labels = score(scene, protocol="category", at=50)
    assert by_labels["map"] == score(make([], {"name": "category", "at": 50}, labels="single"))["map"]
    assert "denominators" not in by_labels
    assert by_labels["conventions"]["denominator"] == "relevant items in the top R"
    listed = score(make((*MARKS, "relevant"), {"name": "revisited"}, labels="single"), protocol="relevant")
    assert (listed["protocol"], listed["at"]) == ("relevant", 399)
    assert "groups" not in listed


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            ["relevant"],
            {"protocol": "revisited"},
            "needs the ground truth easy, hard, junk of the queries, found the gro",
        ),
        (["relevant"], {"protocol": "revisited"}, "--protocol relevant would do"),
        (MARKS, {"protocol": "relevant"}, "needs the ground truth relevant .*--protocol revisited would do"),
        (MARKS, {"protocol": "category"}, "needs labels of the queries, found the ground truth easy, the"),
        ([], {"protocol": "relevant"}, r"needs the ground truth relevant of the queries, found none in .*db\.bin$"),
        (MARKS, {"protocol": "revisted"}, "did you mean 'revisited'"),
        (MARKS, {"denominator": "al"}, "did you mean 'all'"),
        (MARKS, {"at": 10}, "ranks the whole database, with its own AP: no --at"),
        (MARKS, {"denominator": "all"}, "no --denominator"),
        (MARKS, {"curves": "curves.csv"}, "no curves: leave out --curves"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(make, tmp_path, names, options, message):
    if "curves" in options:
        options = {"curves": tmp_path / options["curves"]}
    with pytest.raises(UsageError, match=message):
        score(make(names, {"name": "revisited" if names == MARKS else "relevant"}), **options)
    assert not (tmp_path / "curves.csv").exists()


def test_a_ground_truth_that_contradicts_itself_is_refused(make):
    with pytest.raises(SdcError, match=r"query img/\d+\.png has row 5 as both easy and junk"):
        score(make(MARKS, {"name": "revisited"}, easy=[[], [5, 9]], hard=[[], []], junk=[[], [5]]))


def test_a_ground_truth_outside_the_database_is_refused(make):
    scene = make(MARKS, {"name": "revisited"}, database="without")
    query = int(scene.index.queries.rows[0])
    with pytest.raises(SdcError, match=f"names row {query}, which is not in the database"):
        score(make(MARKS, {"name": "revisited"}, database="without", hard=[[query]]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6), st.integers(1, 7))
def test_denominators_equal_enumeration_of_all_tie_orders(items, at):
    distances, relevant = np.array([d for d, _ in items]), np.array([good for _, good in items])
    orders = [
        order
        for order in permutations(range(len(items)))
        if all(distances[a] <= distances[b] for a, b in pairwise(order))
    ]
    in_rows = np.argsort(distances, kind="stable")
    for denominator in ("found", "all", "capped"):
        values = [plain_ap(relevant[list(order)].tolist(), at, denominator) for order in orders]
        expected = {"expected": np.mean(values), "best": max(values), "worst": min(values)}
        expected["row"] = plain_ap(relevant[in_rows].tolist(), at, denominator)
        for ties, value in expected.items():
            found = average_precision(distances, relevant, at=at, ties=ties, denominator=denominator)
            assert found == pytest.approx(value, abs=1e-12), (ties, denominator)


def test_worked_example_of_denominators():
    relevant = np.array([True, False, True, False, True, True])  # of 4, two are in the top 3
    aps = {
        name: average_precision(np.arange(6), relevant, at=3, denominator=name) for name in ("found", "all", "capped")
    }
    assert aps == pytest.approx(
        {"found": (1 + 2 / 3) / 2, "all": (1 + 2 / 3) / 4, "capped": (1 + 2 / 3) / 3}, abs=1e-15
    )
    with pytest.raises(UsageError, match="did you mean 'capped'"):
        average_precision(np.arange(6), relevant, denominator="caped")


def test_the_command_prints_the_recorded_protocols_conventions(command):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((120, 16)).astype(np.float32)
    features[100:] = features[:20] + 0.3 * features[100:]
    near = Ragged.of([[q, (q + 1) % 100] for q in range(20)])
    listing = Listing(
        [f"image {row}" for row in range(120)],
        {"train": np.arange(100), "database": np.arange(100), "query": np.arange(100, 120)},
        groundtruth={"relevant": near},
    )
    provenance = {"source": "import", "protocol": {"name": "relevant", "at": 100}}
    write_features(command.folder / "feats.h5", listing, provenance, 16, np.float32, [features])
    command("train", "--method", "itq", "--bits", 16)
    command("encode")
    scores = command.json("evaluate")
    assert (scores["protocol"], scores["at"], scores["map"]) == ("relevant", 100, scores["denominators"]["all"])
    assert 0.4 < scores["map"] < 1  # one of two is near
    shown = dict(
        line.split(None, 1) for line in command("evaluate", "--denominator", "capped", "--at", 1).stdout.splitlines()
    )
    assert shown["conventions.at"] == "the top 1"
    assert shown["conventions.denominator"] == "min(all relevant items, R)"
    assert shown["conventions.no_hit"].endswith("counted as AP 0")
    assert shown["map"] == shown["denominators.capped"] != shown["denominators.all"]
    assert "needs labels of the queries" in command.error("evaluate", "--protocol", "category", code=2)
    assert "unknown protocol" in command.error("evaluate", "--protocol", "oxford", code=2)
