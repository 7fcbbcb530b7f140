"""The search kernel against NumPy's stable sort, for each instruction set that this machine can run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import warm
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.kernels import hamming, native

pytestmark = pytest.mark.skipif(not hamming.available(), reason="the search kernel cannot be built here (no g++)")
SETS = {"native": hamming.FLAGS}
if platform.machine() == "x86_64":
    SETS |= {
        name: tuple(flag.replace("=native", f"={name}") for flag in hamming.FLAGS)
        for name in ("x86-64-v3", "x86-64-v2")
    }
    if "avx2" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        del SETS["x86-64-v3"]


@pytest.fixture(scope="module", params=SETS)
def kernel(request):
    return hamming.load(SETS[request.param])


def found_by(kernel, queries, codes, k):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "_load", lambda: kernel)
        return hamming.nearest(queries, codes, k)


def check(kernel, queries, codes, k):
    """Distances and positions are those of a stable sort."""
    expected = np.stack([np.unpackbits(codes ^ query, axis=1).sum(axis=1) for query in queries]).astype(np.int32)
    order = np.argsort(expected, axis=1, kind="stable")[:, :k]
    distances, positions = found_by(kernel, queries, codes, k)
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(expected, order, axis=1))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_nearer_ones_are_listed_by_position(kernel, data):
    width, count = data.draw(st.sampled_from([1, 2, 3, 4, 8, 16, 17, 32, 64])), data.draw(st.integers(1, 1500))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes, queries = (rng.integers(0, 4, (n, width), dtype=np.uint8) for n in (count, 3))
    k = data.draw(st.integers(1, count))
    limits = rng.integers(0, 8 * width + 2, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "_load", lambda: kernel)
        keys, counts = hamming.nearer(queries, codes, k, limits)
        for query, limit, row, here in zip(queries, limits, keys, counts, strict=True):
            distances = np.unpackbits(codes ^ query, axis=1).sum(axis=1)
            near = np.argsort(distances, kind="stable")[:k]
            near = np.sort(near[distances[near] < limit])
            assert here.tolist() == np.bincount(distances[near], minlength=8 * width + 1).tolist()
            if len(near):
                last = int(distances[near].max())
                at_last = near[distances[near] == last]
                ties = data.draw(st.integers(0, len(at_last)))
                chosen = np.sort(np.concatenate([near[distances[near] < last], at_last[:ties]]))
                positions = np.empty(len(chosen), np.int64)
                hamming.key_positions(row[: len(near)], last, ties, 7, positions)
                assert positions.tolist() == (chosen + 7).tolist()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_it_lists_what_a_stable_sort_lists(kernel, data):
    width = data.draw(st.one_of(st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.integers(1, 80)))
    count = data.draw(st.integers(1, 1500))
    k = data.draw(st.one_of(st.integers(1, count), st.just(count)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = data.draw(st.sampled_from([1, 2, 30, 100_000]))  # of few values most are equally far
    pool = rng.integers(0, 256, (min(values, count), width), dtype=np.uint8)
    codes = pool[rng.integers(0, len(pool), count)]
    queries = np.concatenate([codes[:1], ~codes[:1], rng.integers(0, 256, (3, width), dtype=np.uint8)])
    check(kernel, queries, codes, k)


@pytest.mark.parametrize("width", [1, 3, 8, 16, 64])
def test_the_nearest_at_the_very_end_displace_those_before(kernel, width):
    """Distances fall all the way: every code is a candidate, so lists are cut back again and again."""
    count = 20_000
    far = np.linspace(8 * width, 0, count).astype(int)
    codes = np.packbits(np.arange(8 * width) < far[:, None], axis=1)
    check(kernel, np.zeros((2, width), np.uint8), codes, 7)
    check(kernel, np.zeros((1, width), np.uint8), codes, 9_000)


@pytest.mark.parametrize("width", [2, 4, 8, 32])
def test_codes_may_begin_at_any_byte(kernel, width):
    rng = np.random.default_rng(3)
    for shift in range(1, 8):
        raw = rng.integers(0, 256, shift + 700 * width, dtype=np.uint8)
        check(kernel, raw[:width].reshape(1, width), raw[shift:].reshape(700, width), 40)


def test_lists_that_do_not_fit_into_the_memory_are_refused():
    code = """
import resource, numpy as np
from sdc.kernels import hamming
codes = np.zeros((40_000_000, 1), np.uint8)
hamming.nearest(codes[:1], codes[:1000], 5)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 600_000_000, -1))
try:
    hamming.nearest(codes[:1], codes, 40_000_000)
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "1 lists of 40000000 neighbours" in done.stdout, done.stderr


def test_without_a_compiler_faiss_searches_and_it_is_said_once(tmp_path):
    code = """
import json, logging, numpy as np
from sdc.errors import log
from sdc.retrieve.index import Index
logging.basicConfig()
codes = np.random.default_rng(0).integers(0, 256, (5000, 8), dtype=np.uint8)
index = Index.build(codes)
print(json.dumps([[a.tolist() for a in index.search(codes[:3], k)] for k in (1, 10, 4000)]))
"""
    found, logs = [], []
    for path in (os.environ["PATH"], str(tmp_path)):
        environment = {**os.environ, "PATH": path, "XDG_CACHE_HOME": str(tmp_path / f"cache{len(found)}")}
        done = warm.run(["-c", code], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
        logs.append(done.stderr)
    assert found[0] == found[1]
    assert ["no g++" in log for log in logs] == [False, True]
    assert logs[1].count("the search kernel is not available") == 1
    assert [path.suffix for path in (tmp_path / "cache0" / "sdc").iterdir()] == [".so"]


def test_threads_that_search_first_compile_it_once(tmp_path):
    code = """
import logging, threading, numpy as np
from sdc.kernels import hamming
logging.basicConfig()
codes = np.zeros((10, 8), np.uint8)
threads = [threading.Thread(target=hamming.available) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
"""
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs; sleep 0.3; echo broken >&2; exit 1\n")
    compiler.chmod(0o755)
    environment = {**os.environ, "PATH": f"{compiler.parent}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path)}
    done = warm.run(["-c", code], env=environment, capture_output=True)
    assert (tmp_path / "runs").read_text() == "run\n"
    assert done.stderr.count("g++ failed: broken") == 1


@pytest.mark.parametrize(
    "damage", [lambda data: data[:1000], lambda data: b"", lambda data: data[:-9] + b"?" + data[-8:]]
)
def test_a_library_that_was_damaged_is_built_again(damage, tmp_path, monkeypatch):
    whole = native.build(Path(hamming.__file__).with_name("hamming.cpp"), hamming.FLAGS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = tmp_path / "sdc" / whole.name
    built.parent.mkdir()
    built.write_bytes(damage(whole.read_bytes()))
    check(hamming.load(), np.zeros((1, 8), np.uint8), np.arange(80, dtype=np.uint8).reshape(10, 8), 3)
    assert built.read_bytes()[-8:] == xxhash.xxh3_64_digest(built.read_bytes()[:-8])


def test_without_a_home_folder_it_steps_aside(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert hamming._loaded.__wrapped__() is None


def test_a_search_imports_no_torch():
    code = """
import sys, numpy as np
from sdc.retrieve.index import Index
codes = np.arange(800, dtype=np.uint8).reshape(100, 8)
Index.build(codes).search(codes[:1], 3)
print([name for name in ("torch", "triton", "h5py") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr
