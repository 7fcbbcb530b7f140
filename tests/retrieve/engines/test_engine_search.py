from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from sdc.cli import cli
from sdc.errors import SdcError, UsageError
from sdc.retrieve.bits import hamming
from sdc.retrieve.engines import connect, parse
from sdc.retrieve.engines.push import PushSettings, run
from sdc.retrieve.engines.search import search
from sdc.retrieve.search import search as search_here
from sdc.retrieve.search_settings import SearchSettings

NAMES = [
    "a\nb", "a\tb", "a\rb", "\x01\x1f\x7f", "\u2028", "\\n", "\\u0041", "\\N", "e\u0301", "é", "' or 1==1", 'a"b',
    "a'b", "a\\b", "Å💎 ü", "%_", "", "'; DROP TABLE x; --", "{row}", "%s", "x" * 300,
]  # fmt: skip


def distances(answer):
    return [[near["distance"] for near in result["neighbors"]] for result in answer["results"]]


def check_neighbors(answer, index):
    """Each neighbour is what it is said to be, in the order (distance, row)."""
    database = index.database
    for result in answer["results"]:
        query = database.codes[database.find(result["query"])]
        near = result["neighbors"]
        positions = np.searchsorted(database.rows, [each["row"] for each in near])
        assert [each["id"] for each in near] == database.names(positions)
        assert [each["distance"] for each in near] == hamming(query[None], database.codes[positions])[0].tolist()
        order = [(each["distance"], each["row"]) for each in near]
        assert order == sorted(set(order))


@pytest.mark.parametrize("bits", [64, 256])
def test_a_hundred_queries_find_the_same_distances(url, bits, make_index):
    index = make_index(bits=bits)
    run(PushSettings(url, index.path))
    asked = SearchSettings(index.path, ids=tuple(index.database.names(np.arange(0, 1500, 15))), k=20)
    here, there = search_here(asked), search(replace(asked, index=url))
    assert len(there["results"]) == 100
    assert distances(there) == distances(here)
    check_neighbors(there, index)
    assert {**there, "results": None} == {"index": url, "k": 20, "results": None}
    assert [result["query"] for result in there["results"]] == list(asked.ids)


@pytest.mark.parametrize("labels", ["one", "many"])
def test_labels_and_radius_restrict_as_here(url, labels, make_index):
    index = make_index(labels=labels, count=900)
    run(PushSettings(url, index.path))
    names = tuple(index.database.names(np.arange(5)))
    below_zero = {"only_labels": (-1,) if labels == "one" else (0,), "k": 4}
    for change in ({"only_labels": (1,), "k": 7}, {"only_labels": (0, 2), "k": 2000}, {"k": 5, "limit": 2}, below_zero):
        asked = SearchSettings(index.path, ids=names, **change)
        here, there = search_here(asked), search(replace(asked, index=url))
        assert distances(there) == distances(here)
        assert there["k"] == here["k"]
        check_neighbors(there, index)
    for change in ({"radius": 14}, {"radius": 0}, {"radius": 64}, {"radius": 16, "only_labels": (1,)}):
        asked = SearchSettings(index.path, ids=names, **change)
        assert search(replace(asked, index=url)) == {**search_here(asked), "index": url}
    asked = SearchSettings(url, ids=names, k=20, radius=64)
    assert search(replace(asked, only_labels=("kind 1",))) == search(replace(asked, only_labels=(1,)))
    with pytest.raises(UsageError, match="has the label 77"):
        search(SearchSettings(url, ids=names, only_labels=(77,)))
    with pytest.raises(UsageError, match="unknown class 'kind': did you mean 'kind"):
        search(SearchSettings(url, ids=names, only_labels=("kind",)))


