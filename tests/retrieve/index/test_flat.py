"""Exact search against NumPy's, whatever the split: over threads, slices, groups of queries and (fake) GPUs."""

from __future__ import annotations

import os
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError
from sdc.retrieve.bits import hamming
from sdc.retrieve.index import flat_search as scan
from sdc.retrieve.index import gpu as gpus
from sdc.retrieve.index import threads
from sdc.retrieve.index.flat_search import FlatSearcher
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.search_plan import Plan
from sdc.retrieve.index.threads import run_parallel

faiss = pytest.importorskip("faiss")
PLANS = [
    Plan("serial", 1, 1, "a test"),
    Plan("database", 2, 2, "a test"),
    Plan("database", 2, 5, "a test"),
    Plan("database", 3, 40, "a test"),
    Plan("queries", 2, 1, "a test"),
    Plan("queries", 3, 1, "a test"),
]
GPU = Plan("gpu", 1, 3, "a test")


def brute_force(queries, codes, k):
    distances = hamming(queries, codes)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


def in_range(queries, codes, radius):
    """limits, distances, positions, query by query."""
    found = [brute_force(query[None], codes, len(codes)) for query in queries]
    kept = [(d[0][d[0] <= radius], p[0][d[0] <= radius]) for d, p in found]
    limits = np.cumsum([0] + [len(d) for d, _ in kept])
    return limits, *(np.concatenate([each[n] for each in kept] + [np.empty(0, int)]) for n in (0, 1))


def few_codes(rng, count, width, values=2):
    """Codes most of which occur many times: everything ties."""
    pool = rng.integers(0, 256, (values, width), dtype=np.uint8)
    return pool[rng.integers(0, values, count)]


def same(found, expected):
    return all((a == b).all() and a.shape == b.shape for a, b in zip(found, expected, strict=True))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 120),  # database
    st.integers(0, 70),  # queries: more than one group
    st.sampled_from([8, 24, 64, 72, 256, 1024, 4088, 4096]),  # bits
    st.integers(1, 6),  # distinct codes
    st.sampled_from(PLANS),
    st.data(),
)
def test_search_is_brute_force_whatever_the_split(n, q, bits, values, planned, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes, queries = few_codes(rng, n, bits // 8, values), few_codes(rng, q, bits // 8, values)
    k = data.draw(st.integers(1, n))
    radius = data.draw(st.integers(0, bits + 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "plan", lambda *_, **__: planned)
        distances, positions = FlatSearcher(codes).search(queries, k)
        assert same((distances, positions), brute_force(queries, codes, k))
        assert (distances.dtype, positions.dtype) == (np.int32, np.int64)
        ranged = FlatSearcher(codes).range_search(queries, radius)
        assert same(ranged, in_range(queries, codes, radius))
        assert [array.dtype for array in ranged] == [np.int64, np.int32, np.int64]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(1, 40),
    st.sampled_from([8, 24, 72, 1024, 4096]),
    st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0]),
    st.sampled_from(PLANS),
    st.data(),
)
def test_a_restricted_search_is_brute_force_over_its_rows(n, q, bits, share, planned, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes, queries = few_codes(rng, n, bits // 8, 5), few_codes(rng, q, bits // 8, 5)
    within = np.flatnonzero(rng.random(n) < share)
    k = data.draw(st.integers(min(1, len(within)), len(within)))
    radius = data.draw(st.integers(0, bits))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "plan", lambda *_, **__: planned)
        patch.setattr(scan, "_GATHERED", 7 * bits // 8)  # several gatherings
        distances, places = brute_force(queries, codes[within], k)
        assert same(FlatSearcher(codes).search(queries, k, within), (distances, within[places]))
        limits, distances, places = in_range(queries, codes[within], radius)
        assert same(FlatSearcher(codes).range_search(queries, radius, within), (limits, distances, within[places]))


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("k", [1, 10, 1000, 30_000])
def test_massive_ties_keep_their_order_across_slices(monkeypatch, k, native):
    monkeypatch.setattr(scan, "hamming_available", lambda: native)
    rng = np.random.default_rng(0)
    codes, queries = few_codes(rng, 30_000, 8, 3), few_codes(rng, 3, 8, 3)
    expected = brute_force(queries, codes, k)
    for planned in PLANS:
        monkeypatch.setattr(scan, "plan", lambda *_, planned=planned, **__: planned)
        assert same(FlatSearcher(codes).search(queries, k), expected)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("many", "dense", "room"),
    [(10**9, 0, 1 << 30), (1, 0, 1 << 30), (10**9, 10**9, 1 << 30), (1, 0, 65 * 10 * 8 * 3), (1, 0, 100)],
)
def test_kernel_heap_and_counters_list_alike_in_whatever_groups(monkeypatch, many, dense, room, native):
    for name, value in (("_MANY", many), ("_DENSE", dense), ("_LISTS", room)):
        monkeypatch.setattr(scan, name, value)
    monkeypatch.setattr(scan, "hamming_available", lambda: native)
    rng = np.random.default_rng(8)
    codes, queries = few_codes(rng, 3000, 8, 20), few_codes(rng, 40, 8, 20)
    for k in (1, 10, 700, 3000):
        assert same(FlatSearcher(codes).search(queries, k), brute_force(queries, codes, k))


def test_the_plan_splits_a_large_database_and_equals_faiss():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (300_000, 64), dtype=np.uint8)  # 2.4M words
    queries = codes[[5, 150_001, 299_999]]
    plain = faiss.IndexBinaryFlat(512)
    plain.add(codes)
    flat = FlatSearcher(codes)
    for count in (1, 3):
        assert same(flat.search(queries[:count], 50), plain.search(queries[:count], 50))


