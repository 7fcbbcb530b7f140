"""`sdc serve` as a process: start, signals, clients that are slow or many, and errors of the command line."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from threadpoolctl import threadpool_info, threadpool_limits

from sdc.commands.serve import serve as command_serve
from sdc.errors import SdcError, UsageError
from sdc.serve import serve as run
from sdc.serve.settings import CONNECTIONS, ServeSettings

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

TIMEOUT = 0.6
PATIENCE = 120  # seconds that nothing takes, however busy the machine is


@pytest.fixture(scope="module")
def vectors_folder(tmp_path_factory, make_set):
    folder = tmp_path_factory.mktemp("served")
    make_set(folder)
    return folder


@pytest.fixture(scope="module")
def server(vectors_folder, serve):
    with serve(vectors_folder, "--timeout", PATIENCE) as server:
        yield server
        assert server.process.poll() is None


@pytest.fixture(scope="module")
def hasty(vectors_folder, serve):
    """One that gives its clients little time."""
    with serve(vectors_folder, "--timeout", TIMEOUT) as server:
        yield server
        assert server.process.poll() is None


def request(body=b'{"id": "img/0001.png"}', *lines):
    head = ["POST /search HTTP/1.1", "host: localhost", "content-type: application/json", *lines]
    if not any(line.startswith(("content-length", "transfer-encoding")) for line in lines):
        head.append(f"content-length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


@contextlib.contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        yield connection


def received(connection):
    """All until the other side ends it; a reset is an end too."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            found += part
    return found


