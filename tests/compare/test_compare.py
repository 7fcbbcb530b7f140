"""`sdc compare`: its figures against brute force, its bytes, its advice, its files, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from sdc.cli import cli
from sdc.compare import CompareSettings, contenders
from sdc.compare import compare as run
from sdc.compare import read_comparison as read
from sdc.compare.advice import advise
from sdc.compare.contenders import Asymmetric, Codes, quantize
from sdc.compare.results import Latency, Mean, Result
from sdc.errors import SdcError, UsageError
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.retrieve.bits import unpack
from sdc.retrieve.evaluate import average_precision
from sdc.retrieve.features import Cosines, Nearest, nearest
from sdc.train.fit_tables import DIALS
from sdc.train.methods.itq import METHOD as ITQ
from sdc.train.model import Model

load_digits = pytest.importorskip("sklearn.datasets").load_digits

QUERIES, AT = 50, 40
METHODS = ("sdc", "sdc-asymmetric", "itq", "sign", "random-rotation", "pq", "rabitq", "float16")


def write_digits(path, *, labels=True, rows=900, query=QUERIES, database=None, train=None):
    """8 × 8 images of handwritten digits; the queries are in the database unless it is given."""
    digits = load_digits()
    split = {
        "query": np.arange(0, rows, max(1, rows // query))[:query] if query else np.arange(0),
        "database": np.arange(rows) if database is None else database,
        "train": np.arange(300, rows) if train is None else train,
    }
    kinds = digits.target[:rows].astype(np.int32) if labels else None
    listing = Listing([str(row) for row in range(rows)], split, labels=kinds)
    provenance = {"source": "import", "protocol": {"name": "category", "at": AT}}
    return write_features(path, listing, provenance, 64, np.float32, [digits.data[:rows].astype(np.float32)])


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    features = write_digits(folder / "feats.h5")
    settings = CompareSettings(features=features, bits=(64, 96), methods=METHODS, out=folder / "out")
    assert run(settings) == settings.out
    return settings


@pytest.fixture(scope="module")
def store(compared):
    return FeatureStore(compared.features)


def find(out, method, bits):
    (result,) = (r for r in read(out)["results"] if (r["method"], r["bits"]) == (method, bits))
    return result


def chance(distances, place, k):
    """That an item is among the k nearest, ties in random order."""
    before, tied = (distances < distances[place]).sum(), (distances == distances[place]).sum()
    return min(max((k - before) / tied, 0), 1)


def brute_force(store, distances_of):
    """Recall and mAP of a ranking by loops over all items."""
    x = store.features.astype(np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    recalls, aps = [], []
    for query in store.splits["query"]:
        others = np.delete(np.arange(len(store)), query)
        cosine, distances = np.round(1 - x[others] @ x[query], 9), distances_of(query)[others]
        by_k = [
            sum(chance(cosine, i, k) * chance(distances, i, k) for i in np.argsort(cosine)[: k + 20]) / k
            for k in (1, 10, 100)
        ]
        recalls.append(by_k)
        aps.append(average_precision(distances, store.labels[others] == store.labels[query], at=AT))
    return np.mean(recalls, axis=0), np.mean(aps)


def sign_distances(store):
    codes = store.features > 0
    return lambda query: (codes != codes[query]).sum(axis=1)


def half_distances(store):
    x = store.features / np.linalg.norm(store.features, axis=1, keepdims=True)
    halves = x.astype(np.float16).astype(np.float32)
    return lambda query: -(halves @ x[query]).round(6)


def pq_distances(store):
    pq = quantize("pq", store, store.splits["train"], store.splits["database"], 8, 0)
    kept, queries = pq._index.reconstruct_n(0, len(store)), pq.prepare(store.features)
    return lambda query: ((kept - queries[query]) ** 2).sum(axis=1)


def rabitq_distances(store):
    quantizer = quantize("rabitq", store, store.splits["train"], store.splits["database"], 12, 0)

    def distances(query):
        found, rows = quantizer.search(quantizer.prepare(store.features[query][None]), len(store))
        out = np.empty(len(store), np.float32)
        out[rows[0]] = found[0]
        return out

    return distances


@pytest.mark.parametrize(
    ("method", "bits", "distances"),
    [
        ("sign", 64, sign_distances),
        ("float16", None, half_distances),
        ("pq", 64, pq_distances),
        ("rabitq", 96, rabitq_distances),
    ],
)
def test_recall_and_map_are_those_of_brute_force(compared, store, method, bits, distances):
    found = find(compared.out, method, bits)
    recall, mean_ap = brute_force(store, distances(store))
    tolerance = 1e-9 if method == "sign" else 0.005  # rounding may swap items that all but tie
    np.testing.assert_allclose([found["recall"][k]["value"] for k in ("1", "10", "100")], recall, atol=tolerance)
    np.testing.assert_allclose(found["map"]["value"], mean_ap, atol=tolerance)
    assert 0.05 < recall[1] < 1


def test_what_sdc_finds_is_what_encode_and_evaluate_say(compared, tmp_path):
    from sdc.retrieve import encode
    from sdc.retrieve.evaluate import run as evaluate
    from sdc.train import run as train

    model, index = tmp_path / "model.safetensors", tmp_path / "db.bin"
    train.run(train.TrainSettings(features=compared.features, method="sdc", out=model))
    encode.run(encode.EncodeSettings(features=compared.features, model=model, out=index))
    scores = evaluate.evaluate(evaluate.EvaluateSettings(index=index, neighbors="float"))
    found = find(compared.out, "sdc", 64)
    assert {k: mean["value"] for k, mean in found["recall"].items()} == pytest.approx(scores["neighbor_recall"])
    assert found["map"]["value"] == pytest.approx(scores["map"])
    assert scores["at"] == AT


def test_bytes_are_those_that_faiss_keeps(compared, store):
    rows = store.splits["train"]
    for name, size, expected in (
        ("pq", 8, 8),
        ("pq", 12, 12),
        ("rabitq", 12, 12),
        ("rabitq", 32, 32),
        ("float16", 0, 128),
    ):
        made = quantize(name, store, rows, np.arange(20), size, 0)
        kept = made._index.sa_encode(made.prepare(store.features[:3]))
        assert made.bytes == kept.shape[1] == made._index.code_size == expected
    results = read(compared.out)["results"]
    assert {r["bytes"] for r in results if r["bits"] == 96} == {12, None}
    assert {r["method"] for r in results if r["bits"] == 96 and r["refused"]} == {"itq", "sign"}
    assert [r["method"] for r in results if r["bits"] == 64 and r["refused"]] == ["rabitq"]
    assert [r["bytes"] for r in results if r["method"] == "float16"] == [128]


def test_asymmetric_ranks_by_the_product_of_outputs_and_signs(store):
    model = Model(ITQ.fit(store.features.astype(np.float32), 24, 0), {})
    codes = Codes.encode(model, store, np.arange(400))
    outputs = model.outputs(store.features[500:503])
    scores = outputs @ np.where(unpack(codes.codes), 1, -1).T
    found, rows = Asymmetric(codes).search(Asymmetric(codes).prepare(store.features[500:503]), 400)
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(np.take_along_axis(scores, rows, axis=1), found, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_nearest_in_blocks_is_nearest_of_all(store, monkeypatch, block):
    monkeypatch.setattr("sdc.retrieve.features.exact_neighbors._ITEMS", block)
    monkeypatch.setattr("sdc.retrieve.features.exact_neighbors._QUERIES", 20)
    queries, database = store.splits["query"], store.splits["database"]
    all_distances = Cosines(store, queries, database).distances(slice(0, len(queries)))
    all_distances[np.arange(len(queries)), queries] = np.inf
    found = nearest(store, queries, database, queries, 10)
    assert len(found) == len(queries)
    for near, distances in zip(found, all_distances, strict=True):
        expected = Nearest.of(distances, 10)
        np.testing.assert_array_equal(near.items, expected.items)
        np.testing.assert_array_equal(near.groups, expected.groups)
        np.testing.assert_array_equal(near.sizes, expected.sizes)


def test_json_csv_and_markdown_agree(compared):
    found = read(compared.out)
    assert found["cutoffs"] == [1, 10, 100]
    assert (found["queries"], found["database"], found["train"], found["at"]) == (QUERIES, 900, 600, AT)
    with open(compared.out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [line for line in (compared.out / "results.md").read_text().splitlines() if line.startswith("| ")]
    cells = [line.strip("| ").split(" | ") for line in lines if "---" not in line]
    tables = [[cell[0] for cell in cells if cell[0] != "method"][:8], [cell[0] for cell in cells][-8:]]
    assert tables == [list(compared.methods)] * 2
    assert len(rows) == len(found["results"]) == 15
    for row, result in zip(rows, found["results"], strict=True):
        assert (row["method"], row["bits"]) == (result["method"], str(result["bits"] or ""))
        if result["refused"]:
            assert row["refused"] == result["refused"]
            assert f"{row['method']}: {row['refused']}" in (compared.out / "results.md").read_text()
            continue
        assert float(row["recall@10"]) == result["recall"]["10"]["value"]
        assert float(row["map_se"]) == result["map"]["se"]
        assert float(row["search_ms_p99"]) == result["latency_ms"]["search"]["p99"] > 0
        assert 0 < result["latency_ms"]["total"]["p50"] <= result["latency_ms"]["total"]["p99"]
        shown = f"{result['recall']['10']['value']:.3f} ± {result['recall']['10']['se']:.3f}"
        assert any(cell[0] == row["method"] and cell[4] == shown for cell in cells), row
    assert (compared.out / "plot.png").read_bytes().startswith(b"\x89PNG")
    for advice in found["advice"]:
        assert all(f"- {sentence}" in (compared.out / "results.md").read_text() for sentence in advice["text"])
    assert [advice["bits"] for advice in found["advice"]] == [64, 96]


def test_standard_errors_are_of_queries_and_differences_paired(compared, store):
    sdc, itq = find(compared.out, "sdc", 64), find(compared.out, "itq", 64)
    above = itq["above"]["sdc"]["recall"]
    assert above["value"] == pytest.approx(itq["recall"]["10"]["value"] - sdc["recall"]["10"]["value"])
    assert 0 < above["se"] < sdc["recall"]["10"]["se"] + itq["recall"]["10"]["se"]
    assert sdc["above"]["itq"]["map"]["value"] == pytest.approx(sdc["map"]["value"] - itq["map"]["value"])
    assert set(sdc["above"]) == {"sdc-asymmetric", "itq", "sign", "random-rotation", "pq", "float16"}
    assert find(compared.out, "float16", None)["above"] == {}
    assert Mean.of(np.array([0.0, 1.0])) == (0.5, 0.5)
    assert Mean.of(np.array([0.3])) == (0.3, None)


def result(method, recall, mean_ap=None, *, bits=64, size=8, ms=0.5, build=1.0, **more):
    return Result(
        method,
        None if method == "float16" else bits,
        "code" if method in ("sdc", "itq", "sign") else "float",
        size,
        {k: Mean(recall, 0.01) for k in (1, 10, 100)},
        None if mean_ap is None else Mean(mean_ap, 0.01),
        build=build,
        latency=Latency(0.1, (0.4, 0.9), (ms, 1.0), 200),
        **more,
    )


def compared_in_pairs(results, se=0.01):
    """The results with their differences, all of the same standard error."""

    def above(one, other):
        found = {"recall": Mean(one.recall[10].value - other.recall[10].value, se)}
        return found | ({"map": Mean(one.map.value - other.map.value, se)} if one.map and other.map else {})

    measured = [one for one in results if not one.refused]
    return [
        replace(one, above={other.method: above(one, other) for other in measured if other is not one})
        if one in measured
        else one
        for one in results
    ]


PQ = result("pq", 0.4, ms=1.0, build=3.0)
FLOAT = result("float16", 1.0, size=2560, ms=20.0)


@pytest.mark.parametrize(
    ("results", "neighbors", "labels", "said", "not_said"),
    [
        pytest.param(
            [result("sdc", 0.2), result("itq", 0.21), PQ, FLOAT], ["pq"], [],
            ["SDC is not the best choice", "at 8 bytes a vector it finds 0.200 of the 10 nearest neighbours, PQ 0.400, "
             "at 2 × the time of a query and 3 × the time to build.", "Hamming distance none finds clearly more",
             "No method of this size finds half", "--rerank auto"],
            ["By labels", "locality", "no codes are needed"], id="pq is better, itq within the noise",
        ),
        pytest.param(
            [result("sdc", 0.2), result("itq", 0.21), FLOAT], ["itq", "sdc"], [],
            ["At 8 bytes a vector no method finds clearly more", "than SDC, 0.200; ITQ 0.210 is level with it."],
            ["not the best", "is built in"], id="level",
        ),
        pytest.param(
            [result("sdc", 0.2, build=4.0), result("itq", 0.21)], ["itq", "sdc"], [],
            ["ITQ is built in 1.0 s instead of 4.0 s"], [], id="level and quicker",
        ),
        pytest.param(
            [result("sdc", 0.2), result("itq", 0.1)], ["sdc"], [],
            ["no method finds clearly more"], ["level", "not the best"], id="sdc is the best",
        ),
        pytest.param(
            [result("sdc", 0.2, 0.7, locality=1.0), result("itq", 0.3, 0.6), result("sign", 0.1, 0.5)],
            ["itq"], ["sdc"],
            ["ITQ 0.300.", "--locality 0", "By labels SDC is the best choice: mAP 0.700; next ITQ 0.600.",
             "So: ITQ where the very nearest vectors count, SDC where items of the same kind do."],
            ["Of the codes"], id="labels say otherwise",
        ),
        pytest.param(
            [result("sdc", 0.2, locality=1.0), PQ, result("itq", 0.3)], ["pq"], [],
            ["Of the codes compared by Hamming distance the best: ITQ 0.300.", "--locality 0"], [], id="pq, then itq",
        ),
        pytest.param(
            [result("sdc", 0.2, 0.7), result("pq", 0.6, 0.8)], ["pq"], ["pq"],
            ["By labels PQ is best too: mAP 0.800; SDC 0.700."], ["No method", "So"], id="pq is better by both",
        ),
        pytest.param(
            [result("sdc", 0.2, 0.7), result("pq", 0.6, 0.71)], ["pq"], ["pq", "sdc"],
            ["By labels PQ and SDC are level: mAP 0.710; SDC 0.700.",
             "So PQ is the better choice where its price suits: it loses nothing by labels."], ["So:"],
            id="pq is better, level by labels",
        ),
        pytest.param(
            [result("sdc", 0.6, 0.7), result("itq", 0.6, 0.8), result("pq", 0.5, 0.79)], ["sdc", "itq"], ["itq", "pq"],
            ["By labels ITQ and PQ are best: mAP 0.800 and 0.790; SDC 0.700."], ["So"], id="worse by labels alone",
        ),
        pytest.param(
            [result("sdc", 0.2), result("sdc-asymmetric", 0.3, ms=2.0), result("itq", 0.21)], ["sdc-asymmetric"], [],
            ["At 8 bytes a vector SDC with the query in float 0.300 finds most of the 10 nearest neighbours, SDC by "
             "Hamming distance 0.200; SDC with the query in float takes 4 × the time of a query.",
             "`sdc search --rerank` compares a shortlist of SDC's codes with the query in float; then the shortlist's "
             "features, where they are at hand."],
            ["not the best"], id="the same codes in float",
        ),
        pytest.param(
            [result("sdc", 0.2, 0.7), result("sdc-asymmetric", 0.3, 0.75), result("pq", 0.4, 0.72)],
            ["pq"], ["sdc-asymmetric"],
            ["with the query in float, which finds 0.300; then the shortlist's features, where they are at hand.",
             "SDC is the best choice: mAP 0.700, 0.750 with the query in float; next PQ 0.720.", "So: PQ where"],
            ["level"], id="sdc's codes by labels",
        ),
        pytest.param(
            [result("sdc", 0.2, 0.7), result("sdc-asymmetric", 0.39, 0.75), result("pq", 0.4, 0.74)],
            ["pq", "sdc-asymmetric"], ["sdc-asymmetric", "pq"],
            ["PQ 0.400 and SDC with the query in float 0.390 find most",
             "By labels PQ and SDC are level: mAP 0.740; SDC 0.700, 0.750 with the query in float."],
            ["not the best", "is the best choice", "So"], id="pq is level with sdc's codes in float only",
        ),
        pytest.param(
            [result("sdc", 0.2), result("rabitq", 0.9, size=16)], ["sdc"], [],
            ["no method finds clearly more", "No method of this size finds half"], ["RaBitQ"],
            id="more bytes don't count",
        ),
        pytest.param(
            [result("sdc", 0.2), Result("pq", 64, refused="too few rows")], ["sdc"], [],
            ["no method finds"], ["PQ"], id="refused",
        ),
        pytest.param(
            [result("sdc", 0.5, 0.7), result("itq", 0.52, 0.71), result("pq", 0.6, 0.6)], ["pq"], ["itq", "sdc"],
            ["By labels ITQ and SDC are level: mAP 0.710; SDC 0.700.",
             "So: PQ where the very nearest vectors count, ITQ and SDC where items of the same kind do."],
            ["SDC is the best choice"], id="itq is level by labels, pq by neither",
        ),
        pytest.param(
            [result("sdc", 0.9, 0.7), replace(FLOAT, latency=PQ.latency, map=Mean(0.6, 0.01))], ["sdc"], ["sdc"],
            ["no codes are needed for these. By labels SDC's codes are better than the features themselves: mAP 0.700, "
             "float16 0.600."], ["next to nothing"], id="a small set whose codes know the labels better",
        ),
        pytest.param(
            [result("sdc", 0.9, 0.7), replace(FLOAT, latency=PQ.latency, map=Mean(0.69, 0.01))], ["sdc"], ["sdc"],
            ["loses next to nothing: if that is small and fast enough, no codes are needed."],
            ["than the features themselves"], id="a small set whose codes are level with it by labels",
        ),
        pytest.param(
            [result("sdc", 0.9), replace(FLOAT, latency=PQ.latency)], ["sdc"], [],
            ["With 10,000 vectors float16 takes 26 MB and 1.0 ms", "no codes are needed"], ["No method of"],
            id="a small set",
        ),
    ],
)  # fmt: skip
def test_advice(results, neighbors, labels, said, not_said):
    advice = advise(compared_in_pairs(results), 10_000)
    text = " ".join(advice.text)
    assert (advice.neighbors, advice.labels) == (neighbors, labels)
    for part in said:
        assert part in text
    for part in not_said:
        assert part not in text
    assert all(sentence.endswith(".") and "  " not in sentence for sentence in advice.text)


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    """Unlabelled vectors, enough of them for byte tables; the codes of both goals and of ITQ, read in all ways."""
    rng = np.random.default_rng(0)
    centres, basis = rng.standard_normal((40, 8)), rng.standard_normal((8, 24))
    points = centres[rng.integers(40, size=1700)] + 0.4 * rng.standard_normal((1700, 8))
    vectors = (points @ basis + 0.5 * rng.standard_normal((1700, 24))).astype(np.float32)
    split = {"query": np.arange(100), "database": np.arange(100, 1700), "train": np.arange(200, 1700)}
    folder = tmp_path_factory.mktemp("fine")
    features = write_features(
        folder / "feats.h5", Listing([str(n) for n in range(1700)], split), {}, 24, np.float32, [vectors]
    )
    methods = ("neighbors", "neighbors-tables", "itq", "itq-tables", "pq", "rq")
    return CompareSettings(features=features, bits=(16,), methods=methods, out=folder / "out")


def cosine_recall(store, decoded, k=10):
    """Recall@k of a ranking by the cosine of the queries and decoded vectors."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (store.features.astype(np.float64), decoded)]
    queries, database = store.splits["query"], store.splits["database"]
    truth, found = (np.argsort(-unit[0][queries] @ each.T, axis=1)[:, :k] for each in (unit[0][database], unit[1]))
    return np.mean([np.isin(*pair).mean() for pair in zip(truth, found, strict=True)])


