"""The choice between flat and IVF: its promise, what it scans, and what it says."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import UsageError
from sdc.retrieve.bits import hamming
from sdc.retrieve.evaluate import EvaluateSettings, evaluate
from sdc.retrieve.index.flat_search import FlatSearcher
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.index_types import autotune, ivf, ivf_lists, ivf_nprobe
from sdc.retrieve.index.index_types.measure import QuerySample
from sdc.retrieve.index.records import Records

MANY = autotune.SMALL + 20_000


def clustered(count, bits=64, seed=0):
    """Codes of points around 500 centres in 16 dimensions, by random hyperplanes."""
    rng = np.random.default_rng(0)
    centres, planes = rng.standard_normal((500, 16)), rng.standard_normal((16, bits))
    rng = np.random.default_rng(seed + 1)
    points = centres[rng.integers(0, 500, count)] + 0.6 * rng.standard_normal((count, 16))
    return np.packbits(points @ planes > 0, axis=1, bitorder="little")


def structureless(count, bits=256, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, bits // 8), dtype=np.uint8)


def entries(codes):
    return Records(codes, np.arange(len(codes)))


def recall(index, queries, k=10):
    """Of an index against exact search, with an item as near as the k-th counted as found."""
    farthest = Index.build(index.database.codes).search(queries, k)[0][:, -1:]
    return (index.search(queries, k)[0] <= farthest).mean()


@pytest.fixture(scope="module")
def chosen():
    """Chosen on clustered codes by recall as it is and by made-up times: real ones say something of millions only."""
    split = Records(clustered(400, seed=5), np.arange(MANY, MANY + 400))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ivf, "timed", lambda searches, codes: [0.5, 0.1])
        return Index.build(clustered(MANY), queries=split, index_type="auto", recall=0.95)


def test_on_clustered_codes_unseen_queries_get_the_recall(chosen, tmp_path):
    plan = chosen.metadata["plan"]
    assert chosen.metadata["index_type"] == plan["index_type"] == "ivf"
    assert (plan["asked"], plan["measured_on"], plan["queries"]) == (0.95, "query split", 400)
    others = clustered(1000, seed=6)
    assert recall(chosen, others) >= 0.93
    assert abs(recall(chosen, others) - plan["recall"]) < 0.02
    path = chosen.save(tmp_path / "db.bin")
    enough = next(n for n in range(1, plan["lists"]) if recall(Index.open(path, nprobe=n), others) >= 0.95)
    assert plan["nprobe"] <= 2 * enough
    assert (plan["milliseconds"], plan["flat_milliseconds"]) == (0.1, 0.5)


def test_where_ivf_is_hardly_faster_flat_is_chosen(monkeypatch):
    monkeypatch.setattr(autotune, "SMALL", 100)
    monkeypatch.setattr(ivf, "timed", lambda searches, codes: [0.5, 0.45])
    plan = Index.build(clustered(3000), index_type="auto").metadata["plan"]
    assert (plan["index_type"], plan["milliseconds"], plan["recall"]) == ("flat", 0.5, 1)
    assert plan["why"].startswith("IVF takes 0.45 ms for recall 0.9")


@pytest.mark.slow
def test_ivf_keeps_its_promise_on_a_million_clustered_codes():
    index = Index.build(clustered(1_000_000), index_type="auto")
    plan = index.metadata["plan"]
    assert plan["index_type"] == "ivf"
    others = clustered(1000, seed=6)
    assert recall(index, others) >= 0.93
    assert plan["nprobe"] < plan["lists"] / 16  # what is scanned decides the time, and is the same on a busy machine


def test_ivf_keeps_its_promise_on_structureless_codes_too(tmp_path):
    codes = structureless(20_000, 64)
    index = Index.build(codes, index_type="ivf", recall=0.9)
    plan, others = index.metadata["plan"], structureless(500, 64, seed=1)
    assert recall(index, others) >= 0.88
    assert plan["measured_on"] == "database rows"
    with_fewer = Index.open(index.save(tmp_path / "db.bin"), nprobe=plan["nprobe"] // 2)
    assert recall(with_fewer, others) < 0.9


@pytest.mark.parametrize("count", [1, 5, 10])
def test_too_few_codes_for_lists_are_flat(count):
    index = Index.build(structureless(count, 64), index_type="ivf")
    assert (index.metadata["index_type"], index.approximate) == ("flat", False)
    assert "too few" in index.metadata["plan"]["why"]
    distances, _ = index.search(structureless(count, 64), 10)
    assert distances.shape == (count, count)


def test_on_structureless_codes_flat_is_chosen_and_why_is_said(caplog):
    caplog.set_level(logging.INFO, "sdc")
    index = Index.build(structureless(MANY), index_type="auto")
    assert not index.approximate
    assert index.metadata["index_type"] == index.metadata["plan"]["index_type"] == "flat"
    assert "index type flat (exact): for recall 0.95 IVF would have to scan" in caplog.text
    assert index.metadata["plan"]["recall"] == 1


def test_few_codes_are_flat_without_any_measuring(monkeypatch):
    monkeypatch.setattr(ivf_lists, "train", None)
    plan = Index.build(clustered(1000), index_type="auto").metadata["plan"]
    assert plan["index_type"] == "flat"
    assert plan["why"] == "1000 codes of 64 bits are compared in a fraction of a millisecond"


def test_few_codes_of_many_bits_are_measured():
    few = autotune.SMALL // 64 + 1  # 64 words each: as much to compare as ten times SMALL codes of 64 bits would be
    plan = Index.build(structureless(few, 4096), index_type="auto").metadata["plan"]
    assert "of the codes" in plan["why"]
    plan = Index.build(structureless(few // 2, 4096), index_type="auto").metadata["plan"]
    assert "fraction of a millisecond" in plan["why"]


def test_what_exceeds_the_memory_is_not_chosen_or_refused(monkeypatch):
    codes = entries(clustered(1000))
    monkeypatch.setattr(autotune, "SMALL", 100)
    choice, searcher = autotune.choose(codes, None, "auto", memory=9000)
    assert (choice.index_type, type(searcher)) == ("flat", FlatSearcher)
    assert choice.why == "IVF would take 17024 bytes, --memory allows 9000"
    for kind in ("auto", "flat"):
        with pytest.raises(UsageError, match=r"1000 codes of 64 bits take 8000 bytes as flat, --memory allows 7000$"):
            autotune.choose(codes, None, kind, memory=7000)
    with pytest.raises(UsageError, match=r"17024 bytes as ivf, --memory allows 9000; as flat they take 8000"):
        autotune.choose(codes, None, "ivf", memory=9000)


@pytest.mark.parametrize(
    ("kind", "recall", "memory", "message"),
    [
        ("auot", 0.9, None, "unknown index type 'auot': did you mean 'auto'"),
        ("ivf", 1.0, None, "--recall must be above 0 and below 1, found 1"),
        ("flat", 1.01, None, "--recall must be above 0 and below 1, found 1.01"),
        ("flat", float("nan"), None, "--recall must be"),
        ("auto", float("nan"), None, "--recall must be"),
        ("flat", 0.9, 0, "--memory must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(kind, recall, memory, message):
    with pytest.raises(UsageError, match=message):
        Index.build(clustered(10), index_type=kind, recall=recall, memory=memory)


@pytest.mark.parametrize(
    ("exact", "approximate", "pays"), [(1.0, 0.5, True), (1.0, 0.8, True), (1.0, 0.81, False), (0.1, 0.2, False)]
)
def test_ivf_must_be_clearly_faster_to_be_chosen(exact, approximate, pays):
    assert ivf.pays(exact, approximate) == pays


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 200), st.integers(1, 20), st.booleans(), st.sampled_from([2, 256]), st.integers(0, 2**32))
def test_the_ranks_of_lists_tell_the_recall_of_every_search(n, lists, own, values, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, values, (n, 4), dtype=np.uint8)
    places = rng.integers(0, n, 5) if own else np.full(5, -1)
    queries = QuerySample(codes[places] if own else rng.integers(0, values, (5, 4), dtype=np.uint8), places, "")
    centroids = ivf_lists.train(codes, min(lists, n))
    assigned = ivf_lists.assign(codes, centroids)
    k = min(10, n - own)
    ranks, order = ivf_nprobe.list_ranks(codes, queries, centroids, assigned)
    assert ranks.shape == (5, k)
    for nprobe in range(1, len(centroids) + 1):
        found = 0
        for code, place, lists_of in zip(queries.codes, places, order, strict=True):
            others = np.arange(n) != place
            distances = hamming(code[None], codes)[0]
            farthest = np.sort(distances[others])[k - 1]
            scanned = others & np.isin(assigned, lists_of[:nprobe])
            found += min(k, int((distances[scanned] <= farthest).sum()))
        assert (ranks < nprobe).mean() == pytest.approx(found / (5 * k))
    for asked in (0.1, 0.5, 0.95):
        by_nprobe = [(ranks < nprobe).mean(axis=1) for nprobe in range(1, len(centroids) + 1)]
        just = next(found for found in by_nprobe if found.mean() >= asked)
        enough = min(asked + just.std() / np.sqrt(5), 1) - 1e-9
        expected = next(n for n, found in enumerate(by_nprobe, 1) if found.mean() >= enough)
        assert ivf_nprobe.least_nprobe(ranks, asked) == expected


def far_from(codes, bits=10, seed=2):
    """The codes with some bits of each flipped, so that their neighbours stand in lists farther off."""
    rng = np.random.default_rng(seed)
    flips = np.zeros((len(codes), codes.shape[1] * 8), np.uint8)
    flips[:, :bits] = 1
    return codes ^ np.packbits(rng.permuted(flips, axis=1), axis=1)


@pytest.mark.parametrize(("count", "origin"), [(20, "query split"), (19, "database rows")])
def test_few_queries_unlike_the_database_are_measured_with_too(count, origin, caplog):
    """They need more lists than the database's own rows do."""
    caplog.set_level(logging.INFO, "sdc")
    codes, others = clustered(20_000), far_from(clustered(1000, seed=6))
    split = Records(far_from(clustered(count, seed=5), seed=3), np.arange(20_000, 20_000 + count))
    index = Index.build(codes, queries=split, index_type="ivf", recall=0.9)
    plan = index.metadata["plan"]
    assert plan["measured_on"] == origin
    assert f"measured with {plan['queries']} queries, {origin}): as asked" in caplog.text
    assert ("the query split has 19 queries, too few to measure with" in caplog.text) == (count == 19)
    assert (recall(index, others) >= 0.88) == (count == 20)


