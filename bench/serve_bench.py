"""`sdc serve` beside the same search called in Python: requests a second, latency, memory.

    python bench/serve_bench.py [--codes 1000000] [--seconds 5] [--clients 1 50] [--json FILE]

An index of 64 bits and a model of 512 dimensions are made from a seed. `sdc serve` runs in a process of its own, its
clients in another, each on one connection that it keeps; both share the processors. A client sends its next request
when it has read the answer to the last one.

Every answer is checked: those of the first round against `Index.search`, all later ones against those, byte by byte.
Only then anything is printed. "in Python" is the same work without HTTP and JSON: the vectors encoded and searched, one
request after the other, or, beside many clients, from as many threads as the service has; BLAS has one thread here as
there. "CPU" is the processor time that the service took for a request. For figures that mean something the machine has
to be quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from sdc.devices import cpu_count
from sdc.retrieve import encode_queries
from sdc.retrieve.index import Index
from sdc.train import Model

BITS, DIMENSION, K, REQUESTS = 64, 512, 10, 64
KINDS = {"a vector": 1, "64 vectors": 64, "an id": 0}  # vectors in a request
Work = Callable[[int], tuple[np.ndarray, np.ndarray]]


def make(folder: Path, count: int) -> Path:
    """db.bin of `count` clustered codes with ids, and model.safetensors."""
    chance = np.random.default_rng(0)
    tensors = {"output.weight": chance.standard_normal((BITS, DIMENSION)), "output.bias": np.zeros(BITS)}
    model = Model(tensors, {"method": "lsh", "settings": {"seed": 0}, "features": {"fingerprint": "none"}})
    path = model.save(folder / "model.safetensors")
    centres = chance.integers(0, 256, (1000, BITS // 8), dtype=np.uint8)
    flips = [chance.integers(0, 256, (count, BITS // 8), dtype=np.uint8) for _ in range(3)]
    codes = centres[chance.integers(0, 1000, count)] ^ (flips[0] & flips[1] & flips[2])
    ids = [f"image/{row:08}.jpg" for row in range(count)]
    origin = {"path": "model.safetensors", "fingerprint": Model.load(path).fingerprint}
    return Index.build(codes, ids=ids, metadata={"model": origin}, copy=False).save(folder / "db.bin")


def asked(index: Index, model: Model, kind: str) -> tuple[list[bytes], Work]:
    """The bodies of the requests of one kind, and what finds the distances and rows of the n-th in Python."""
    chance = np.random.default_rng(1)
    if kind == "an id":
        rows = chance.integers(0, index.ntotal, REQUESTS)
        bodies = [{"id": f"image/{row:08}.jpg", "k": K} for row in rows]
        return _encoded(bodies), lambda n: index.search(index.codes(rows[n : n + 1]), K)
    vectors = chance.standard_normal((REQUESTS, KINDS[kind], DIMENSION)).astype(np.float32)
    lists = vectors.tolist()
    bodies = [{"vector": each[0], "k": K} if kind == "a vector" else {"vectors": each, "k": K} for each in lists]
    return _encoded(bodies), lambda n: index.search(encode_queries(vectors[n], model, "vectors", refine=True).codes, K)


def _encoded(bodies: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(body).encode() for body in bodies]


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[int, int]]:
    """The process id and port of `sdc serve`, ended as a user would."""
    with (folder / "serve.log").open("wb") as log:
        command = [sys.executable, "-m", "sdc", "serve", "--port", "0", "--timeout", "60"]
        process = subprocess.Popen(command, cwd=folder, stderr=log)
    try:
        while not (found := re.search(r"at http://\S+:(\d+)/", (folder / "serve.log").read_text())):
            assert process.poll() is None, (folder / "serve.log").read_text()
            time.sleep(0.02)
        yield process.pid, int(found[1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "the service did not end in order"
    finally:
        process.kill()
        process.wait()


class Client:
    """One connection; `answer` is the body of the last answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer, self._read = b"", b""

    def send(self, body: bytes, number: int) -> None:
        self.number, self.since, self._read = number, time.perf_counter(), b""
        head = "POST /search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self.socket.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def receive(self) -> bool:
        """Reads what is there; whether that is all of the answer."""
        part = self.socket.recv(1 << 18)
        assert part, "the service closed a connection"
        self._read += part
        head, separator, self.answer = self._read.partition(b"\r\n\r\n")
        if not separator:
            return False
        assert head.startswith(b"HTTP/1.1 200 "), self._read
        return len(self.answer) == int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]