@pytest.mark.parametrize("name", ["rq", "lsq"])
def test_additive_quantizers_rank_as_their_decoded_vectors(fine, name):
    import faiss

    store = FeatureStore(fine.features)
    x = store.features / np.linalg.norm(store.features, axis=1, keepdims=True)
    train, database = (x[store.splits[split]] for split in ("train", "database"))
    one = quantize(name, store, store.splits["train"], store.splits["database"], 2, 0)
    assert (one.bytes, one.query) == (3, "float")
    quantizer = faiss.ResidualQuantizer(24, 2, 8) if name == "rq" else faiss.LocalSearchQuantizer(24, 2, 8)
    mean = train.mean(axis=0)
    quantizer.train(train - mean)
    recalled = cosine_recall(store, quantizer.decode(quantizer.compute_codes(database - mean)) + mean)
    prepared = one.prepare(store.take(store.splits["query"]))
    scores, positions = one.search(prepared, 10)
    exact = np.argsort(-x[store.splits["query"]] @ database.T, axis=1)[:, :10]
    recall = np.mean([np.isin(*pair).mean() for pair in zip(exact, positions, strict=True)])
    assert recall == pytest.approx(recalled, abs=0.05)  # another seed than FAISS' own
    assert (np.diff(scores) <= 0).all()
    groups, width = one.groups(prepared, 20)
    assert groups.shape == (100, 1600)
    assert width == 21
    np.testing.assert_array_equal(
        np.sort(np.take_along_axis(groups, positions, axis=1)), np.take_along_axis(groups, positions, axis=1)
    )
    decoded = one._tables.decode(one._codes)
    assert cosine_recall(store, decoded) == pytest.approx(recall, abs=0.03)  # lengths are rounded to a byte


