"""`diagnose`: its figures against plain recomputations, planted collapses, and healthy runs that raise no alarm."""

from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pytest
from scipy.stats import beta, binom, wasserstein_distance

import sdc
from sdc.errors import SdcError, UsageError
from sdc.retrieve.bits import hamming, pack, unpack
from sdc.retrieve.diagnose import similarity_histograms
from sdc.retrieve.diagnose.alarms import explain
from sdc.retrieve.diagnose.run import DiagnoseSettings, bit_use, measure, run, ties
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.threads import faiss_module
from sdc.train.model import Model

load_digits = pytest.importorskip("sklearn.datasets").load_digits

RNG = np.random.default_rng(0)


def ideal(bits):
    return lambda levels: binom.ppf(levels, bits, 0.5) / bits


def diagnose(codes, features=None, labels=None):
    """The alarms and all figures of codes held in memory."""
    counts = similarity_histograms.count_pairs(codes, features, labels)
    bits = codes.shape[1] * 8
    found = {"bits": bits, "sample": len(codes), "target": "ideal", "target_known": False}
    found |= measure(codes, labels, counts, ideal(bits)) | {"ties": ties(codes, np.arange(200), (10, 100))}
    return {alarm["finding"] for alarm in explain(found)["findings"]}, found


@pytest.fixture(scope="module")
def digits():
    """Pixels (1797, 64) float32 of handwritten digits, and their labels."""
    data = load_digits()
    return data.data.astype(np.float32), data.target.astype(np.int32)


# Figures


@pytest.mark.parametrize("labels", ["single", "multi", None])
def test_every_pair_is_counted_once_whatever_the_blocks(labels, monkeypatch):
    codes, x = RNG.integers(0, 256, (70, 2), np.uint8), RNG.standard_normal((70, 5)).astype(np.float32)
    x[3], x[4] = 0, x[5]
    made = {"single": RNG.integers(0, 4, 70), "multi": RNG.integers(0, 2, (70, 4)).astype(np.uint8), None: None}[labels]
    expected = np.zeros((2, 17, similarity_histograms.BINS), int)
    for i in range(70):
        for j in range(i):
            length = np.linalg.norm(x[i]) * np.linalg.norm(x[j])
            cosine = float(x[i] @ x[j]) / length if length else 0.0
            column = min(int((cosine + 1) / 2 * similarity_histograms.BINS), similarity_histograms.BINS - 1)
            alike = made is not None and bool((made[i] == made[j]) if labels == "single" else (made[i] & made[j]).any())
            expected[int(alike), hamming(codes[i : i + 1], codes[j : j + 1])[0, 0], column] += 1
    counts = similarity_histograms.count_pairs(codes, x, made)
    assert counts.sum() == 70 * 69 / 2
    assert np.abs(counts - expected).sum() <= 4  # a cosine on a bin's edge may round either way
    np.testing.assert_array_equal(counts.sum(axis=2), expected.sum(axis=2))
    monkeypatch.setattr(similarity_histograms, "_PAIRS", 70 * 9)
    np.testing.assert_array_equal(similarity_histograms.count_pairs(codes, x, made).sum(axis=2), expected.sum(axis=2))


def test_overlap_is_that_of_exact_hamming_values():
    codes = np.array([[0b0000_0000], [0b0000_0001], [0b0000_0111], [0b1111_1111]], np.uint8)
    found = similarity_histograms.of_codes(similarity_histograms.count_pairs(codes, labels=np.array([0, 0, 1, 1])))
    # positive: distances 1 and 5; negative: 3, 8, 2, 7
    assert found.overlap() == 0
    np.testing.assert_allclose(found.values[found.positive > 0], [1 - 10 / 8, 1 - 2 / 8])
    mixed = similarity_histograms.of_codes(similarity_histograms.count_pairs(codes, labels=np.array([0, 1, 0, 1])))
    # positive: 3, 7; negative: 1, 8, 2, 5
    assert mixed.overlap() == 0
    same = similarity_histograms.of_codes(
        similarity_histograms.count_pairs(codes[[0, 0, 0, 3]], labels=np.array([0, 0, 1, 1]))
    )
    # positive: 0, 8; negative: 0, 8, 0, 8
    assert same.overlap() == 1
    with pytest.raises(SdcError, match="positive and negative pairs, found 0 and 6"):
        similarity_histograms.of_codes(similarity_histograms.count_pairs(codes)).overlap()


