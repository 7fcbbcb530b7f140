"""The service's answers and refusals, asked in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time

import numpy as np
import pytest

from sdc.extract.store import FeatureStore
from sdc.retrieve.index.index import Index
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings
from sdc.serve.settings import MOST_NEIGHBORS, MOST_VECTORS

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from sdc.serve import limits, openapi, reload
from sdc.serve.snapshot import Snapshot


@pytest.fixture
def client(folder, asked):
    with asked(folder) as client:
        yield client


def vectors_of(folder, count=5):
    return np.array(FeatureStore(folder / "feats.h5").features[:count])


def test_vectors_and_ids_have_the_neighbors_of_sdc_search(folder, client):
    vectors = vectors_of(folder)
    np.save(folder / "q.npy", vectors)
    expected = search(SearchSettings(folder / "db.bin", queries=folder / "q.npy", k=7))
    found = client.post("/search", json={"vectors": vectors.tolist(), "k": 7}).json()
    assert found.keys() == expected.keys()
    assert (found["index"], found["k"]) == ("db.bin", 7)
    assert found["results"] == expected["results"]
    one = client.post("/search", json={"vector": vectors[3].tolist(), "k": 7}).json()
    assert one["results"] == [{**found["results"][3], "query": "0"}]
    by_id = client.post("/search", json={"id": "img/0003.png"}).json()["results"]
    expected = search(SearchSettings(folder / "db.bin", ids=("img/0003.png",)))["results"]
    assert by_id == expected
    assert len(expected[0]["neighbors"]) == 10


@pytest.mark.parametrize("labels", ["single", "multi", None])
def test_neighbours_come_with_their_labels(tmp_path, make_set, labels, asked):
    make_set(tmp_path, labels=labels)
    held = FeatureStore(tmp_path / "feats.h5").labels
    with asked(tmp_path) as client:
        (result,) = client.post("/search", json={"id": "img/0005.png", "k": 20}).json()["results"]
    for near in result["neighbors"]:
        if labels is None:
            assert "label" not in near
        elif labels == "single":
            assert near["label"] == held[near["row"]]
        else:
            assert near["label"] == np.flatnonzero(held[near["row"]]).tolist()


@pytest.mark.parametrize("labels", ["single", "multi"])
def test_classes_are_answered_and_asked_for_by_name(tmp_path, make_set, labels, asked, refusal):
    make_set(tmp_path, labels=labels, named=True)
    names = {0: "cat", 1: "dog", 2: "7"}
    with asked(tmp_path) as client:
        (result,) = client.post("/search", json={"id": "img/0005.png", "k": 20}).json()["results"]
        for near in result["neighbors"]:
            number = near["label"]
            assert near["class"] == (names[number] if labels == "single" else [names[one] for one in number])
        assert "class" in client.get("/examples").json()["examples"][0]
        for asked_for, number in (("dog", 1), ("7", 2), (["cat", 1], [0, 1]), ("0", 0)):
            by_name, by_number = (
                client.post("/search", json={"id": "img/0005.png", "k": 400, "only_label": each}).json()
                for each in (asked_for, number)
            )
            assert by_name == by_number
        message = refusal(client.post("/search", json={"id": "img/0005.png", "only_label": "dot"}), 422)
        assert message == "only_label: unknown class 'dot': did you mean 'dog'? known: cat, dog, 7"


def test_k_is_clamped_to_what_is_searched(client):
    found = client.post("/search", json={"id": "img/0003.png", "k": 1000}).json()
    assert found["k"] == 400 == len(found["results"][0]["neighbors"])
    labels = Index.open(client.service.settings.index).database.labels
    found = client.post("/search", json={"id": "img/0003.png", "k": 1000, "only_label": [0, 2]}).json()
    assert found["k"] == len(found["results"][0]["neighbors"]) == np.isin(labels, [0, 2]).sum()
    assert {near["label"] for near in found["results"][0]["neighbors"]} == {0, 2}


def test_a_radius_finds_all_within_it_or_tells_of_too_many(folder, asked, refusal):
    ids = ("img/0003.png", "img/0100.png")
    with asked(folder, max_k=60) as client:
        for name in ids:
            expected = search(SearchSettings(folder / "db.bin", ids=(name,), radius=4))
            found = client.post("/search", json={"id": name, "radius": 4}).json()
            assert (found["k"], found["radius"]) == (None, 4)
            assert found["results"] == expected["results"]
            assert 1 < len(expected["results"][0]["neighbors"]) <= 60
        message = refusal(client.post("/search", json={"id": ids[0], "radius": 16}), 422)
        assert "more than 60 lie within 16 of 'img/0003.png'" in message


def test_a_radius_finds_all_within_it_in_ivf_too(folder, asked):
    db = Index.open(folder / "db.bin")
    codes, ids = db.database.codes, db.database.ids
    Index.build(codes, ids=ids, metadata=db.metadata, index_type="ivf", recall=0.1).save(folder / "db.bin")
    names = tuple(f"img/{row:04}.png" for row in range(50, 90))
    expected = search(SearchSettings(folder / "db.bin", ids=names, radius=1))["results"]
    sizes = [len(each["neighbors"]) for each in expected]
    with asked(folder, max_k=8) as client:
        for each in (each for each, size in zip(expected, sizes, strict=True) if size <= 8):
            found = client.post("/search", json={"id": each["query"], "radius": 1}).json()
            assert found["results"] == [each]


GOOD = [0.5] * 24
HOSTILE = [
    (b"", 400, "not JSON"),
    (b"{", 400, "not JSON"),
    (b"\xff\xfe\x00", 400, "not JSON"),
    (b"[" * 1500, 400, ""),  # nested too deeply, or not JSON: as Python has it
    (b"[" * 200_000, 400, "more [ than 1024 vectors need"),
    (b'{"vector": [' + b"1," * 100_000 + b"1]}", 400, "more , than"),
    (b"[" + b"{}," * 200_000 + b"{}]", 400, "more { than"),
    (b'{"vector": [NaN]}', 400, "NaN is no number"),
    (b'{"vector": [-Infinity]}', 400, "Infinity is no number"),
    (b'{"vector": [' + b"1" * 5000 + b"]}", None, ""),  # too long a number, or too large: as Python has it
    (b'{"vector": [1e999' + b",0" * 23 + b"]}", 422, "NaN or Inf"),
    (b'{"vector": [1e300' + b",0" * 23 + b"]}", 422, "too large for the model"),
    (b'{"vector": [1' + b"0" * 400 + b",0" * 23 + b"]}", 422, "too large"),
    ([1], 400, "a list, expected a JSON object"),
    (None, 400, "null, expected a JSON object"),
    ({}, 422, "none of them"),
    ({"vector": GOOD, "id": "a"}, 422, "vector and id"),
    ({"vectro": GOOD}, 422, "did you mean 'vector'"),
    ({"vector": GOOD[1:]}, 422, "the model of the index takes 24 dimensions"),
    ({"vector": []}, 422, "an empty list"),
    ({"vector": 5}, 422, "expected a list of numbers, found 5"),
    ({"vector": [*GOOD[1:], "1"]}, 422, "expected numbers, found a string"),
    ({"vector": [*GOOD[1:], None]}, 422, "expected numbers, found null"),
    ({"vector": [*GOOD[1:], True]}, 422, "expected numbers, found true or false"),
    ({"vector": [GOOD]}, 422, "expected numbers, found a list"),
    ({"vectors": GOOD}, 422, "expected a list of numbers"),
    ({"vectors": []}, 422, "an empty list"),
    ({"vectors": [GOOD, GOOD[1:]]}, 422, "vectors of 24 and of 23 numbers"),
    ({"vectors": [[0]] * (MOST_VECTORS + 1)}, 422, f"at most {MOST_VECTORS}"),
    ({"vectors": [GOOD] * 200, "k": 600}, 422, f"at most {MOST_NEIGHBORS}"),
    ({"id": 5}, 422, "expected a string"),
    ({"id": "img/0003.pgn"}, 404, "unknown id 'img/0003.pgn'"),
    ({"id": "x" * 5000}, 404, "more than 4096 characters"),
    ({"id": "\ud800"}, 404, "unknown id"),
    ({"id": "a", "k": 0}, 422, "k: expected a whole number from 1 to 1000, found 0"),
    ({"id": "a", "k": 1001}, 422, "found 1001"),
    ({"id": "a", "k": 10**40}, 422, "far too large"),
    ({"id": "a", "k": "10"}, 422, "found a string"),
    ({"id": "a", "k": 1.5}, 422, "found 1.5"),
    ({"id": "a", "k": True}, 422, "found true or false"),
    ({"id": "a", "radius": -1}, 422, "radius: expected a whole number from 0"),
    ({"id": "a", "k": 3, "radius": 1}, 422, "give one of them"),
    ({"vector": GOOD, "only_label": 9}, 422, "no code has the label 9"),
    ({"vector": GOOD, "only_label": -1}, 422, "only_label"),
    ({"vector": GOOD, "only_label": ["a"]}, 422, "only_label"),
    ({"vector": GOOD, "only_label": [1] * 101}, 422, "at most 100"),
]


def test_what_is_no_search_is_refused_cheaply_in_one_line(client, refusal):
    good = client.post("/search", json={"vector": GOOD}).json()
    for body, status, message in HOSTILE:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = client.post("/search", content=raw, headers={"content-type": "application/json"})
        assert message in refusal(response, status or response.status_code), body
        assert 400 <= response.status_code < 500
    assert client.post("/search", json={"vector": GOOD}).json() == good
    assert (client.service.limits.held, client.service.limits.searches) == (0, 0)


def test_parameters_of_json_stand_in_its_body(client, refusal):
    assert "in the JSON body" in refusal(client.post("/search?k=3", json={"vector": GOOD}), 422)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_other_types_of_content_are_refused(client, kind, refusal):
    response = client.post("/search", content=json.dumps({"vector": GOOD}), headers={"content-type": kind})
    assert "expected application/json or image/*" in refusal(response, 415)


def test_a_type_with_parameters_is_understood(client):
    raw = json.dumps({"vector": GOOD})
    answer = client.post("/search", content=raw, headers={"content-type": "Application/JSON; charset=utf-8"})
    assert answer.status_code == 200


def test_a_body_beyond_the_limit_is_refused_however_declared(folder, asked, refusal):
    with asked(folder, max_body=1000) as client:
        fits = json.dumps({"vector": GOOD}).encode().ljust(1000)
        headers = {"content-type": "application/json"}
        assert client.post("/search", content=fits, headers=headers).status_code == 200
        assert "1000 bytes" in refusal(client.post("/search", content=fits + b" ", headers=headers), 413)
        chunks = iter([b" " * 600] * 1000)
        assert "1000 bytes" in refusal(client.post("/search", content=chunks, headers=headers), 413)
        lies = {**headers, "content-length": str(1 << 40)}
        assert "1000 bytes" in refusal(client.post("/search", content=b"{}", headers=lies), 413)
        assert client.service.limits.held == 0


def test_addresses_and_methods_that_are_not_there_are_refused(client, refusal):
    for address in ("/serach", "/search/", "/healthz/", "/search//"):
        assert "no such address" in refusal(client.get(address, follow_redirects=False), 404)
        refusal(client.post(address, json={"vector": GOOD}, follow_redirects=False), 404)
    response = client.get("/search")
    assert "takes POST" in refusal(response, 405)
    assert response.headers["allow"] == "POST"
    response = client.delete("/healthz")
    assert "takes GET, HEAD" in refusal(response, 405)
    assert response.headers["allow"] == "GET, HEAD"


OURS = ("localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "127.0.0.1:80", "[::1]:8000", "192.0.2.7:1")
OTHERS = ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "[evil]")


def test_other_host_names_are_refused_on_loopback(client, refusal):
    """A web page can make its own name point here (DNS rebinding); the browser then tells that name."""
    for name in OURS:
        assert client.get("/healthz", headers={"host": name}).status_code == 200, name
        assert client.post("/search", json={"vector": GOOD}, headers={"host": name}).status_code == 200, name
    for name in OTHERS:
        for response in (
            client.get("/examples", headers={"host": name}),
            client.get("/", headers={"host": name}),
            client.get("/nope", headers={"host": name}),
            client.post("/search", json={"vector": GOOD}, headers={"host": name}),
        ):
            assert "--allow-host" in refusal(response, 421), name
    assert metric(client, 'sdc_requests_total{route="/search",status="421"}') == len(OTHERS)


def test_names_that_are_allowed_are_answered(folder, asked, refusal):
    with asked(folder, allow_hosts=("Search.example.org", "b")) as client:
        for name in (*OURS, "search.example.org", "search.example.org:443", "B."):
            assert client.get("/healthz", headers={"host": name}).status_code == 200, name
        for name in (*OTHERS, "example.org", "a.search.example.org"):
            refusal(client.get("/healthz", headers={"host": name}), 421)
    with asked(folder, host="here.internal") as client:
        assert client.get("/healthz", headers={"host": "here.internal:8000"}).status_code == 200
        refusal(client.get("/healthz", headers={"host": "there.internal"}), 421)


def test_public_services_answer_any_or_the_allowed_names(folder, asked, refusal):
    with asked(folder, host="0.0.0.0", loopback=False) as client:
        for name in (*OURS, *OTHERS):
            assert client.get("/healthz", headers={"host": name}).status_code == 200, name
    with asked(folder, host="0.0.0.0", loopback=False, allow_hosts=("search.example.org",)) as client:
        for name in (*OURS, "search.example.org"):
            assert client.get("/healthz", headers={"host": name}).status_code == 200, name
        refusal(client.get("/healthz", headers={"host": "evil.example"}), 421)


def test_pages_of_other_sites_may_neither_ask_nor_read(client):
    asks = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    for response in (
        client.options("/search", headers={**asks, "access-control-request-headers": "content-type"}),
        client.get("/examples", headers={"origin": "http://evil.example"}),
        client.post("/search", json={"vector": GOOD}, headers={"origin": "http://evil.example"}),
        client.get("/images/img/0001.png"),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert response.headers["x-content-type-options"] == "nosniff"


def test_bytes_of_an_id_that_are_no_text_come_and_go_as_json(tmp_path, asked):
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    Index.build(np.eye(4, dtype=np.uint8), ids=[name, "a", "b", "c"]).save(tmp_path / "db.bin")
    with asked(tmp_path) as client:
        response = client.post(
            "/search", content=json.dumps({"id": name}), headers={"content-type": "application/json"}
        )
        assert json.loads(response.content)["results"][0]["neighbors"][0]["id"] == name


def test_an_index_without_a_model_is_searched_by_id_alone(folder, caplog, asked, refusal):
    from sdc.retrieve.index.threads import faiss_module

    faiss = faiss_module()
    plain = faiss.IndexBinaryFlat(16)
    plain.add(Index.open(folder / "db.bin").database.codes)
    faiss.write_index_binary(plain, str(folder / "db.bin"))
    with asked(folder) as client:
        assert "only its own items can be searched" in caplog.text
        assert client.get("/healthz").json()["queries"] == {"vectors": None, "images": "unavailable"}
        found = client.post("/search", json={"id": "12", "k": 1}).json()
        assert found["results"][0]["neighbors"][0]["distance"] == 0
        assert "records no model" in refusal(client.post("/search", json={"vector": GOOD}), 422)
    with asked(folder, model=folder / "model.safetensors") as client:
        assert client.post("/search", json={"vector": GOOD}).status_code == 200


def test_examples_are_items_of_the_index(client, refusal):
    ids = set(Index.open(client.service.settings.index).database.names())
    found = client.get("/examples?limit=5").json()["examples"]
    assert len({item["id"] for item in found} & ids) == 5
    for limit in ("0", "101", "x", "-1", "9" * 100):
        refusal(client.get(f"/examples?limit={limit}"), 422)


def test_health_says_what_is_served_and_that_it_ends(folder, client):
    index = Index.open(folder / "db.bin")
    found = client.get("/healthz").json()
    assert found["status"] == "ready"
    assert found["index"] == {"count": 400, "bits": 16, "fingerprint": index.fingerprint, "changes": 0}
    assert (found["generation"], found["queries"]) == (1, {"vectors": 24, "images": "unavailable"})
    client.service.draining = True
    response = client.get("/healthz")
    assert (response.status_code, response.json()["status"]) == (503, "draining")


def metric(client, name):
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name)


def test_metrics_count_requests_by_route_and_status(client):
    client.post("/search", json={"vector": GOOD})
    client.post("/search", json={"vector": GOOD})
    client.post("/search", json={"vector": [1]})
    for address in ("/nope", "/images/a", "/images/b"):
        client.get(address)
    assert metric(client, 'sdc_requests_total{route="/search",status="200"}') == 2
    assert metric(client, 'sdc_requests_total{route="/search",status="422"}') == 1
    assert metric(client, 'sdc_requests_total{route="/images/{id}",status="404"}') == 2
    assert metric(client, 'sdc_requests_total{route="other",status="404"}') == 1
    assert metric(client, 'sdc_request_seconds_count{route="/search"}') == 3
    assert metric(client, "sdc_requests_in_flight") == 1  # this one
    assert metric(client, "sdc_index_codes") == 400
    assert metric(client, "process_resident_memory_bytes") > 10**7


def test_the_description_is_of_the_routes_answers_and_limits(client, refusal):
    about = client.get("/openapi.json").json()
    assert about["openapi"].startswith("3.1")
    routes = {
        (route.path.replace(":path", ""), method.lower())
        for route in client.service.routes
        for method in route.methods - {"HEAD"}
    }
    described = {(path, method) for path, methods in about["paths"].items() for method in methods}
    assert described == routes
    assert {path for path, _ in routes} == set(openapi.ROUTES)
    post = about["paths"]["/search"]["post"]
    query = post["requestBody"]["content"]["application/json"]["schema"]["properties"]
    most = query["k"]["maximum"]
    assert client.post("/search", json={"id": "img/0001.png", "k": most}).status_code == 200
    refusal(client.post("/search", json={"id": "img/0001.png", "k": most + 1}), 422)
    accepted = {
        "vector": GOOD, "vectors": [GOOD], "id": "img/0001.png", "k": 3, "radius": 0, "only_label": 1,
        "rerank": 4, "recall": 0.9,
    }  # fmt: skip
    assert set(accepted) == set(query)
    answer = post["responses"]["200"]["content"]["application/json"]["schema"]
    finer = ({"rerank": 4}, {"rerank": "auto", "recall": 0.9})
    for answered in ({"id": "img/0001.png", **how} for how in ({}, {"radius": 3}, *finer)):
        assert_of(answer, client.post("/search", json=answered).json())
    for path in ("/healthz", "/examples"):
        schema = about["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert_of(schema, client.get(path).json())
    assert {status for _, status, _ in HOSTILE if status} | {413, 415, 405, 408, 421, 501, 503} <= {
        int(status) for status in post["responses"]
    }


def assert_of(schema, value):
    """That a value is of a schema, as far as these schemas go."""
    if "oneOf" in schema:
        schema = schema["oneOf"][isinstance(value, list)]
    if "enum" in schema:
        assert value in schema["enum"]
        return
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    kinds["number"] = int if isinstance(value, int) else float
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert type(value) in [kinds[name] for name in names], (schema, value)
    if isinstance(value, dict):
        assert set(schema["required"]) <= set(value) <= set(schema["properties"])
        for key, each in value.items():
            assert_of(schema["properties"][key], each)
    for each in value if isinstance(value, list) else ():
        assert_of(schema["items"], each)


class Held:
    """Keeps searches from going on until it is told to."""

    def __init__(self, monkeypatch):
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        real = Snapshot.by_query

        def waits(loaded, query):
            self.begun.release()
            assert self.go.wait(120)
            return real(loaded, query)

        monkeypatch.setattr(Snapshot, "by_query", waits)


def test_searches_beyond_the_limit_are_told_to_come_again(client, monkeypatch, refusal):
    held = Held(monkeypatch)
    client.service.limits = limits.RequestLimits(1000, searches=1)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.post("/search", json={"vector": GOOD})))
    thread.start()
    assert held.begun.acquire(timeout=120)
    response = client.post("/search", json={"vector": GOOD})
    assert "try again" in refusal(response, 503)
    assert response.headers["retry-after"] == "1"
    held.go.set()
    thread.join()
    assert answers[0].status_code == 200
    assert client.post("/search", json={"vector": GOOD}).status_code == 200


def test_bodies_beyond_the_memory_must_come_again(client, refusal):
    client.service.limits = limits.RequestLimits(10**6, held=1000)
    response = client.post("/search", content=b" " * 2000, headers={"content-type": "application/json"})
    assert "being received" in refusal(response, 503)
    assert client.service.limits.held == 0


def test_answers_are_counted_until_they_are_read(client, refusal):
    """Many clients that ask for much and read nothing must not fill the memory."""
    whole = client.post("/search", json={"vectors": [GOOD] * 50, "k": 400}).content
    assert len(whole) > 10**6
    client.service.limits = limits.RequestLimits(10**6, held=len(whole) + 20_000)
    sent, application = [], client.service.application()
    body = json.dumps({"vectors": [GOOD] * 50, "k": 400}).encode()

    async def slow_reader():
        """Asks as a server would; in the middle of the answer it is asked again."""
        begun, reads = asyncio.Event(), asyncio.Event()
        bodies = iter([{"type": "http.request", "body": body}])

        async def send(message):
            sent.append(message)
            if len(sent) == 3:
                begun.set()
                await reads.wait()

        async def receive():
            return next(bodies)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/search", "query_string": b"", "headers": headers}
        running = asyncio.create_task(application(scope, receive, send))
        await begun.wait()
        held = client.service.limits.held
        refused = await asyncio.to_thread(client.post, "/search", json={"vectors": [GOOD] * 50, "k": 400})
        fits = await asyncio.to_thread(client.post, "/search", json={"vector": GOOD, "k": 1})
        reads.set()
        await running
        return held, refused, fits

    held, refused, fits = asyncio.run(slow_reader())
    assert held == len(whole)
    assert "too many answers are being sent" in refusal(refused, 503)
    assert fits.status_code == 200
    assert client.service.limits.held == 0
    pieces = [message["body"] for message in sent[1:]]
    assert b"".join(pieces) == whole
    assert max(map(len, pieces)) <= 1 << 16
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(pieces) - 1) + [False]
    client.service.limits = limits.RequestLimits(10**6, held=1000)
    alone = client.post("/search", json={"vector": GOOD, "k": 400})
    assert alone.status_code == 200
    assert len(alone.content) > 1000


def test_a_search_that_takes_too_long_is_given_up(folder, monkeypatch, asked, refusal):
    held = Held(monkeypatch)
    with asked(folder, timeout=0.2) as client:
        assert "not done within 0.2 s" in refusal(client.post("/search", json={"vector": GOOD}), 503)
        held.go.set()
        client.service.settings = dataclasses.replace(client.service.settings, timeout=120)
        assert client.post("/search", json={"vector": GOOD}).status_code == 200


def wait_for(condition):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_changed_index_is_taken_up_with_its_model(folder, monkeypatch, make_model, encoded, caplog, asked):
    monkeypatch.setattr(reload, "POLL", 0.05)
    vector = vectors_of(folder)[0].tolist()
    with asked(folder) as client:
        before = client.post("/search", json={"vector": vector}).json()
        make_model(folder / "model.safetensors", 24, seed=5, bits=32)
        assert client.post("/search", json={"vector": vector}).json() == before
        encoded(folder)
        wait_for(lambda: client.get("/healthz").json()["generation"] == 2)
        about = client.get("/healthz").json()
        assert (about["index"]["bits"], about["index"]["fingerprint"]) == (
            32,
            Index.open(folder / "db.bin").fingerprint,
        )
        np.save(folder / "q.npy", [vector])
        expected = search(SearchSettings(folder / "db.bin", queries=folder / "q.npy"))["results"]
        after = client.post("/search", json={"vector": vector}).json()
        assert after["results"] == expected
        assert after != before
        assert (metric(client, "sdc_reloads_total"), metric(client, "sdc_failed_reloads_total")) == (1, 0)
        assert metric(client, "sdc_index_generation") == 2


def test_items_that_are_removed_are_gone_soon(folder, monkeypatch, asked, refusal):
    from sdc.retrieve.update.changes import remove
    from sdc.retrieve.update.settings import RemoveSettings

    monkeypatch.setattr(reload, "POLL", 0.05)
    with asked(folder, images=folder) as client:
        (result,) = client.post("/search", json={"id": "img/0100.png", "k": 5}).json()["results"]
        near = result["neighbors"][1]["id"]
        remove(RemoveSettings(folder / "db.bin", ids=("img/0100.png", near)))
        wait_for(lambda: client.get("/healthz").json()["generation"] == 2)
        about = client.get("/healthz").json()["index"]
        assert (about["count"], about["changes"]) == (398, 1)
        refusal(client.post("/search", json={"id": "img/0100.png"}), 404)
        vector = vectors_of(folder, 101)[100].tolist()
        (result,) = client.post("/search", json={"vector": vector, "k": 1000}).json()["results"]
        ids = [each["id"] for each in result["neighbors"]]
        assert len(ids) == 398
        assert not {"img/0100.png", near} & set(ids)
        labels = FeatureStore(folder / "feats.h5").labels
        assert all(each["label"] == labels[each["row"]] for each in result["neighbors"])


def test_a_damaged_index_is_not_taken_up_until_it_is_whole(folder, monkeypatch, make_set, caplog, asked):
    monkeypatch.setattr(reload, "POLL", 0.02)
    with asked(folder) as client:
        before = client.post("/search", json={"id": "img/0009.png"}).json()
        whole = make_set_elsewhere(folder, make_set)
        damaged = bytearray(whole)
        damaged[len(damaged) // 2] ^= 1
        replace_bytes(folder / "db.bin", bytes(damaged))
        wait_for(lambda: metric(client, "sdc_failed_reloads_total") >= 2)
        about = client.get("/healthz").json()
        assert (about["outdated"], about["generation"], about["status"]) == (True, 1, "ready")
        assert client.post("/search", json={"id": "img/0009.png"}).json() == before
        assert caplog.text.count("cannot be opened") == 1
        replace_bytes(folder / "db.bin", whole)
        wait_for(lambda: client.get("/healthz").json()["generation"] == 2)
        assert client.get("/healthz").json()["outdated"] is False
        assert client.post("/search", json={"id": "img/0009.png"}).json() != before


def make_set_elsewhere(folder, make_set):
    """The bytes of another db.bin, whose model takes the place of the service's."""
    (folder / "elsewhere").mkdir()
    whole = make_set(folder / "elsewhere", seed=3).read_bytes()
    (folder / "elsewhere" / "model.safetensors").replace(folder / "model.safetensors")
    return whole


def replace_bytes(path, content):
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


def test_a_request_uses_the_index_it_began_with(folder, monkeypatch, make_set, asked):
    monkeypatch.setattr(reload, "POLL", 0.02)
    with asked(folder) as client:
        before = client.post("/search", json={"id": "img/0009.png"}).json()
        held = Held(monkeypatch)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(client.post("/search", json={"id": "img/0009.png"})))
        thread.start()
        assert held.begun.acquire(timeout=120)
        replace_bytes(folder / "db.bin", make_set_elsewhere(folder, make_set))
        wait_for(lambda: client.get("/healthz").json()["generation"] == 2)
        held.go.set()
        thread.join()
        assert answers[0].json() == before
        assert client.post("/search", json={"id": "img/0009.png"}).json() != before


def test_the_page_may_run_and_load_nothing_but_itself(client):
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert "://" not in response.text
    assert response.text.count("<script") == response.text.count("<style") == 1