def test_an_index_of_a_mapped_file_is_searched_in_place(tmp_path):
    rng = np.random.default_rng(2)
    codes = few_codes(rng, 5000, 9, 40)
    index = Index.open(Index.build(codes).save(tmp_path / "db.bin"))
    assert not index.database.codes.flags.owndata
    assert same(index.search(codes[:4], 20), brute_force(codes[:4], codes, 20))
    plain = faiss.IndexBinaryFlat(72)
    plain.add(codes)
    faiss.write_index_binary(plain, str(tmp_path / "plain.bin"))
    written = (tmp_path / "plain.bin").read_bytes()
    assert (tmp_path / "db.bin").read_bytes()[: len(written)] == written


def test_codes_are_taken_over_where_asked_for():
    codes = few_codes(np.random.default_rng(7), 50, 8, 9)
    index = Index.build(codes, copy=False)
    assert np.shares_memory(index.database.codes, codes)
    assert not codes.flags.writeable
    assert not np.shares_memory(Index.build(codes).database.codes, codes)


def test_the_callers_openmp_threads_are_left_as_they_were():
    before = faiss.omp_get_max_threads()
    codes = np.zeros((100, 8), np.uint8)
    try:
        faiss.omp_set_num_threads(2)
        FlatSearcher(codes).search(codes[:2], 3)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_work_is_shared_out_and_comes_back_in_order():
    together, seen = threading.Barrier(2, timeout=120), set()

    def task(number):
        seen.add(threading.get_ident())
        if number < 2:
            together.wait()  # both threads are at it
        return number * number

    assert run_parallel([partial(task, n) for n in range(9)], 2) == [n * n for n in range(9)]
    assert len(seen) == 2
    assert threading.get_ident() in seen
    assert run_parallel([], 2) == []


def test_an_error_of_a_task_is_raised_and_ends_the_others():
    done = []

    def fail():
        raise SdcError("broken")

    with pytest.raises(SdcError, match="broken"):
        run_parallel([fail, *[partial(done.append, n) for n in range(1000)]], 1)
    assert not done
    assert run_parallel([lambda: 1, lambda: 2], 2) == [1, 2]  # the threads still work


def test_what_another_thread_does_not_finish_is_done_again():
    held, caller = threading.Event(), threading.get_ident()
    taken = threading.Event()

    def task(number):
        if threading.get_ident() == caller:
            taken.wait(20)  # the other has one too
        elif not taken.is_set():
            taken.set()
            held.wait(20)
        return number

    try:
        assert run_parallel([partial(task, n) for n in range(4)], 2) == [0, 1, 2, 3]
        assert not held.is_set()
    finally:
        held.set()


def test_an_error_in_another_thread_is_raised_too():
    caller, taken = threading.get_ident(), threading.Event()

    def task(number):
        if number == 3:
            taken.set()
            raise SdcError("broken")
        if threading.get_ident() == caller:
            taken.wait(20)  # so that the other comes to number 3
        return number

    with pytest.raises(SdcError, match="broken"):
        run_parallel([partial(task, n) for n in range(4)], 2)


def test_a_caller_does_not_wait_for_threads_that_never_begin(monkeypatch):
    class Stuck:
        def submit(self, work):
            return SimpleNamespace(cancel=lambda: True)

    monkeypatch.setattr(threads, "_pool", Stuck)
    assert run_parallel([lambda: 1, lambda: 2, lambda: 3], 2) == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process.*fork")