def drive(port: int, clients: int, seconds: float, folder: Path) -> None:
    """The process of the clients: prints the seconds that all took, and those of each request, as JSON."""
    bodies = [path.read_bytes() for path in sorted(folder.glob("*.asked"))]
    answers = [path.read_bytes() for path in sorted(folder.glob("*.answered"))]
    taken: list[float] = []
    with selectors.DefaultSelector() as selector:
        for first in range(clients):
            client = Client(port)
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.send(bodies[first % len(bodies)], first % len(bodies))
        start = time.perf_counter()
        while selector.get_map():
            for key, _ in selector.select():
                client = key.data
                if not client.receive():
                    continue
                now = time.perf_counter()
                taken.append(now - client.since)
                assert client.answer == answers[client.number], "an answer differs from the first one"
                if now < start + seconds:
                    number = (client.number + clients) % len(bodies)
                    client.send(bodies[number], number)
                else:
                    selector.unregister(client.socket)
    print(json.dumps([time.perf_counter() - start, taken]))


def checked(port: int, bodies: list[bytes], work: Work, index: Index) -> list[bytes]:
    """The answers, whose ids, rows and distances are those that `work` finds."""
    client, answers = Client(port), []
    for number, body in enumerate(bodies):
        client.send(body, number)
        while not client.receive():
            pass
        results = json.loads(client.answer)["results"]
        for result, distances, rows in zip(results, *work(number), strict=True):
            near = result["neighbors"]
            assert [each["row"] for each in near] == rows.tolist(), "other rows than Index.search finds"
            assert [each["distance"] for each in near] == distances.tolist(), "other distances than Index.search finds"
            assert [each["id"] for each in near] == index.ids(rows), "other ids"
        answers.append(client.answer)
    return answers


def by_service(
    port: int, clients: int, seconds: float, bodies: list[bytes], answers: list[bytes]
) -> tuple[float, list[float]]:
    """The seconds that all requests took, and those of each, from a process of clients."""
    with tempfile.TemporaryDirectory() as name:
        for kind, contents in (("asked", bodies), ("answered", answers)):
            for number, content in enumerate(contents):
                (Path(name) / f"{number:04}.{kind}").write_bytes(content)
        command = [sys.executable, __file__, "--drive", str(port), str(clients), str(seconds), name]
        elapsed, taken = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return elapsed, taken


def in_python(work: Work, threads: int, seconds: float) -> float:
    """Requests a second without a service."""

    def run(first: int) -> int:
        done, until = 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            work((first + done * threads) % REQUESTS)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        return sum(pool.map(run, range(threads))) / (time.perf_counter() - start)


def memory(pid: int) -> float:
    """MB of a process that are no mapped file's."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024 / 1e6  # type: ignore[index]


def used(pid: int) -> float:
    """Seconds of processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    threadpool_limits(1, user_api="blas")
    index = Index.open(make(folder, options.codes))
    model = Model.load(folder / "model.safetensors")
    records: list[dict[str, Any]] = []
    held: dict[str, float] = {}
    with serving(folder) as (pid, port):
        kinds = {kind: asked(index, model, kind) for kind in KINDS}
        answers = {kind: checked(port, *kinds[kind], index) for kind in KINDS}
        for kind, clients in ((kind, clients) for clients in options.clients for kind in KINDS):
            bodies, work = kinds[kind]
            by_service(port, clients, options.seconds / 5, bodies, answers[kind])
            held.setdefault("before", memory(pid))
            before = used(pid)
            seconds, taken = by_service(port, clients, options.seconds, bodies, answers[kind])
            cpu = (used(pid) - before) / len(taken)
            plain = in_python(work, 1 if clients == 1 else cpu_count(), options.seconds / 2)
            half, most = np.quantile(taken, [0.5, 0.99])
            records.append({
                "request": kind, "clients": clients, "requests": len(taken), "p50": float(half), "p99": float(most),
                "rate": len(taken) / seconds, "cpu": cpu, "python": plain,
            })  # fmt: skip
        held["after"] = memory(pid)
    return records, held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row of the table")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        records, held = measure(options, Path(name))
    machine = {
        "python": platform.python_version(), "numpy": np.__version__, "uvicorn": version("uvicorn"),
        "starlette": version("starlette"), "cpu": platform.processor() or platform.machine(), "cpus": cpu_count(),
    }  # fmt: skip
    print(json.dumps(machine))
    print(f"{options.codes} codes of {BITS} bits, vectors of {DIMENSION} dimensions, k {K}")
    for each in records:
        print(f"  {each['clients']:2} clients, {each['request']:10}: {each['rate']:7.0f} requests/s, "
              f"p50 {each['p50'] * 1e3:7.2f} ms, p99 {each['p99'] * 1e3:7.2f} ms, CPU {each['cpu'] * 1e3:6.2f} ms; "
              f"in Python {each['python']:7.0f}/s, {each['python'] / each['rate']:.2f} ×")  # fmt: skip
    print(f"  memory of the service, mapped files left out, MB: {held['before']:.0f} before, {held['after']:.0f} after")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "records": records, "memory": held}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        drive(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5]))
    else:
        main()