def test_codes_read_by_byte_tables_take_one_byte_more(fine, monkeypatch):
    from sdc.train import fit_code_tables, make_recipe

    monkeypatch.setattr("sdc.train.fit_tables.SIGNS", 20)  # steps
    monkeypatch.setitem(DIALS, "both", replace(DIALS["both"], steps=20))
    monkeypatch.setattr(
        "sdc.compare.runner.make_recipe",
        lambda **chosen: make_recipe(
            **chosen, **({"steps": 60, "hidden": 64} if chosen.get("method") == "neighbors" else {})
        ),
    )
    results = {one["method"]: one for one in read(run(fine))["results"]}
    assert {name: one["refused"] for name, one in results.items() if one["refused"]} == {}
    assert {name: one["bytes"] for name, one in results.items()} == {
        "neighbors": 2, "neighbors-tables": 3, "itq": 2, "itq-tables": 3, "pq": 2, "rq": 3,
    }  # fmt: skip
    recall = {name: one["recall"]["10"]["value"] for name, one in results.items()}
    assert recall["neighbors"] > recall["itq"]
    assert recall["neighbors-tables"] > recall["neighbors"] + 0.05
    assert recall["itq-tables"] > recall["itq"] + 0.05
    store = FeatureStore(fine.features)
    rows = store.splits["train"]
    model = Model(ITQ.fit(store.features[rows], 16, 0), {})
    tables = fit_code_tables(model.outputs, store.features, rows, make_recipe(method="itq", bits=16, tables=True))
    decoded = tables.decoder.decode(model.encode(store.take(store.splits["database"])))
    assert recall["itq-tables"] == pytest.approx(cosine_recall(store, decoded), abs=0.05)
    text = " ".join(read(fine.out)["advice"][0]["text"])
    assert "`--goal neighbors` finds" in text
    assert "With the query in float, at no more than 3 bytes a vector" in text