def test_k_beyond_the_collection_returns_all(url, make_index):
    index = make_index(count=300, labels=None)
    run(PushSettings(url, index.path))
    asked = SearchSettings(index.path, ids=(str(index.database.rows[0]),), k=5000)
    assert search(replace(asked, index=url)) == {**search_here(asked), "index": url}
    with pytest.raises(UsageError, match="has no labels"):
        search(replace(asked, index=url, only_labels=(1,)))


def test_ids_of_any_kind_come_back_and_are_found(url, make_index):
    index = make_index(count=len(NAMES), ids=NAMES, queries=0)
    run(PushSettings(url, index.path))
    refused = [name for name in NAMES if parse(url).file and ("\n" in name or "\r" in name)]
    asked = SearchSettings(index.path, ids=tuple(name for name in NAMES if name not in refused), k=len(NAMES))
    assert search(replace(asked, index=url)) == {**search_here(asked), "index": url}
    for name in refused:
        with pytest.raises(UsageError, match=r"cannot be asked for the id 'a\\[nr]b', since it has a line"):
            search(SearchSettings(url, ids=(name,)))
    with pytest.raises(UsageError, match=r"unknown id 'a': .* has no such item"):
        search(SearchSettings(url, ids=("a",)))


def test_an_id_that_many_items_share_hides_no_other(new_url, make_index):
    url, index = new_url("embedded"), make_index(count=16_400, ids=["same"] * 16_399 + ["other"], queries=0)
    run(PushSettings(url, index.path))
    answer = search(SearchSettings(url, ids=("other", "same"), k=1))
    assert [result["neighbors"][0]["distance"] for result in answer["results"]] == [0, 0]
    assert answer["results"][0]["neighbors"][0]["id"] == "other"


def test_vectors_are_encoded_by_the_pushed_model_alone(url, made, tmp_path, monkeypatch):
    run(PushSettings(url, made / "db.bin"))
    np.save(tmp_path / "q.npy", np.load(made / "vectors.npy")[:20])
    monkeypatch.chdir(tmp_path)  # the recorded path does not hang on the working folder
    command = ["search", "--queries", "q.npy", "-k", "5", "--json", "--index"]
    there, here = (CliRunner().invoke(cli, [*command, place]) for place in (url, str(made / "db.bin")))
    assert there.exit_code == here.exit_code == 0, there.output
    assert distances(json.loads(there.stdout)) == distances(json.loads(here.stdout))
    other = tmp_path / "other.safetensors"
    assert CliRunner().invoke(
        cli, ["train", "--features", str(made / "feats.h5"), "--epochs", "1", "--bits", "32", "--seed", "5",
              "--out", str(other)]
    ).exit_code == 0  # fmt: skip
    with pytest.raises(UsageError, match=r"was encoded by the model [0-9a-f]{32}, but .*other.safetensors is"):
        search(SearchSettings(url, queries=tmp_path / "q.npy", model=other))


def test_the_command_prints_neighbours(new_url, make_index):
    index, url = make_index(count=200), new_url("embedded")
    done = CliRunner().invoke(cli, ["push", "--index", str(index.path), "--to", url])
    assert done.stdout == f"{url}: 200 rows of 64 bits, 200 of them new\n"
    name = index.database.names(np.arange(1))[0]
    assert (
        CliRunner().invoke(cli, ["search", "--index", url, "--id", name, "-k", "1"]).stdout
        == f"{name}: {name} (0, kind {index.database.labels[0]})\n"
    )


def test_what_is_not_there_says_how_it_is_made(url, make_index):
    with pytest.raises(SdcError, match="make it with `sdc push --to"):
        search(SearchSettings(url, ids=("1",)))


def test_a_collection_that_was_dropped_is_said(new_url, make_index, milvus_server):
    from pymilvus import MilvusClient

    index, url = make_index(count=100), new_url("milvus")
    run(PushSettings(url, index.path))
    MilvusClient(f"http://{milvus_server}").drop_collection(url.rpartition("/")[2])
    with pytest.raises(SdcError, match="there is nothing at"):
        search(SearchSettings(url, ids=("1",)))


