"""The verdict that ends `sdc encode` and `sdc evaluate`: its figures beside plain ones, its advice, its warnings."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from sdc.cli import cli
from sdc.extract.store import Listing, write_features
from sdc.retrieve.encode import EncodeSettings, run
from sdc.retrieve.evaluate import EvaluateSettings, evaluate
from sdc.retrieve.features import encoded_features
from sdc.retrieve.index import Index
from sdc.retrieve.rerank import choose_shortlist
from sdc.retrieve.verdict import Figures, Recall, advice, judge, verdict_json, verdict_lines
from sdc.train.methods import ITQ
from sdc.train.model import Model


@pytest.fixture
def make(tmp_path):
    """A function that writes db.bin of features by a linear head, with the first rows as queries, and opens it."""

    def made(features, weight, bias=0.0, method="other", labels=None, queries=110):
        listing = Listing(
            [str(row) for row in range(len(features))],
            {"query": np.arange(queries), "database": np.arange(queries, len(features)), "train": np.arange(0)},
            labels=labels,
        )
        paths = {name: tmp_path / file for name, file in (("features", "f.h5"), ("model", "m.st"), ("out", "db.bin"))}
        write_features(
            paths["features"], listing, {"source": "import"}, features.shape[1], np.float32,
            [features.astype(np.float32)],
        )  # fmt: skip
        tensors = {"output.weight": np.asarray(weight), "output.bias": np.full(len(weight), bias)}
        Model(tensors, {"method": method, "features": {"fingerprint": "others"}}).save(paths["model"])
        return Index.open(run(EncodeSettings(**paths, overwrite=True)))

    return made


def clusters(count=900, dimension=24, seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 6, count)
    return 2 * rng.standard_normal((6, dimension))[kind] + rng.standard_normal((count, dimension))


def head(bits=16, dimension=24):
    return np.random.default_rng(1).standard_normal((bits, dimension))


def warned(index):
    return {each.warning: each.message for each in judge(index).warned}


def test_its_figures_are_those_of_evaluate_and_of_rerank_auto(make, tmp_path):
    index = make(clusters(), head())
    figures = judge(index)
    scores = evaluate(EvaluateSettings(tmp_path / "db.bin", neighbors="float"))
    assert figures.recall.codes == pytest.approx(scores["neighbor_recall"]["10"], abs=1e-12)
    assert (figures.recall.queries, figures.recall.items) == (110, 790)
    store = encoded_features(index, None, verify=True)
    choice = choose_shortlist(index, Model.load(tmp_path / "m.st"), store, 10, 0.95)
    assert (figures.recall.reranked, figures.recall.shortlist) == (choice.achieved, choice.shortlist)
    assert (figures.bytes, figures.feature_bytes) == (2, 96)
    assert verdict_json(figures)["smaller"] == 48
    lines = verdict_lines(figures)
    assert [line.split()[0] for line in lines[:5]] == ["size", "recall@10", "re-ranked", "latency", "too"]
    assert f"{figures.recall.codes:.3f} by codes alone (110 queries, 790 items)" in lines[1]


def test_one_query_is_timed_again_after_it_has_warmed_up(make, monkeypatch):
    index = make(clusters(60), head(), queries=1)
    times = iter([900.0, *[1.0] * 10_000])
    clock = [0.0]

    def slow_at_first(codes, k):
        clock[0] += next(times) / 1e3

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(index, "search", slow_at_first)
    assert judge(index).milliseconds["codes"] == pytest.approx(1)


def test_non_negative_features_and_sign_warn_of_one_code(make):
    index = make(np.abs(clusters()), np.eye(16, 24), method="sign")
    message = warned(index)["equal_codes"]
    assert "790 of 790 codes are equal (1 distinct)" in message
    assert "`sdc train --method itq`" in message


def test_equal_features_warn_of_equal_codes(make):
    assert "equal_codes" in warned(make(np.ones((300, 24)), head()))


def test_a_model_or_features_made_anew_since_are_told(make, tmp_path):
    features = clusters()
    index = make(features, head())
    assert not {"other_model", "other_features"} & warned(index).keys()
    Model({"output.weight": -head(), "output.bias": np.zeros(16)}, {"method": "other"}).save(tmp_path / "m.st")
    figures = judge(index)
    assert f"{tmp_path / 'm.st'} was trained anew" in figures.warned[0].message
    assert figures.recall is None
    make(features + 1, head())
    assert set(warned(index)) >= {"other_features"}


def test_codes_no_better_than_itqs_are_told_and_better_ones_not(make):
    features = clusters()
    fitted = ITQ().fit(features[110:].astype(np.float32), 16, 0)
    itq = fitted["output.weight"], fitted["output.bias"][:, None].T.ravel()
    assert "itq_as_well" in warned(make(features, itq[0], itq[1]))
    assert "itq_as_well" not in warned(make(features, itq[0], itq[1], method="itq"))
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (6, 8))[rng.integers(0, 6, 900)]
    noisy = np.concatenate([2 * bits - 1, 3 * rng.standard_normal((900, 24))], axis=1)  # classes that variance hides
    labels = np.unique(bits, axis=0, return_inverse=True)[1].astype(np.int32)
    assert "itq_as_well" not in warned(make(noisy, np.eye(8, 32), labels=labels))


FIGURES = Figures(
    count=9000, bits=64, method="sdc", tables=False, bytes=8, dimension=128, feature_bytes=256,
    recall=Recall(10, 0.5, 0.96, 40, 160, 128, 9000), milliseconds={"codes": 0.1, "reranked": 0.5},
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["--rerank auto", "--bits 128", "--goal neighbors"]),
        ({"dimension": 100, "method": "neighbors"}, ["--rerank auto"]),
        ({"shortlist": 5000}, ["--bits 128", "--goal neighbors"]),
        ({"codes": 0.97}, ["shorter ones"]),
        ({"recall": None}, ["--model, --features"]),
        ({"shortlist": 5000, "dimension": 64, "method": "neighbors"}, ["sdc compare"]),
    ],
)
def test_the_advice_follows_from_the_figures(changes, words):
    of_recall = {name: value for name, value in changes.items() if name in ("shortlist", "codes")}
    others = {name: value for name, value in changes.items() if name not in of_recall}
    text = advice(replace(FIGURES, **{"recall": replace(FIGURES.recall, **of_recall), **others}))
    known = ("--rerank auto", "--bits 128", "--goal neighbors", "shorter ones", "--model, --features", "sdc compare")
    assert [each for each in known if each in text] == words


@pytest.mark.parametrize("count", [1, 2, 12])
def test_few_items_and_codes_without_a_model_get_a_verdict(make, count):
    figures = judge(make(clusters()[: count + 3], head(), queries=3))
    assert len(verdict_lines(figures)) == 5 + len(figures.warned)
    assert (figures.recall is None) == (count == 1)
    plain = judge(Index.build(np.arange(8 * count, dtype=np.uint8).reshape(count, 8)))
    assert (plain.recall, plain.feature_bytes) == (None, None)
    assert "not measured" in "\n".join(verdict_lines(plain))


def test_both_commands_end_with_it_and_json_has_it(make, tmp_path, caplog):
    make(clusters(), head())
    db = str(tmp_path / "db.bin")
    encode = ["encode", "--features", str(tmp_path / "f.h5"), "--model", str(tmp_path / "m.st"), "--out", db]
    evaluate_it = ["evaluate", "--index", db]
    caplog.set_level("INFO")
    for asked in (encode, evaluate_it):
        text = CliRunner().invoke(cli, asked).stdout.splitlines()
        assert [line.split()[0] for line in text if line[:4] in ("size", "too ")] == ["size", "too"]
        caplog.clear()
        answer = json.loads(CliRunner().invoke(cli, [*asked, "--json"]).stdout)["verdict"]
        assert set(answer) >= {"bytes", "smaller", "recall", "milliseconds", "advice", "warned"}
        assert answer["advice"] in caplog.text