@pytest.mark.parametrize(("bits", "a"), [(16, 5), (64, 16)])
def test_distance_to_the_target_is_w1(bits, a):
    codes = pack(RNG.standard_normal((300, bits)) + 0.3)
    similarities = 1 - 2 * hamming(codes, codes)[np.triu_indices(300, 1)] / bits
    expected = wasserstein_distance(similarities, 2 * beta(a, a).ppf((np.arange(20_000) + 0.5) / 20_000) - 1)
    found = similarity_histograms.of_codes(similarity_histograms.count_pairs(codes))
    assert found.distance(beta(a, a).ppf) == pytest.approx(expected, abs=2e-3)
    assert found.distance(ideal(bits)) > 0.03
    assert found.mean_and_sd() == pytest.approx((similarities.mean(), similarities.std()))
    balanced = similarity_histograms.of_codes(
        similarity_histograms.count_pairs(pack(RNG.standard_normal((1000, bits))))
    )
    assert balanced.distance(ideal(bits)) < 0.005


def test_bits_are_judged_by_balance_copies_and_participation():
    outputs = RNG.standard_normal((4000, 16))
    free = bit_use(pack(outputs))
    assert free["effective_bits"] == pytest.approx(16, abs=0.3)
    assert free["correlation"]["max"] < 0.1
    assert free["balance"]["constant"] == free["correlation"]["copies"] == 0
    outputs[:, 1], outputs[:, 2], outputs[:, 3] = 1, outputs[:, 0], -outputs[:, 0]
    outputs[:, 4] = outputs[:, 4] > 2  # 2 % ones
    bits = unpack(pack(outputs)).astype(float)
    spoilt = bit_use(pack(outputs))
    assert spoilt["balance"] == {
        "mean": pytest.approx(np.abs(2 * bits.mean(0) - 1).mean()), "worst": 1.0, "constant": 1, "lopsided": 2,
    }  # fmt: skip
    r = np.abs(np.corrcoef(np.delete(bits, 1, axis=1).T))[np.tril_indices(15, -1)]
    assert spoilt["correlation"] == {"mean": pytest.approx(r.mean(), abs=1e-4), "max": pytest.approx(1), "copies": 2}
    eigenvalues = np.linalg.eigvalsh(np.cov(bits.T, bias=True))
    assert spoilt["effective_bits"] == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-4)
    assert bit_use(np.full((50, 2), 7, np.uint8))["effective_bits"] == 0


def test_ties_are_the_items_as_far_as_the_kth_neighbour(monkeypatch):
    codes, queries = RNG.integers(0, 16, (150, 1), np.uint8), np.array([4, 90, 17])
    expected = {k: [] for k in (1, 10, 149)}
    for query in queries:
        distances = np.delete(hamming(codes[query][None], codes)[0], query)
        for k, items in expected.items():
            items.append((distances == np.sort(distances)[k - 1]).sum())
    found = ties(codes, queries, (1, 10, 149, 150))
    assert list(found) == ["1", "10", "149"]
    for k, items in expected.items():
        assert found[str(k)] == {"items": pytest.approx(np.mean(items)), "share": pytest.approx(np.mean(items) / 149)}
    monkeypatch.setattr("sdc.retrieve.diagnose.run._TIES", 150)
    assert ties(codes, queries, (10,))["10"]["items"] == expected[10][0]