def test_more_neighbours_than_milvus_returns_are_refused(new_url, make_index):
    index, url = make_index(count=16_500), new_url("embedded")
    run(PushSettings(url, index.path))
    asked = SearchSettings(url, ids=(str(index.database.rows[0]),), k=16_385)
    with pytest.raises(UsageError, match="returns 16384 at most"):
        search(asked)
    with pytest.raises(UsageError, match="--radius 64 takes in more than 16384"):
        search(replace(asked, radius=64))
    assert len(search(replace(asked, k=16_384))["results"][0]["neighbors"]) == 16_384


@pytest.mark.parametrize(
    ("engine", "index_type"), [pytest.param("milvus", "ivf", marks=pytest.mark.slow), ("pgvector", "hnsw")]
)
def test_approximate_types_return_k_and_are_exact_among_labels(engine, index_type, new_url, make_index, monkeypatch):
    # A large table's plan, and hnsw gives up after 500 tuples; 20,000 unless configured.
    monkeypatch.setenv("PGOPTIONS", "-c enable_seqscan=off -c hnsw.max_scan_tuples=500")
    index, url = make_index(count=3000), new_url(engine)
    run(PushSettings(url, index.path, index_type=index_type))
    with contextlib.closing(connect(parse(url), create=False)) as opened:
        assert opened.record().index_type == index_type
        (near,) = opened.search(index.database.codes[:1], 3000)
        assert 10 <= len(near.rows) < 3000  # the index is in use
    asked = SearchSettings(index.path, ids=tuple(index.database.names(np.arange(5))), k=3000)
    assert search(replace(asked, index=url)) == {**search_here(asked), "index": url}
    for change in ({"only_labels": (3,), "k": 40}, {"only_labels": (3, 4, 3), "k": 3000}):
        here, there = search_here(replace(asked, **change)), search(replace(asked, index=url, **change))
        assert distances(there) == distances(here)
        assert there["k"] == here["k"]
        check_neighbors(there, index)
    for radius in (0, 12, 24, 26):  # exact in any type
        near = replace(asked, radius=radius)
        assert search(replace(near, index=url)) == {**search_here(near), "index": url}
    if index_type == "ivf":  # lists are scanned as told
        asked = replace(asked, k=10)
        all_lists = search(replace(asked, index=url, nprobe=10_000))
        assert distances(all_lists) == distances(search_here(asked))
        assert distances(search(replace(asked, index=url, nprobe=1))) != distances(all_lists)
        with pytest.raises(UsageError, match="--nprobe must be at least 1"):
            search(replace(asked, index=url, nprobe=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rerank": "auto"}, "--rerank auto measures on an index in a file"),
        ({"rerank": 0.5}, "a number from 1 on"),
        ({"rerank": 2.0, "radius": 3}, "give one of them"),
        ({"precision": "int8"}, "give it with that"),
        ({"features": "f.h5"}, "--features is for an index in a file"),
        ({"only_ids": "ids.txt"}, "--only-ids is for an index in a file"),
        ({"explain": True}, "--explain is for an index in a file"),
        ({"k": 0}, "k must be at least 1"),
        ({"limit": 0}, "--limit must be at least 1"),
        ({"radius": -1}, "radius must be at least 0"),
        ({"ids": ()}, "the query split stays with the db.bin"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_it_is_asked(change, message):
    with pytest.raises(UsageError, match=message):
        search(SearchSettings("milvus://127.0.0.1:1/none", **{"ids": ("1",), **change}))


def test_nprobe_is_for_ivf(new_url, make_index):
    index, url = make_index(count=100), new_url("embedded")
    run(PushSettings(url, index.path))
    with pytest.raises(UsageError, match="--nprobe is for an index of type ivf"):
        search(SearchSettings(url, ids=(str(index.database.rows[0]),), nprobe=3))