def answered(raw):
    """Status and message of an answer of JSON."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"POST /search HT", "the request came too slowly"),
        (request()[:60], "the request came too slowly"),
        (request()[:-5], "the body came too slowly"),
        (request(b"", "transfer-encoding: chunked") + b"3\r\n{  \r\n", "the body came too slowly"),
    ],
)
def test_a_slow_sender_is_told_so_and_let_go(hasty, sent, message):
    start = time.monotonic()
    with connected(hasty) as connection:
        connection.sendall(sent)
        assert answered(received(connection)) == (408, {"error": message})
    assert TIMEOUT / 2 < time.monotonic() - start < PATIENCE


def test_a_byte_now_and_then_does_not_keep_a_connection(hasty):
    for whole in (request(), request()[:-1].ljust(5000)):
        start = time.monotonic()
        with connected(hasty) as connection, contextlib.suppress(OSError):
            for byte in whole:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    if connection.recv(1 << 16):
                        break
                connection.setblocking(True)
        assert time.monotonic() - start < PATIENCE


def test_a_client_that_says_nothing_or_goes_away_is_let_go(hasty):
    with connected(hasty) as connection:
        assert received(connection) == b""
    with connected(hasty) as connection:
        connection.sendall(request()[:-3])
    wait_for(lambda: hasty.ask("/search", {"id": "img/0001.png"})[0] == 200)


def test_what_is_no_http_is_refused_as_json(server, hasty):
    for sent in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/2000\r\n\r\n",
        b"GET /" + b"x" * 100_000,
        request()[:-4] + b"\r\n",
    ):
        with connected(hasty) as connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(sent)
            raw = received(connection)
            if raw:
                assert 400 <= answered(raw)[0] < 500
    broken = request(b"", "transfer-encoding: chunked") + b"zz\r\n"
    with connected(server) as connection:
        connection.sendall(broken)
        assert answered(received(connection))[0] == 400
    assert server.ask("/search", {"id": "img/0001.png"})[0] == 200


def test_a_client_that_does_not_read_its_answer_is_let_go(vectors_folder, serve):
    asked = json.dumps({"vectors": [[0.5] * 24] * 200, "k": 400}).encode()  # about 5 MB
    with serve(vectors_folder, "--timeout", 2) as server:
        before = sockets_of(server)
        with connected(server) as connection:
            connection.sendall(request(asked))
            assert select.select([connection], [], [], PATIENCE)[0]  # the answer begins
            wait_for(lambda: sockets_of(server) == before)
            raw = received(connection)
    whole = int(re.search(rb"content-length: (\d+)", raw)[1])
    assert whole > 4_000_000
    assert len(raw) < whole / 2  # what the system kept for it


def sockets_of(server):
    """How many sockets it has open."""
    count = 0
    for each in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(each).startswith("socket:")
    return count


def test_requests_sent_together_are_answered_in_their_order(server):
    bodies = [json.dumps({"id": f"img/{number:04}.png", "k": 1}).encode() for number in range(5)]
    with connected(server) as connection:
        connection.sendall(b"".join(map(request, bodies[:-1])) + request(bodies[-1], "connection: close"))
        raw = received(connection)
    heads = re.split(rb"HTTP/1.1 (\d+) [^\r]*\r\n", raw)
    assert heads[1::2] == [b"200"] * 5
    found = [json.loads(part.partition(b"\r\n\r\n")[2])["results"][0]["query"] for part in heads[2::2]]
    assert found == [f"img/{number:04}.png" for number in range(5)]


def test_a_client_that_ends_its_side_still_gets_its_answer(server):
    with connected(server) as connection:
        connection.sendall(request())
        connection.shutdown(socket.SHUT_WR)
        status, found = answered(received(connection))
        assert (status, found["results"][0]["query"]) == (200, "img/0001.png")
    for unfinished in (b"", request()[:-3], request()[:40]):
        with connected(server) as connection:
            connection.sendall(unfinished)
            connection.shutdown(socket.SHUT_WR)
            assert received(connection) == b""


def test_a_body_without_end_beside_an_answer_is_not_kept(server):
    """A GET is answered at once, whatever body comes with it; that is thrown away, and not for ever."""
    with connected(server) as connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        before = server.memory()
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
    assert server.memory() < before + (20 << 20)
    assert server.ask("/healthz")[0] == 200


def test_many_slow_clients_make_room_for_others(vectors_folder, serve):
    """More than may be connected at once, and none of them too slow yet."""
    with serve(vectors_folder, "--timeout", 60) as server, contextlib.ExitStack() as waiting:
        connections = []
        for number in range(CONNECTIONS + 100):
            connections.append(waiting.enter_context(connected(server)))
            connections[-1].sendall(request()[: 60 if number % 2 else -5])
            if number % 50 == 0:
                assert server.ask("/search", {"id": "img/0001.png"})[0] == 200
        assert server.ask("/search", {"id": "img/0001.png"})[0] == 200  # all before it have been accepted
        ended = 0
        for connection in connections:
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                ended += received(connection) == b""
        assert ended >= 100


def test_a_body_that_is_too_large_is_refused_however_it_is_sent(server):
    large = 8 << 20
    with connected(server) as connection:
        connection.sendall(request(b"", f"content-length: {large + 1}", "expect: 100-continue"))
        assert answered(received(connection))[0] == 413  # before it was sent
    status, found = server.ask("/search", b" " * (large + 1))
    assert (status, found) == (413, {"error": f"the body has more than {large} bytes"})
    with connected(server) as connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(request(b"", "transfer-encoding: chunked"))
        for _ in range(200):
            connection.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
    assert server.ask("/search", {"id": "img/0001.png"})[0] == 200


def test_junk_bodies_leave_memory_and_latency_as_they_were(vectors_folder, serve):
    with serve(vectors_folder) as server:
        assert_junk_costs_nothing(server)
        assert_excess_is_not_kept(server)


def assert_excess_is_not_kept(server):
    before = server.memory()
    with connected(server) as connection:
        connection.sendall(request(b"", "transfer-encoding: chunked"))
        for _ in range(50):
            connection.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
        assert server.memory() < before + (20 << 20)  # of 50 MiB
        connection.sendall(b"0\r\n\r\n")
        assert answered(of_length(connection))[0] == 413


def assert_junk_costs_nothing(server):
    def typical():
        times = []
        for _ in range(20):
            start = time.perf_counter()
            assert server.ask("/search", {"id": "img/0001.png"})[0] == 200
            times.append(time.perf_counter() - start)
        return np.median(times)

    junk = [
        b"[" * (8 << 20), b"[" + b"[]," * (2 << 20) + b"[]]", b'{"vector": [' + b"1," * (3 << 20) + b"1]}",
        b'{"vectors": [' + b"[1]," * (2 << 20) + b"[1]]}", b'"' + b"x" * (7 << 20) + b'"', b"\xff" * (8 << 20),
        b'{"id": "' + b"x" * (7 << 20) + b'"}', b'{"k": ' + b"9" * (8 << 20),
    ]  # fmt: skip
    for body in junk[:2]:  # what is allocated once
        server.ask("/search", body)
    before, quick = server.memory(), typical()
    for body in junk * 2:
        status, _ = server.ask("/search", body)
        assert 400 <= status < 500
    assert server.memory() < before + (100 << 20)
    assert typical() < 10 * quick + 0.1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_new_requests_and_answers_running_ones(vectors_folder, serve, number):
    with serve(vectors_folder) as server, connected(server) as running, connected(server):  # one that says nothing
        running.sendall(request(b'{"id": "img/0001.png"}')[:-4])
        wait_for(lambda: sum(counted(server)) == 1)
        server.process.send_signal(number)
        wait_for(lambda: refuses(server))
        assert server.process.poll() is None
        running.sendall(b'ng"}')
        status, found = answered(received(running))
        assert (status, found["results"][0]["query"]) == (200, "img/0001.png")
        assert server.wait() == 0
        assert "stopped" in server.said


def test_searches_under_way_at_a_signal_are_answered_whole(vectors_folder, serve):
    """More of them than there are threads."""
    body = json.dumps({"vectors": [[0.5] * 24] * 200, "k": 100}).encode()
    with serve(vectors_folder, "--timeout", PATIENCE) as server, contextlib.ExitStack() as open_ones:
        asking = [open_ones.enter_context(connected(server)) for _ in range(6)]
        for connection in asking:
            connection.sendall(request(body))
        wait_for(lambda: sum(counted(server)) >= len(asking))
        server.process.send_signal(signal.SIGTERM)
        for connection in asking:
            status, found = answered(of_length(connection))
            assert (status, len(found["results"])) == (200, 200)
        assert server.wait() == 0


def wait_for(condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def refuses(server):
    """Whether it takes no more requests."""
    try:
        server.ask("/healthz")
    except OSError:  # refused, or reset
        return True
    return False


def counted(server):
    """Requests that have been answered, and those that have begun, but for the one that asks."""
    with connected(server) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        text = received(connection).decode()
    done = re.findall(r'^sdc_requests_total\{route="/search",status="\d+"\} (\S+)$', text, re.MULTILINE)
    (begun,) = re.findall(r"^sdc_requests_in_flight (\S+)$", text, re.MULTILINE)
    return sum(map(float, done)), float(begun) - 1


def of_length(connection):
    """An answer on a connection that may stay."""
    found = b""
    while not (head := re.search(rb"content-length: (\d+).*?\r\n\r\n", found, re.DOTALL)) or len(
        found
    ) < head.end() + int(head[1]):
        part = connection.recv(1 << 16)
        assert part, "it ended in the middle"
        found += part
    return found


def test_requests_that_are_not_done_in_time_do_not_keep_it(vectors_folder, serve):
    with serve(vectors_folder, "--timeout", TIMEOUT) as server, connected(server) as running:
        running.sendall(request()[:-4])
        wait_for(lambda: sum(counted(server)) == 1)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert answered(received(running))[0] == 408
        assert server.wait() == 0
        assert time.monotonic() - start < PATIENCE


def test_a_second_signal_ends_it_at_once(vectors_folder, serve):
    with serve(vectors_folder, "--timeout", 60) as server, connected(server) as running:
        running.sendall(request()[:-4])
        wait_for(lambda: sum(counted(server)) == 1)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(server))
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM


def test_a_replaced_index_is_served_without_a_restart(tmp_path, make_set, serve):
    make_set(tmp_path)
    with serve(tmp_path) as server:
        before = server.ask("/search", {"id": "img/0009.png"})
        (tmp_path / "other").mkdir()
        make_set(tmp_path / "other", seed=4)
        for name in ("model.safetensors", "db.bin"):
            (tmp_path / "other" / name).replace(tmp_path / name)
        wait_for(lambda: server.ask("/healthz")[1]["generation"] != 1)
        assert server.ask("/search", {"id": "img/0009.png"}) != before
        assert "generation 2 has 400 codes" in server.said


def test_it_says_where_it_is_and_warns_where_others_reach_it(vectors_folder, serve):
    with serve(vectors_folder, "--host", "0.0.0.0") as server:
        assert re.search(r"^serving 400 codes of 16 bits at http://0\.0\.0\.0:\d+/$", server.said, re.MULTILINE)
        wait_for(lambda: "no authentication and no TLS" in server.said)
        assert server.ask("/healthz")[0] == 200


def test_names_of_others_are_refused_unless_others_reach_it(vectors_folder, serve):
    asked = request(b'{"id": "img/0001.png"}', "connection: close").replace(b"host: localhost", b"host: evil.example")
    for options, status in (((), 421), (("--allow-host", "Evil.Example"), 200), (("--host", "0.0.0.0"), 200)):
        with serve(vectors_folder, *options) as server, connected(server) as connection:
            connection.sendall(asked)
            assert answered(received(connection))[0] == status


def test_all_that_the_first_search_needs_is_there_before_it(vectors_folder, serve, tmp_path, monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("no g++ here, which the first search would wait for")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with serve(vectors_folder):
        assert list((tmp_path / "sdc").glob("*hamming*"))


def test_blas_has_one_thread_while_it_serves(vectors_folder, monkeypatch):
    """Its idle threads would spin on the processors that the searches need."""

    def threads():
        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    def opened(settings):
        raise SdcError(f"BLAS has {threads()} threads")

    monkeypatch.setattr("sdc.serve.snapshot.Snapshot.open", opened)
    with threadpool_limits(2, user_api="blas"):
        with pytest.raises(SdcError, match=r"BLAS has \{1\} threads"):
            run(ServeSettings(vectors_folder / "db.bin", port=0))
        assert threads() == {2}


def test_a_folder_without_the_images_of_the_index_is_told(vectors_folder, serve, tmp_path):
    with serve(vectors_folder, "--images", tmp_path) as server:
        assert server.ask("/healthz")[1]["shows_images"] is True  # answered once all of the start is logged
        assert re.search(r"--images \S+ has none of the images of 20 ids that were tried, such as img/", server.said)


def test_a_port_in_use_is_said_before_anything_is_read(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SdcError, match=rf"port {port} of 127\.0\.0\.1 is in use") as caught:
            run(ServeSettings(tmp_path / "gone.bin", port=port))
    assert caught.value.exit_code == 1


def test_settings_that_cannot_be_are_refused_in_one_line(vectors_folder, tmp_path):
    index = vectors_folder / "db.bin"
    for options, message in (
        ({"port": 70000}, "--port 70000"),
        ({"port": -1}, "--port -1"),
        ({"max_k": 0}, "--max-k 0"),
        ({"max_body": 0}, "--max-body 0"),
        ({"allow_hosts": ("http://a",)}, "--allow-host http://a: expected a name alone"),
        ({"allow_hosts": ("a:80",)}, "--allow-host a:80"),
        ({"allow_hosts": ("b", "")}, "--allow-host : expected"),
        ({"timeout": 0}, "--timeout 0"),
        ({"timeout": float("nan")}, "--timeout nan"),
        ({"images": tmp_path / "gone"}, "no such folder"),
        ({"weights": str(tmp_path / "gone")}, "no such file"),
        ({"host": "", "port": 0}, "--host is empty"),
        ({"host": "no such host", "port": 0}, "--host no such host: unknown"),
        ({"host": "a" * 300, "port": 0}, "unknown"),
        ({"host": "192.0.2.1", "port": 0}, "no address of this machine"),
    ):
        with pytest.raises(UsageError, match=message):
            run(ServeSettings(index, **options))
    for path, error in ((tmp_path / "gone.bin", "gone.bin"), (Path(__file__), "test_serve_process.py")):
        with pytest.raises(SdcError, match=error):
            run(ServeSettings(path, port=0))
    with pytest.raises(UsageError, match="was encoded by the model"):
        (tmp_path / "other").mkdir()
        run(ServeSettings(index, port=0, model=other_model(tmp_path / "other")))
    with pytest.raises(SdcError, match=r"none\.safetensors"):
        run(ServeSettings(index, port=0, model=tmp_path / "none.safetensors"))


def other_model(folder):
    from sdc.train.model import Model

    tensors = {"output.weight": np.ones((16, 24)), "output.bias": np.zeros(16)}
    return Model(tensors, {"method": "lsh", "settings": {}}).save(folder / "m.safetensors")


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match=r"needs uvicorn: pip install 'sdc-hash\[serve\]'"):
        run(ServeSettings(tmp_path / "db.bin", port=0))


def test_the_command_takes_its_defaults_from_the_settings(monkeypatch):
    seen = []
    monkeypatch.setattr("sdc.serve.serve", seen.append)
    assert CliRunner().invoke(command_serve, []).exit_code == 0
    assert CliRunner().invoke(command_serve, ["--max-body", "2MiB", "--no-verify", "--port", "0"]).exit_code == 0
    assert CliRunner().invoke(command_serve, ["--allow-host", "a", "--allow-host", "b"]).exit_code == 0
    assert CliRunner().invoke(command_serve, ["--max-body", "big"]).exit_code == 2
    assert seen == [
        ServeSettings(),
        ServeSettings(max_body=2 << 20, verify=False, port=0),
        ServeSettings(allow_hosts=("a", "b")),
    ]