def test_a_forked_child_searches_with_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(scan, "plan", lambda *_, **__: PLANS[2])
    codes = few_codes(np.random.default_rng(3), 1000, 8, 9)
    expected = brute_force(codes[:1], codes, 10)
    assert same(FlatSearcher(codes).search(codes[:1], 10), expected)  # the threads exist
    child = os.fork()
    if child == 0:
        os._exit(0 if same(FlatSearcher(codes).search(codes[:1], 10), expected) else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class FakeGpu:
    """Stands for FAISS' GpuIndexBinaryFlat: right distances, ties in any order, and a limit on k."""

    made: list[FakeGpu] = []  # noqa: RUF012
    limit = 1024

    def __init__(self, resources, bits, config):
        self.bits, self.device, self.asked = bits, config.device, []
        FakeGpu.made.append(self)

    def add(self, codes):
        self.codes = codes

    def search(self, queries, k):
        self.asked.append((len(queries), k))
        if k > self.limit:
            raise RuntimeError(f"Error: k must be at most {self.limit}\nin a file of FAISS")
        distances = hamming(queries, self.codes)
        order = np.argsort(distances[:, ::-1], axis=1, kind="stable")[:, :k]  # the last of those that tie first
        order = len(self.codes) - 1 - order
        return np.take_along_axis(distances, order, axis=1), order


def stub(patch):
    """Three devices; searches of 2 queries and more are planned to run there."""
    fake = SimpleNamespace(
        GpuIndexBinaryFlatConfig=SimpleNamespace, StandardGpuResources=object, GpuIndexBinaryFlat=FakeGpu
    )
    patch.setattr(gpus, "faiss_module", lambda: fake)
    patch.setattr(faiss, "get_num_gpus", lambda: 3)
    patch.setattr(scan, "plan", lambda q, *_, gpus=0, **__: GPU if gpus and q > 1 else PLANS[1])
    patch.setattr(FakeGpu, "made", [])


@pytest.fixture
def fake_gpus(monkeypatch):
    stub(monkeypatch)
    return FakeGpu


def test_gpus_hold_a_shard_each_and_are_merged_in_order(fake_gpus):
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 256, (4000, 8), dtype=np.uint8)
    queries = rng.integers(0, 256, (40, 8), dtype=np.uint8)
    flat = FlatSearcher(codes)
    for k in (1, 10, 100):
        found = flat.search(queries, k)
        assert same(found, brute_force(queries, codes, k))
        assert (found[0].dtype, found[1].dtype) == (np.int32, np.int64)
    assert [gpu.device for gpu in fake_gpus.made] == [0, 1, 2]  # copied there once
    assert (np.concatenate([gpu.codes for gpu in fake_gpus.made]) == codes).all()
    assert all(gpu.asked == [(40, 68), (40, 104), (40, 464)] for gpu in fake_gpus.made)
    assert same(flat.search(queries[:1], 5), brute_force(queries[:1], codes, 5))  # on the CPU
    assert all(len(gpu.asked) == 3 for gpu in fake_gpus.made)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 300), st.integers(2, 5), st.integers(1, 12), st.integers(0, 2**32), st.data())
def test_what_ties_on_gpus_is_settled(n, q, values, seed, data):
    rng = np.random.default_rng(seed)
    codes, queries = few_codes(rng, n, 2, values), few_codes(rng, q, 2, values)
    k = data.draw(st.integers(1, n))
    with pytest.MonkeyPatch.context() as patch:
        stub(patch)
        patch.setattr(gpus, "_SPARE", data.draw(st.integers(0, 20)))
        shards = gpus.Gpus(codes, 3)
        distances, positions, settled = shards.search(queries, k)
    expected = brute_force(queries, codes, k)
    assert (distances == expected[0]).all()
    assert (positions[settled] == expected[1][settled]).all()
    if k == n:
        assert settled.all()


def test_ties_that_a_gpu_leaves_open_go_to_the_cpu(fake_gpus):
    rng = np.random.default_rng(5)
    codes, queries = few_codes(rng, 5000, 8, 3), few_codes(rng, 6, 8, 3)
    assert same(FlatSearcher(codes).search(queries, 10), brute_force(queries, codes, 10))
    assert fake_gpus.made[0].asked == [(6, 104)]


def test_where_the_gpu_fails_the_cpu_takes_over_for_good(fake_gpus, monkeypatch, caplog):
    monkeypatch.setattr(FakeGpu, "limit", 50)
    codes = few_codes(np.random.default_rng(6), 600, 8, 9)
    flat = FlatSearcher(codes)
    for _ in range(2):
        assert same(flat.search(codes[:4], 60), brute_force(codes[:4], codes, 60))
    assert len(caplog.records) == 1
    assert "no search on the GPU, but on the CPU: Error: k must be at most 50" in caplog.text
    assert sum(len(gpu.asked) for gpu in fake_gpus.made) <= 3


def hundred_thousands(values):
    """Codes of 16 bits, few of them different or all sorted, so that a sample tells little or nothing."""
    codes = np.random.default_rng(values).integers(0, [256, values], (600_000, 2), dtype=np.uint8)
    codes[: len(codes) // 2] = np.sort(codes[: len(codes) // 2].view(np.uint16), axis=0).view(np.uint8)
    return codes


@pytest.mark.parametrize("values", [1, 7, 256])
@pytest.mark.parametrize("count", [2000, 50_000, 600_000])
def test_many_candidates_are_those_of_a_search(values, count):
    searcher, queries = FlatSearcher(hundred_thousands(values)), few_codes(np.random.default_rng(0), 3, 2, values=3)
    _, positions = searcher.search(queries, count)
    np.testing.assert_array_equal(np.sort(searcher.candidates(queries, count)), np.sort(positions))


def test_candidates_are_found_where_the_sample_misleads():
    codes = hundred_thousands(256)
    searcher = FlatSearcher(codes)
    first = searcher.candidates(codes[:1], 2000)  # the sample is taken
    codes[:] = codes[-1]  # and no longer says anything: no code is near
    codes[77] = ~codes[-1]
    assert len(first[0]) == 2000
    _, positions = searcher.search(codes[77:78], 2000)
    np.testing.assert_array_equal(np.sort(searcher.candidates(codes[77:78], 2000)), np.sort(positions))
