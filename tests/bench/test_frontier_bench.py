"""The benchmark of recall over queries a second: a run on few vectors, and what it refuses to print."""

from __future__ import annotations

import csv
import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import warm

from sdc.arrays import unit_rows
from sdc.errors import SdcError

FOLDER = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("frontier_bench")


@pytest.fixture
def data(bench):
    rng = np.random.default_rng(0)
    database, queries = (unit_rows(rng.standard_normal((n, 8)), np.float32) for n in (60, 20))
    tenth = np.sort(queries @ database.T, axis=1)[:, -10]
    return bench.Data("real", Path("none.h5"), database, database, queries, tenth, 1)


def run(folder, *arguments, code=0):
    command = [FOLDER / "frontier_bench.py", *arguments]
    done = warm.run(command, cwd=folder, env={**os.environ, warm.FORK: "1"}, capture_output=True)
    assert done.returncode == code, done.stderr[-2000:]
    return done


def short(folder, contenders):
    """The rows of a run on few vectors, and what it printed."""
    done = run(
        folder, "--sets", "clustered", "--rows", "400", "--dimension", "128", "--bytes", "16", "--queries", "20",
        "--steps", "1", "--seconds", "0.001", "--contenders", contenders, "--out", "few",
    )  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {"few.csv", "few.md", "few-clustered.png"}
    rows = list(csv.DictReader((folder / "few.csv").open()))
    for row in rows:
        assert float(row["queries_a_second"]) > 0
        assert int(row["memory_bytes"]) >= int(row["code_bytes"] or 0)
        assert (int(row["disk_bytes"]) > int(row["memory_bytes"])) == ("reranked" in row["contender"])
    return rows, done.stdout


def test_a_short_run_has_contenders_with_their_bytes(tmp_path):
    rows, text = short(tmp_path, "sign,ivfrabitq,exact")
    assert (tmp_path / "few.md").read_text() == text.removesuffix("\n")
    assert {row["threads"] for row in rows} == {"one", "all"}
    assert {row["contender"] for row in rows} == {
        "sign reranked", "sign reranked, int8", "ivfrabitq", "ivfrabitq reranked", "exact",
    }  # fmt: skip
    exact = [row for row in rows if row["contender"] == "exact"]
    assert [(row["recall@10"], row["memory_bytes"]) for row in exact] == [("1.0", "512")] * 2
    by_factor = {row["setting"]: float(row["recall@10"]) for row in rows if row["contender"] == "sign reranked"}
    assert by_factor["factor 2"] <= by_factor["factor 20"] <= by_factor["factor 50"] == 1
    assert {"sdc", "faiss", "machine", "load", "date"} <= json.loads(rows[0]["provenance"]).keys()


@pytest.mark.slow
def test_a_short_run_of_all_has_all(tmp_path):
    rows, _ = short(tmp_path, "sdc,ivfpq,hnsw,usearch,hnswlib")
    names = {row["contender"] for row in rows}
    assert {
        "sdc codes", "sdc float", "sdc reranked", "sdc reranked, int8", "ivfpq", "ivfpq reranked", "ivfpq 16 refined",
        "hnsw sq8", "hnsw sq4",
    } == names - {"usearch int8", "hnswlib float32"}  # fmt: skip


def test_an_unknown_choice_is_named(tmp_path):
    assert "--sets moon: expected some of real,clustered" in run(tmp_path, "--sets", "moon", code=2).stderr


def test_wrong_results_are_not_measured(bench, data):
    right = np.argsort(-data.queries @ data.database.T, axis=1)[:, :10]
    built = bench.Built("exact", None, 32, 32, 0.0)

    def search(queries, rows=right):
        where = (data.queries[None] == queries[:, None]).all(axis=2).argmax(axis=1)
        return rows[where]

    (row,) = bench.measure(data, [built.at("", search)], ["all"], 0.001)
    assert row["recall@10"] == 1
    wrong = np.where(right == right[0, 0], (right[0, 0] + 1) % 60, right)
    twice = np.repeat(right[:, :5], 2, axis=1)
    for rows in (wrong, twice, right + 60):
        with pytest.raises(SdcError, match="nothing to measure"):
            bench.measure(data, [built.at("", lambda q, rows=rows: search(q, rows))], ["all"], 0.001)
    with pytest.raises(SdcError, match="other items one by one than together"):
        together = built.at("", lambda q: search(q) if len(q) > 1 else search(q)[:, ::-1] * 0 - 1)
        bench.measure(data, [together], ["all"], 0.001)


def test_a_contender_that_is_not_installed_is_named(bench, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert bench.installed(["sdc", "exact", "usearch", "hnswlib"]) == (["sdc", "exact"], ["usearch", "hnswlib"])


def test_the_table_has_the_fastest_setting_that_finds_enough(bench):
    common = {
        "set": "real", "threads": "one", "code_bytes": 16, "contender": "sdc float", "memory_bytes": 17,
        "disk_bytes": 17, "build_cpu_s": 1.0,
    }  # fmt: skip
    found = [(0.8, 9000, "a"), (0.91, 2000, "b"), (0.92, 3000, "c"), (0.94, 1000, "d")]
    rows = [{**common, "recall@10": r, "queries_a_second": q, "setting": s} for r, q, s in found]
    assert "| sdc float | 17 | 17 | 3,000 (c) | — | 0.940 | 1,000 | 1 |" in bench.table(rows)