@pytest.mark.parametrize("count", [100, 400])
def test_over_seeds_the_recall_is_kept_at_little_cost(count):
    codes, others = clustered(5000), clustered(3000, seed=6)
    centroids = ivf_lists.train(codes, 128)
    assigned = ivf_lists.assign(codes, centroids)
    ranks, _ = ivf_nprobe.list_ranks(codes, QuerySample(others, np.full(3000, -1), ""), centroids, assigned)
    for seed in range(40):
        order = np.random.default_rng(seed).permutation(3000)
        nprobe, unseen = ivf_nprobe.least_nprobe(ranks[order[:count]], 0.9), ranks[order[count:]]
        assert (unseen < nprobe).mean() >= 0.88
        assert (unseen < (nprobe - 1) // 2).mean() < 0.9  # not more than twice what would do


def test_large_databases_are_first_looked_at_in_a_sample(monkeypatch):
    monkeypatch.setattr(autotune, "SMALL", 100)
    monkeypatch.setattr(ivf, "_TRIAL", 2000)
    trained = []
    train = ivf_lists.train
    monkeypatch.setattr(
        ivf_lists, "train", lambda codes, *rest, **more: trained.append(len(codes)) or train(codes, *rest, **more)
    )
    plan = Index.build(structureless(5000), index_type="auto").metadata["plan"]
    assert "in a sample of 2000 codes" in plan["why"]
    assert trained == [2000]


def test_encode_records_the_plan_and_evaluate_what_ivf_finds(scene):
    path = scene.encode(out="ivf.bin", index_type="ivf", recall=0.9)
    index = Index.open(path)
    assert index.metadata["settings"] == {"index_type": "ivf", "recall": 0.9, "memory": None}
    assert scene.encode(out="ivf.bin", index_type="ivf", recall=0.9) == path
    with pytest.raises(UsageError, match=r"settings\.recall: found 0\.9, wanted 0\.8"):
        scene.encode(out="ivf.bin", index_type="ivf", recall=0.8)
    found, exact = (evaluate(EvaluateSettings(index=scene.folder / name)) for name in ("ivf.bin", "db.bin"))
    shares = found.pop("ivf_recall")
    assert found == exact
    assert set(shares) == set(exact["recall"]) - {"50"}
    own = index.queries.rows  # every query stands in the database
    codes = index.database.codes
    for k, share in shares.items():
        counted = []
        for row, code in zip(own, index.queries.codes, strict=True):
            farthest = np.sort(np.delete(hamming(code[None], codes)[0], row))[int(k) - 1]
            distances, rows = index.search(code[None], int(k) + 1)
            counted.append(min(int(k), int((distances[rows != row] <= farthest).sum())) / int(k))
        assert share == pytest.approx(np.mean(counted))
