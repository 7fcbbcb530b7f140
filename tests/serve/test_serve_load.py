"""Fifty clients for a minute: no error, and a memory that stays what it is."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

CLIENTS, SECONDS = 50, 60


def client(port, until, times, wrong, seed):
    """Asks on one connection after the other, for vectors and ids, until it is time."""
    chance = random.Random(seed)
    while time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(100):
            if chance.random() < 0.5:
                asked = {"vector": [chance.gauss(0, 1) for _ in range(24)], "k": chance.choice([1, 10, 100])}
            else:
                asked = {"id": f"img/{chance.randrange(400):04}.png", "radius": 3}
            start = time.perf_counter()
            connection.request("POST", "/search", json.dumps(asked), {"content-type": "application/json"})
            response = connection.getresponse()
            body = response.read()
            times.append(time.perf_counter() - start)
            if response.status != 200:
                wrong.append((response.status, body))
        connection.close()


@pytest.mark.slow
def test_fifty_clients_for_a_minute(tmp_path, make_set, serve):
    make_set(tmp_path)
    with serve(tmp_path) as server:
        times: list[float] = []
        wrong: list[tuple[int, bytes]] = []

        def together(seconds):
            until = time.monotonic() + seconds
            threads = [
                threading.Thread(target=client, args=(server.port, until, times, wrong, seed))
                for seed in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        together(5)
        before = server.memory()
        times.clear()
        start = time.monotonic()
        together(SECONDS)
        rate, after = len(times) / (time.monotonic() - start), server.memory()
        half, most = np.percentile(times, [50, 99]) * 1000
        print(
            f"\n{CLIENTS} clients: {rate:.0f} requests/s, p50 {half:.1f} ms, p99 {most:.1f} ms, "
            f"{before >> 20} MiB before, {after >> 20} after"
        )
        assert wrong == []
        assert len(times) > CLIENTS * SECONDS
        assert after < before + (50 << 20)
        assert server.stop() == 0
