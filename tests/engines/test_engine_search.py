from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from sdc.artifacts import SdcError, UsageError
from sdc.cli import cli
from sdc.retrieve.bits import hamming
from sdc.retrieve.engines.push import PushSettings, run
from sdc.retrieve.engines.search import search
from sdc.retrieve.search import SearchSettings
from sdc.retrieve.search import search as search_here

NAMES = ['a"b', "a'b", "a\\b", "Å💎 ü", "%_", "", "'; DROP TABLE x; --", "{row}", "%s", "x" * 300]


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
    for change in ({"only_labels": (1,), "k": 7}, {"only_labels": (0, 2), "k": 2000}, {"k": 5, "limit": 2}):
        asked = SearchSettings(index.path, ids=names, **change)
        here, there = search_here(asked), search(replace(asked, index=url))
        assert distances(there) == distances(here)
        check_neighbors(there, index)
    for change in ({"radius": 14}, {"radius": 0}, {"radius": 64}, {"radius": 16, "only_labels": (1,)}):
        asked = SearchSettings(index.path, ids=names, **change)
        assert search(replace(asked, index=url)) == {**search_here(asked), "index": url}
    with pytest.raises(UsageError, match="has the label 77"):
        search(SearchSettings(url, ids=names, only_labels=(77,)))


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
    asked = SearchSettings(index.path, ids=tuple(NAMES), k=len(NAMES))
    assert search(replace(asked, index=url)) == {**search_here(asked), "index": url}
    with pytest.raises(UsageError, match=r"unknown id 'a': .* has no such item"):
        search(SearchSettings(url, ids=("a",)))


def test_vectors_are_encoded_by_the_model_of_the_push_and_no_other(url, made, tmp_path, monkeypatch):
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
        CliRunner().invoke(cli, ["search", "--index", url, "--id", name, "-k", "1"]).stdout == f"{name}: {name} (0)\n"
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


def test_lists_of_an_ivf_collection_are_scanned_as_told(new_url, make_index):
    index, url = make_index(count=3000), new_url("milvus")
    run(PushSettings(url, index.path, index_type="ivf"))
    asked = SearchSettings(url, ids=tuple(index.database.names(np.arange(20))), nprobe=10_000)
    assert distances(search(asked)) == distances(search_here(replace(asked, index=index.path, nprobe=None)))
    with pytest.raises(UsageError, match="--nprobe must be at least 1"):
        search(replace(asked, nprobe=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rerank": 2.0}, "--rerank is for an index in a file"),
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