@pytest.mark.parametrize("better", [128, 160])
def test_pq_takes_the_width_with_the_smaller_error(monkeypatch, better):
    import faiss

    monkeypatch.setattr(contenders, "_TURNS", 1)
    monkeypatch.setattr(contenders, "_squared_error", lambda index, *_: abs(index.d - better))
    sample = np.random.default_rng(0).standard_normal((300, 160)).astype(np.float32)
    index, (rotation,) = contenders._train_pq(faiss, sample, 8, 0)
    assert (rotation.d_in, rotation.d_out, index.d) == (160, better, better)


def test_the_error_of_pq_counts_what_its_rotation_drops():
    import faiss

    sample = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    drops = faiss.RandomRotationMatrix(16, 8)
    drops.init(0)
    plain = faiss.IndexFlatL2(8)
    left = np.square(sample).sum() - np.square(drops.apply(sample)).sum()
    assert contenders._squared_error(plain, drops, sample) == pytest.approx(left / 300, rel=1e-4)


def goals(of_goal, decoded, *others):
    more = [result("neighbors", of_goal), result("neighbors-tables", decoded, size=9), *others]
    return [result("sdc", 0.2), replace(more[0], query="code"), *more[1:]]


@pytest.mark.parametrize(
    ("results", "said", "not_said"),
    [
        pytest.param(
            goals(0.27, 0.48, result("itq", 0.24), result("pq", 0.44), result("lsq", 0.57, size=9)),
            ["`--goal neighbors` finds 0.270 of the 10 nearest neighbours by Hamming distance, more than any other "
             "codes; next ITQ 0.240.",
             "With the query in float, at no more than 9 bytes a vector, `--goal neighbors` read by byte tables does "
             "not lead: it finds 0.480 of the 10 nearest neighbours, LSQ 0.570.",
             "RQ and LSQ have no codes that can be searched by Hamming distance."], ["slower to build"], id="lsq leads",
        ),
        pytest.param(
            goals(0.27, 0.48, result("itq", 0.26), result("pq", 0.44)),
            ["`--goal neighbors` finds 0.270 of the 10 nearest neighbours by Hamming distance; ITQ 0.260 is level",
             "`--goal neighbors` read by byte tables 0.480 finds most of the 10 nearest neighbours; next PQ 0.440.",
             "`--methods` takes rq and lsq."], ["does not lead"], id="leads, itq level",
        ),
        pytest.param(
            goals(0.2, 0.44, result("itq", 0.26), result("rq", 0.45, size=9)),
            ["`--goal neighbors` does not lead here: it finds 0.200 of the 10 nearest neighbours by Hamming distance, "
             "ITQ 0.260.", "RQ 0.450 is level with it."], ["finds most"], id="itq leads",
        ),
        pytest.param(
            goals(0.27, 0.48, result("pq", 0.44))[1:], ["finds most", "`--methods`"], ["SDC"], id="without sdc",
        ),
    ],
)  # fmt: skip
def test_advice_says_whether_the_goal_neighbors_leads(results, said, not_said):
    advice = advise(compared_in_pairs(results), 10_000)
    text = " ".join(advice.text)
    for part in said:
        assert part in text
    for part in not_said:
        assert part not in text


