"""`POST /search` with `rerank`: the answers of `sdc search --rerank`, within the limits of a service."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from sdc.errors import UsageError
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.retrieve.rerank import shortlist
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings
from sdc.retrieve.update import AddSettings, add

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from sdc.serve import snapshot as snapshots
from sdc.serve.limits import HTTPRefusal
from sdc.serve.request_parsing import How, of_parameters
from sdc.serve.settings import ServeSettings
from sdc.serve.snapshot import Snapshot


@pytest.fixture
def client(folder, asked):
    with asked(folder) as client:
        yield client


def vectors_of(folder, count=5):
    return np.array(FeatureStore(folder / "feats.h5").features[40 : 40 + count])


@pytest.mark.parametrize("how", [{"rerank": 3}, {"rerank": 1.5, "k": 7}, {"rerank": "auto", "recall": 0.9}])
@pytest.mark.parametrize("precision", ["stored", "int8"])
def test_vectors_and_ids_are_reranked_as_by_sdc_search(folder, asked, how, precision):
    vectors = vectors_of(folder)
    np.save(folder / "q.npy", vectors)
    settings = SearchSettings(folder / "db.bin", queries=folder / "q.npy", precision=precision, **how)
    expected = search(settings)
    by_id = search(SearchSettings(folder / "db.bin", ids=("img/0003.png",), precision=precision, **how))
    with asked(folder, precision=precision) as client:
        found = client.post("/search", json={"vectors": vectors.tolist(), **how}).json()
        assert found["results"] == expected["results"]
        assert (found["rerank"], found["k"]) == (expected["rerank"], expected["k"])
        found = client.post("/search", json={"id": "img/0003.png", **how}).json()
        assert found["results"] == by_id["results"]


def test_labels_restrict_what_is_reranked(folder, client):
    expected = search(SearchSettings(folder / "db.bin", ids=("img/0003.png",), only_labels=(1,), rerank=2))
    found = client.post("/search", json={"id": "img/0003.png", "only_label": 1, "rerank": 2}).json()
    assert {near["label"] for near in found["results"][0]["neighbors"]} == {1}
    assert found["results"] == expected["results"]


REFUSED = [
    ({"rerank": 0.5}, "rerank: expected a number from 1 on, or auto, found 0.5"),
    ({"rerank": "most"}, "rerank: expected a number from 1 on, or auto, found a string"),
    ({"rerank": True}, "found true or false"),
    ({"rerank": None}, "found null"),
    ({"rerank": [3]}, "found a list"),
    ({"rerank": 3, "recall": 0.9}, "give it with that"),
    ({"recall": 0.9}, "give it with that"),
    ({"rerank": "auto", "recall": 0}, "recall: expected a number above 0, at most 1, found 0"),
    ({"rerank": "auto", "recall": "1"}, "found a string"),
    ({"rerank": 3, "radius": 4}, "give one of them"),
]


@pytest.mark.parametrize(("how", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(client, refusal, how, message):
    assert message in refusal(client.post("/search", json={"id": "img/0003.png", **how}), 422)


def test_parameters_beside_an_image_say_the_same():
    assert of_parameters({"rerank": ["auto"], "recall": ["0.9"]}, 100) == How(10, None, (), "auto", 0.9)
    assert of_parameters({"rerank": ["2.5"], "k": ["3"]}, 100) == How(3, None, (), 2.5, None)
    for parameters in ({"rerank": ["much"]}, {"rerank": ["nan"]}, {"rerank": ["2", "3"]}, {"recall": ["0.5"]}):
        with pytest.raises(HTTPRefusal):
            of_parameters(parameters, 100)


def test_a_request_compares_no_more_than_it_may(client, refusal, monkeypatch):
    monkeypatch.setattr(snapshots, "MOST_COMPARED", 100)
    vectors = {"vectors": [[0.5] * 24] * 4}
    assert client.post("/search", json={**vectors, "k": 5, "rerank": 5}).status_code == 200
    message = refusal(client.post("/search", json={**vectors, "k": 5, "rerank": 5.5}), 422)
    assert "rerank would compare 112 features, expected at most 100" in message


def test_auto_is_measured_once_and_remembered(folder, client, monkeypatch):
    measured = []

    def counting(*arguments, **further):
        measured.append(arguments[3:])
        return choose(*arguments, **further)

    choose = shortlist.choose
    monkeypatch.setattr(shortlist, "choose", counting)
    one = {"id": "img/0003.png", "rerank": "auto"}
    first = client.post("/search", json=one).json()
    assert client.post("/search", json=one).json() == first
    assert client.post("/search", json={**one, "k": 3}).status_code == 200
    assert measured == [(10, 0.95), (3, 0.95)]
    assert search(SearchSettings(folder / "db.bin", ids=("img/0003.png",), rerank="auto"))["rerank"] == first["rerank"]
    assert len(measured) == 2


def test_a_long_measurement_goes_on_beside_other_searches(folder, asked, refusal, monkeypatch):
    release = threading.Event()

    def held(*arguments, **further):
        assert release.wait(120)
        return choose(*arguments, **further)

    choose = shortlist.choose
    monkeypatch.setattr(shortlist, "choose", held)
    one = {"id": "img/0003.png", "rerank": "auto"}
    with asked(folder, timeout=1.0) as client:
        message = refusal(client.post("/search", json=one), 503)
        assert "measuring what rerank: auto takes, which goes on, was not done within 1 s" in message
        assert client.post("/search", json={"id": "img/0003.png", "rerank": 2}).status_code == 200
        release.set()
        until = time.monotonic() + 120
        while (answer := client.post("/search", json=one)).status_code == 503:
            assert time.monotonic() < until
        assert answer.json()["rerank"]["recall"]["asked"] == 0.95


def test_without_features_codes_give_the_order(folder, asked, refusal):
    features = (folder / "feats.h5").rename(folder / "moved.h5")
    one = {"vectors": [[0.5] * 24]}
    with asked(folder) as client:
        found = client.post("/search", json={**one, "rerank": 2}).json()
        assert found["rerank"]["by"] == "codes"
        scores = [near["score"] for near in found["results"][0]["neighbors"]]
        assert scores == sorted(scores, reverse=True)
        assert "auto needs the features" in refusal(client.post("/search", json={**one, "rerank": "auto"}), 422)
    with asked(folder, features=features) as client:
        assert client.post("/search", json={**one, "rerank": 2}).json()["rerank"]["by"] == "features"


def test_other_features_are_refused_where_they_are_named(folder, asked, caplog):
    listing = Listing([str(row) for row in range(400)], {"database": np.arange(400)})
    features = np.random.default_rng(9).standard_normal((400, 24)).astype(np.float32)
    write_features(folder / "feats.h5", listing, {"source": "import"}, 24, np.float32, [features])
    with pytest.raises(UsageError, match="was encoded from features"):
        Snapshot.open(ServeSettings(index=folder / "db.bin", features=folder / "feats.h5"))
    with asked(folder) as client:
        found = client.post("/search", json={"vectors": [[0.5] * 24], "rerank": 2}).json()
    assert found["rerank"]["by"] == "codes"
    assert "searches with rerank are ordered by the codes alone" in caplog.text
    with pytest.raises(UsageError, match="unknown precision 'int4'"):
        Snapshot.open(ServeSettings(index=folder / "db.bin", precision="int4"))


def test_damaged_features_are_told_without_their_folder(folder, client, refusal):
    data = bytearray((folder / "feats.h5").read_bytes())
    data[data.find(vectors_of(folder, 1).tobytes())] ^= 1
    (folder / "feats.h5").write_bytes(data)
    message = refusal(client.post("/search", json={"id": "img/0003.png", "rerank": "auto"}), 422)
    assert message.startswith("feats.h5 is damaged in /features")


def test_added_items_are_compared_once_the_index_is_taken_up(folder):
    before = Snapshot.open(ServeSettings(index=folder / "db.bin"))
    query = vectors_of(folder, 1)
    listing = Listing(["new"], {"database": np.arange(1)}, labels=np.zeros(1, np.int32))
    write_features(folder / "more.h5", listing, {"source": "import"}, 24, np.float32, [2 * query])
    add(AddSettings(features=folder / "more.h5", index=folder / "db.bin"))
    after = before.newer()
    assert after is not None
    (result,) = after.by_vectors(query, How(2, None, (), 1e3))["results"]
    assert [near["id"] for near in result["neighbors"]] == ["img/0040.png", "new"]
    assert [near["similarity"] for near in result["neighbors"]] == [1.0, 1.0]
    assert after.newer() is None
