"""Fifty clients for a minute, while the index is replaced: no error, no wrong answer, a memory that does not grow."""

from __future__ import annotations

import http.client
import json
import random
import shutil
import threading
import time

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

CLIENTS, SECONDS, REPLACED = 50, 60, 5


def requests(count):
    """Bodies that ask for vectors, ids and radii."""
    chance = random.Random(0)
    for number in range(count):
        if number % 2:
            yield {"id": f"img/{chance.randrange(400):04}.png", "radius": 3}
        else:
            yield {"vector": [chance.gauss(0, 1) for _ in range(24)], "k": chance.choice([1, 10, 100])}


def client(port, until, expected, times, wrong, seed):
    """Asks on one connection after the other until it is time; notes what it should not have got."""
    chance = random.Random(seed)
    while time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            for _ in range(100):
                asked, answer = chance.choice(expected)
                start = time.perf_counter()
                connection.request("POST", "/search", asked, {"content-type": "application/json"})
                response = connection.getresponse()
                found = response.status, response.read()
                times[seed].append(time.perf_counter() - start)
                if found != (200, answer):
                    wrong.append(found)
        except (OSError, http.client.HTTPException) as error:
            wrong.append(repr(error))
        finally:
            connection.close()


def together(port, seconds, expected, meanwhile):
    """The times of each client's requests, and what was wrong; `meanwhile` is done now and then."""
    until, wrong = time.monotonic() + seconds, []
    times = [[] for _ in range(CLIENTS)]
    threads = [
        threading.Thread(target=client, args=(port, until, expected, times, wrong, seed)) for seed in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        meanwhile()
        time.sleep(REPLACED)
    for thread in threads:
        thread.join()
    return times, wrong


@pytest.mark.slow
def test_fifty_clients_for_a_minute(tmp_path, make_set, serve):
    index = make_set(tmp_path)

    def replace():
        """By the same bytes, so that all answers stay as they are."""
        shutil.copy(index, tmp_path / "new")
        (tmp_path / "new").replace(index)

    with serve(tmp_path) as server:
        bodies = [json.dumps(asked).encode() for asked in requests(200)]
        expected = [
            (body, json.dumps(server.ask("/search", body)[1], separators=(",", ":")).encode()) for body in bodies
        ]
        assert len({answer for _, answer in expected}) > 150
        together(server.port, 5, expected, replace)
        before = server.memory()
        start = time.monotonic()
        times, wrong = together(server.port, SECONDS, expected, replace)
        seconds, after = time.monotonic() - start, server.memory()
        taken = np.concatenate(times)
        half, most = np.percentile(taken, [50, 99]) * 1000
        print(
            f"\n{CLIENTS} clients: {len(taken) / seconds:.0f} requests/s, p50 {half:.1f} ms, p99 {most:.1f} ms, "
            f"{before >> 20} MiB before, {after >> 20} after"
        )
        assert wrong == []
        assert min(map(len, times)) >= 10
        assert server.ask("/healthz")[1]["generation"] > SECONDS / REPLACED / 2
        assert after < before + (50 << 20)
        assert server.stop() == 0