@pytest.mark.parametrize(("se", "best"), [(0.01, ["itq"]), (0.11, ["itq", "sdc"]), (None, ["itq", "sdc"])])
def test_what_counts_is_above_two_standard_errors(se, best):
    advice = advise(compared_in_pairs([result("sdc", 0.2), result("itq", 0.4)], se), 10_000)
    assert advice.neighbors == best


def test_there_is_no_advice_on_sdc_without_it():
    assert advise([PQ, FLOAT], 1000) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bits", "60"], "60 bits do not fill whole bytes"),
        (["--bits", "64,64"], "--bits 64,64"),
        (["--bits", "many"], "expected lengths"),
        (["--methods", "sdc,itk"], "did you mean 'itq'"),
        (["--methods", "pq-asymmetric"], "unknown method"),
        (["--methods", "rq-tables"], "unknown method"),
        (["--methods", "itq-tables-asymmetric"], "unknown method"),
        (["--methods", "rabitq"], "none of these methods can be compared; rabitq: rabitq keeps 8 bytes"),
        (["--methods", "pq", "--bits", "1024"], "at most 64 bytes, not 128"),
        (["--methods", "sign", "--bits", "128"], "at most --bits 64"),
        (["--queries", "0"], "--queries 0"),
        (["--limit", "0"], "--limit 0"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_bad_requests_are_refused(compared, tmp_path, options, message):
    found = CliRunner().invoke(
        cli, ["compare", "--features", str(compared.features), "--out", str(tmp_path / "new"), *options]
    )
    error = found.exception
    assert message in (str(error) if isinstance(error, UsageError) else found.output)
    assert isinstance(error, UsageError) or found.exit_code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"query": 0}, "no rows in its query split"),
        ({"database": np.arange(0)}, "no rows in its database split"),
        ({"train": np.arange(0)}, "no rows in its train split"),
        ({"query": 1, "database": np.arange(1)}, "nothing but the query itself"),
    ],
)
def test_features_without_a_split_are_refused(tmp_path, kept, message):
    features = write_digits(tmp_path / "feats.h5", **kept)
    with pytest.raises(SdcError, match=message):
        run(CompareSettings(features=features, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_few_training_rows_are_a_reason_and_no_end(tmp_path):
    features = write_digits(tmp_path / "feats.h5", rows=320, train=np.arange(300, 320))
    methods = ("pq", "rq", "random-rotation", "random-rotation-tables")
    out = run(CompareSettings(features=features, methods=methods, out=tmp_path / "out"))
    assert "256 vectors, the train split has 20 rows" in find(out, "rq", 64)["refused"]
    assert "20 rows, too few to fit byte tables" in find(out, "random-rotation-tables", 64)["refused"]
    assert "256 centroids, the train split has 20 rows" in find(out, "pq", 64)["refused"]
    assert find(out, "random-rotation", 64)["recall"]["10"]["value"] > 0
    assert read(out)["advice"] == []


def test_samples_and_small_databases(tmp_path):
    features = write_digits(tmp_path / "feats.h5", labels=False)
    settings = CompareSettings(
        features=features, methods=("float16", "sign"), queries=20, limit=60, out=tmp_path / "few"
    )
    found = read(run(settings))
    assert (found["queries"], found["database"], found["cutoffs"], found["at"]) == (20, 60, [1, 10], None)
    assert all(result["map"] is None and not result["refused"] for result in found["results"])
    assert "mAP" not in (settings.out / "results.md").read_text()
    assert find(settings.out, "float16", None)["recall"]["10"]["value"] > 0.95
    again = read(run(replace(settings, out=tmp_path / "again")))
    assert [r["recall"] for r in again["results"]] == [r["recall"] for r in found["results"]]
    tiny = read(run(replace(settings, limit=5, out=tmp_path / "tiny")))
    assert tiny["cutoffs"] == [1]


def quick(compared, out, **chosen):
    return CompareSettings(features=compared.features, methods=("sign",), out=out, **chosen)


def test_an_existing_folder_is_kept_or_refused(compared, tmp_path):
    out = run(quick(compared, tmp_path / "out"))
    before = (out / "results.json").stat().st_mtime_ns
    run(quick(compared, out))
    assert (out / "results.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="queries: found 1000, wanted 10"):
        run(quick(compared, out, queries=10))
    run(quick(compared, out, queries=10, overwrite=True))
    assert read(out)["queries"] == 10
    figures = {"plot.png", "frontier.png"}
    assert {path.name for path in out.iterdir()} == {"results.json", "results.csv", "results.md", *figures}
    (out / "mine.txt").touch()
    with pytest.raises(UsageError, match=r"holds other files, such as mine\.txt"):
        run(quick(compared, out, overwrite=True))
    with pytest.raises(UsageError, match="is a file"):
        run(quick(compared, out / "mine.txt"))
    with pytest.raises(SdcError, match="does not exist"):
        run(quick(compared, tmp_path / "no" / "out"))


def test_a_damaged_folder_is_refused(compared, tmp_path):
    out = run(quick(compared, tmp_path / "out"))
    (out / "results.json").write_text("{}")
    with pytest.raises(SdcError, match="damaged"):
        run(quick(compared, out))


def test_ctrl_c_leaves_nothing_half_written(compared, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("sdc.compare.runner.time_queries", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(quick(compared, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patched:
        patched.setattr("sdc.compare.run.write_csv", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(quick(compared, tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"plot.png", "frontier.png"}
    assert read(run(quick(compared, tmp_path / "out")))["queries"] == QUERIES  # the same command goes on
    with monkeypatch.context() as patched:
        patched.setattr("sdc.compare.run.write_csv", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(quick(compared, tmp_path / "out", queries=10, overwrite=True))
    assert not (tmp_path / "out" / "results.json").exists()  # it would vouch for files of two runs


def test_ctrl_c_inside_faiss_is_one(store, monkeypatch):
    def interrupted(*_):
        raise RuntimeError("Error in check: computation interrupted")

    monkeypatch.setattr(contenders, "_train_pq", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantize("pq", store, store.splits["train"], np.arange(10), 8, 0)


def test_the_command_prints_its_table_or_one_json_object(compared):
    runner = CliRunner()
    command = ["compare", "--features", str(compared.features), "--bits", "64,96", "--out", str(compared.out)]
    command += ["--methods", ",".join(METHODS)]
    shown = runner.invoke(cli, command, catch_exceptions=False)
    assert shown.stdout == (compared.out / "results.md").read_text()
    printed = json.loads(runner.invoke(cli, [*command, "--json"], catch_exceptions=False).stdout)
    assert printed == {"out": str(compared.out), **read(compared.out)}