def test_agreement_is_the_correlation_over_pairs(digits):
    x, labels = digits[0][:500], digits[1][:500]
    codes = sdc.Hasher(bits=32, method="itq").fit(x).encode(x)
    found = diagnose(codes, x, labels)[1]
    pairs = np.triu_indices(500, 1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines, similarities = (unit @ unit.T)[pairs], 1 - hamming(codes, codes)[pairs] / 16
    same = (labels[:, None] == labels)[pairs]
    assert found["agreement"]["all"] == pytest.approx(np.corrcoef(cosines, similarities)[0, 1], abs=2e-3)
    assert found["agreement"]["within"] == pytest.approx(np.corrcoef(cosines[same], similarities[same])[0, 1], abs=5e-3)
    assert found["feature_similarity"]["mean"] == pytest.approx(cosines.mean(), abs=1e-3)
    one_code = similarities == 1
    assert found["unlike"] == pytest.approx((cosines[one_code] <= np.quantile(cosines, 0.8)).mean(), abs=0.05)
    assert found["pairs"] == {"positive": same.sum(), "negative": (~same).sum()}


# Verdicts


def planted(bits, labels):
    """Collapses by name: what they do to the bits (n, K), and what must be found."""
    n, k = bits.shape
    half, at = k // 2, np.arange(n)
    random = np.random.default_rng(1)
    flips = random.random((n, k))
    classes = random.random((labels.max() + 1, k)) < 0.5

    def changed(columns, values):
        new = bits.copy()
        new[:, columns] = values
        return new

    in_one = bits.copy()
    in_one[labels == 4] = bits[labels == 4][0]
    return {
        "a constant bit": (changed([3], True), "constant_bits"),
        "half the bits dead": (changed(at[:half], False), "constant_bits"),
        "half the bits nearly dead": (changed(at[:half], flips[:, :half] < 0.01), "lopsided_bits"),
        "half the bits copied": (changed(at[half:k], bits[:, :half]), "copied_bits"),
        "a quarter inverted": (changed(at[: k // 4], ~bits[:, half : half + k // 4]), "copied_bits"),
        "twenty codes": (bits[random.integers(0, 20, n)], "few_codes"),
        "all alike": (bits[:1] ^ (flips < 0.03), "alike"),
        "all the same": (np.repeat(bits[:1], n, axis=0), "few_effective_bits"),
        "two codes": (bits[random.integers(0, 2, n)] ^ (flips < 0.01), "few_effective_bits"),
        "independent of the features": (bits[random.permutation(n)], "unrelated_codes"),
        "one cluster in one code": (in_one, "one_code"),
        "one code a class, and noise": (classes[labels] ^ (flips < 0.08), "fine_grain_lost"),
    }


@pytest.fixture(scope="module")
def collapses(digits):
    x, labels = digits
    made = {}
    for bits in (16, 64):
        codes = sdc.Hasher(bits=bits, method="itq").fit(x).encode(x)
        assert diagnose(codes, x, labels)[0] == set()
        made[bits] = planted(unpack(codes), labels)
    return made


@pytest.mark.parametrize("bits", [16, 64])
@pytest.mark.parametrize("name", list(planted(np.zeros((20, 16), bool), np.arange(20) % 5)))
def test_planted_collapses_are_flagged(collapses, digits, bits, name):
    codes, expected = collapses[bits][name]
    assert expected in diagnose(pack(codes), *digits)[0]


@pytest.mark.parametrize("name", ["half the bits dead", "half the bits copied", "twenty codes", "all alike"])
def test_collapsed_codes_show_without_labels_and_features(collapses, name):
    codes, expected = collapses[64][name]
    assert expected in diagnose(pack(codes))[0]


def test_codes_unrelated_to_labels_show_without_features(collapses, digits):
    codes, _ = collapses[64]["independent of the features"]
    assert "unrelated_codes" in diagnose(pack(codes), labels=digits[1])[0]


def test_a_cluster_in_one_code_shows_by_its_unlike_items(collapses, digits):
    codes, _ = collapses[64]["one cluster in one code"]
    alarms, found = diagnose(pack(codes), digits[0])
    assert found["unlike"] > 0.1
    assert "one_code" in alarms


HEALTHY = [
    *(("sdc", bits, seed) for bits in (16, 32, 64, 128) for seed in (0, 1)),
    *(("itq", bits, seed) for bits in (16, 32, 64) for seed in (0, 1)),
    *(("random-rotation", bits, 0) for bits in (16, 32, 64, 128)),
    *(("lsh", bits, 0) for bits in (16, 32, 64, 128)),
]


@pytest.mark.parametrize(("method", "bits", "seed"), HEALTHY)
def test_healthy_runs_raise_no_alarm(digits, method, bits, seed):
    x, labels = digits
    x = x - x.mean(axis=0) if method == "lsh" else x  # lsh does not centre
    codes = sdc.Hasher(bits=bits, method=method, seed=seed).fit(x).encode(x)
    for given in ((x, labels), (x, None), (None, labels), (None, None)):
        assert diagnose(codes, *given)[0] == set()


def test_a_head_trained_far_too_fast_is_flagged(digits):
    x, labels = digits
    codes = sdc.Hasher(bits=64, method="sdc", lr=3.0).fit(x).encode(x)
    assert diagnose(codes, x, labels)[0]


def test_every_message_names_an_option(collapses, digits):
    for codes, expected in collapses[64].values():
        found = diagnose(pack(codes), *digits)[1]
        message = next(a["message"] for a in explain(found)["findings"] if a["finding"] == expected)
        assert "--" in message
        assert "\n" not in message


# The stage


def settings_of(scene, **options):
    return DiagnoseSettings(index=scene.folder / "db.bin", **options)


def test_the_database_or_a_seeded_sample_of_it_is_measured(scene):
    found = run(settings_of(scene))
    database = scene.index.database
    assert {k: found[k] for k in ("bits", "rows", "sample", "method")} == {
        "bits": 16, "rows": 400, "sample": 400, "method": "lsh",
    }  # fmt: skip
    counts = similarity_histograms.count_pairs(database.codes, scene.store.take(database.rows), database.labels)
    expected = measure(database.codes, database.labels, counts, ideal(16))
    for key in ("overlap", "pairs", "agreement", "similarity", "balance"):
        assert found[key] == pytest.approx(expected[key]), key
    assert found["target_distance"] == pytest.approx(expected["target_distance"])
    assert found["ties"]["10"]["items"] > 1
    assert json.loads(json.dumps(found)) == found
    some = run(settings_of(scene, sample=100))
    assert some["sample"] == 100
    assert some == run(settings_of(scene, sample=100))
    assert some["overlap"] != run(settings_of(scene, sample=100, seed=1))["overlap"]


def test_pairs_are_of_items_that_have_a_label(make_scene):
    scene = make_scene(labels="some")
    database = scene.index.database
    labelled = np.flatnonzero(database.labels != -1)
    found = run(settings_of(scene))
    assert found["sample"] == len(labelled) < len(database)
    labels = database.labels[labelled]
    same = int((labels[:, None] == labels).sum() - len(labels)) // 2
    assert found["pairs"] == {"positive": same, "negative": len(labels) * (len(labels) - 1) // 2 - same}


def test_without_labels_and_features_the_codes_are_measured(make_scene, caplog):
    scene = make_scene(labels=None)
    found = run(settings_of(scene))
    assert {"pairs", "overlap", "largest_code_of_a_class"}.isdisjoint(found)
    assert set(found["agreement"]) == {"all"}
    (scene.folder / "feats.h5").unlink()
    with caplog.at_level(logging.INFO, "sdc"):
        found = run(settings_of(scene))
    assert "without their features: no feature store" in caplog.text
    assert {"agreement", "feature_similarity", "unlike"}.isdisjoint(found)
    assert found["unique"] > 0.5


def test_multi_hot_labels_count_a_shared_one(make_scene):
    scene = make_scene(labels="multi")
    labels = scene.index.database.labels
    shared = (labels.astype(int) @ labels.T > 0)[np.triu_indices(400, 1)]
    assert run(settings_of(scene))["pairs"] == {"positive": shared.sum(), "negative": (~shared).sum()}


def test_the_target_is_the_models_calibration_where_it_is_known(scene, caplog):
    found = run(settings_of(scene))
    assert (found["target"], found["target_known"]) == ("binomial(16, 1/2)", False)
    assert "target_unknown" in [note["finding"] for note in found["notes"]]
    tensors = {"output.weight": RNG.standard_normal((16, 24)), "output.bias": np.full(16, 40)}
    metadata = {"method": "sdc", "settings": {"calibration": "beta:9,9"}, "features": {}}
    Model(tensors, metadata).save(scene.folder / "calibrated.safetensors")
    scene.encode(model="calibrated.safetensors", overwrite=True)
    found = run(settings_of(scene))
    assert (found["target"], found["target_known"]) == ("beta:9,9", True)
    assert found["target_distance"] == pytest.approx(1, abs=0.05)  # all codes alike, the target has mean 0
    assert "target_missed" in [alarm["finding"] for alarm in found["findings"]]
    scene.write_model("calibrated.safetensors", seed=5)
    with caplog.at_level(logging.INFO, "sdc"):
        assert run(settings_of(scene))["target"] == "binomial(16, 1/2)"
    assert "not the model that encoded the index" in caplog.text


def test_other_features_are_refused_or_left_out(scene, caplog):
    other = scene.write_features("other.h5", seed=5)
    with pytest.raises(UsageError, match="name the right ones"):
        run(settings_of(scene, features=other))
    with pytest.raises(SdcError, match="no feature store"):
        run(settings_of(scene, features=scene.folder / "none.h5"))
    scene.write_features(seed=6)
    with caplog.at_level(logging.WARNING, "sdc"):
        assert "agreement" not in run(settings_of(scene))
    assert "was encoded from features" in caplog.text


def test_features_already_spread_get_a_note_not_an_alarm():
    wide = RNG.standard_normal((1000, 6)).astype(np.float32)
    codes = sdc.Hasher(bits=32, method="random-rotation").fit(wide).encode(wide)
    found = diagnose(codes, wide)[1]
    assert found["feature_similarity"]["coverage"] > 0.99
    told = explain(found)
    assert "spread_already" in [note["finding"] for note in told["notes"]]
    assert "spread_already" not in [alarm["finding"] for alarm in told["findings"]]
    narrow = wide + 10  # all cosines close to 1
    assert diagnose(codes, narrow)[1]["feature_similarity"]["coverage"] == 0
    assert 0.1 < diagnose(codes, np.abs(wide))[1]["feature_similarity"]["coverage"] < 0.9


def test_histograms_go_to_a_table_or_a_figure(scene):
    found = run(settings_of(scene, out=scene.folder / "pairs.csv"))
    rows = list(csv.DictReader((scene.folder / "pairs.csv").open()))
    for space, bins in (("features", similarity_histograms.BINS), ("codes of 16 bits", 17)):
        mine = [row for row in rows if row["space"] == space]
        assert len(mine) == bins
        assert sum(int(row["positive_pairs"]) for row in mine) == found["pairs"]["positive"]
        assert sum(int(row["negative_pairs"]) for row in mine) == found["pairs"]["negative"]
    run(settings_of(scene, out=scene.folder / "pairs.png"))
    both = (scene.folder / "pairs.png").read_bytes()
    assert both.startswith(b"\x89PNG")
    (scene.folder / "feats.h5").unlink()
    run(settings_of(scene, out=scene.folder / "pairs.png"))
    width = [int.from_bytes(image[16:20], "big") for image in (both, (scene.folder / "pairs.png").read_bytes())]
    assert width[0] > 1.5 * width[1]  # a panel each


def test_what_cannot_be_diagnosed_is_refused(scene):
    for options, message in (
        ({"sample": 1}, "at least 2 rows"),
        ({"out": scene.folder / "pairs.txt"}, r"\.png \(figure\) or a \.csv"),
    ):
        with pytest.raises(UsageError, match=message):
            run(settings_of(scene, **options))
    Index.build(np.zeros((1, 2), np.uint8)).save(scene.folder / "db.bin")
    with pytest.raises(SdcError, match="a single code"):
        run(settings_of(scene))


def test_an_index_that_plain_faiss_wrote_is_measured(scene):
    flat = faiss_module().IndexBinaryFlat(16)
    flat.add(scene.index.database.codes)
    faiss_module().write_index_binary(flat, str(scene.folder / "plain.bin"))
    found = run(DiagnoseSettings(index=scene.folder / "plain.bin"))
    assert found["method"] is None
    assert found["unique"] == run(settings_of(scene))["unique"]
