"""The batches of an epoch: every row once, in an order of seed and epoch alone, mixed, from memory and from disk."""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.extract.store import Listing, write_features
from sdc.train.loop import batches as module
from sdc.train.loop import fit
from sdc.train.loop.batches import Batches
from sdc.train.loop.checkpoint import Checkpoint
from sdc.train.presets import make_recipe

N, D = 5000, 6
DISK_BENCH = Path(__file__).parents[2] / "bench" / "disk_bench.py"


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Makes a memory map that counts as large; its blocks have 8 rows, its windows 512."""
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    monkeypatch.setattr(module, "BLOCK", 8 * D * 4)
    monkeypatch.setattr(module, "WINDOW", 512 * D * 4)

    def make(array: np.ndarray) -> np.memmap:
        with (tmp_path / "rows.bin").open("wb") as file:
            file.write(b"header")  # rows need not begin at a page of the file
            file.write(array.tobytes())
        return np.memmap(tmp_path / "rows.bin", array.dtype, "r", 6, array.shape)

    return make


@pytest.fixture(params=["memory", "disk"])
def features(request):
    array = np.arange(N * D, dtype=np.float32).reshape(N, D)
    return array if request.param == "memory" else request.getfixturevalue("on_disk")(array)


def numbers(batches: Iterator[module.Batch]) -> np.ndarray:
    """The row numbers of batches (steps, B), whose features are checked."""
    rows = []
    for batch in batches:
        np.testing.assert_array_equal(batch.features[:, 0], batch.rows * D)
        assert batch.features.shape == (len(batch.rows), D)
        rows.append(batch.rows)
    return np.array(rows)


@pytest.mark.parametrize("batch_size", [2, 64, 777, N])
def test_an_epoch_has_every_row_once_but_for_the_dropped_tail(features, batch_size):
    rows = np.arange(3, N, 2) if batch_size < N else np.arange(N)
    batches = Batches(features, rows, batch_size, seed=0)
    found = numbers(batches.epoch(0))
    assert found.shape == (len(rows) // batch_size, batch_size) == (batches.steps, batch_size)
    assert len(np.unique(found)) == found.size
    assert np.isin(found, rows).all()


def test_the_order_is_a_function_of_seed_and_epoch(features):
    def order(seed, epoch):
        return numbers(Batches(features, np.arange(N), 64, seed).epoch(epoch))

    first = order(1, 2)
    np.testing.assert_array_equal(first, order(1, 2))
    assert not np.array_equal(first, order(1, 3))
    assert not np.array_equal(first, order(2, 2))


def test_what_fits_in_memory_is_one_permutation():
    features = np.arange(N * D, dtype=np.float32).reshape(N, D)
    expected = np.random.default_rng((7, 3)).permutation(np.arange(N))
    np.testing.assert_array_equal(numbers(Batches(features, np.arange(N), 100, 7).epoch(3)).ravel(), expected)


@pytest.mark.parametrize("step", [1, 7, 9, 40, 77, 78])
def test_resumed_at_a_step_the_epoch_goes_on_as_it_was(features, step):
    batches = Batches(features, np.arange(N), 64, seed=0)
    np.testing.assert_array_equal(numbers(batches.epoch(1, step)).reshape(-1, 64), numbers(batches.epoch(1))[step:])


def test_the_shares_of_several_processes_make_the_batch(features):
    whole = numbers(Batches(features, np.arange(N), 60, 0).epoch(0, 5))
    shares = [numbers(Batches(features, np.arange(N), 60, 0, rank, 3).epoch(0, 5)) for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


def test_rows_sorted_by_label_are_mixed(on_disk, monkeypatch):
    """10 classes one after the other: each has its share of every batch, nearly as with a permutation of all rows."""
    n, classes, batch = 100_000, 10, 500
    features = on_disk(np.zeros((n, D), np.float32))
    monkeypatch.setattr(module, "WINDOW", 512 * module.BLOCK)  # as many blocks as there are by default
    found = np.array([found.rows for found in Batches(features, np.arange(n), batch, seed=0).epoch(0)])
    share = np.array([np.bincount(rows, minlength=classes) for rows in found * classes // n]) / batch
    # Drawn at random from all rows it has a standard deviation of sqrt(.1 * .9 / batch); the window adds its own.
    assert share.std(axis=0).mean() == pytest.approx(np.sqrt(0.09 / batch + 0.09 / 512), rel=0.2)


def test_large_sets_have_many_blocks_a_window_in_bounded_memory():
    assert module.WINDOW / module.BLOCK >= 512
    assert module.WINDOW < module.IN_MEMORY / 4


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 300), batch=st.integers(2, 300), block=st.integers(1, 40), window=st.integers(1, 200))
def test_any_sizes(tmp_path_factory, n, batch, block, window):
    path = tmp_path_factory.mktemp("any") / "rows.bin"
    np.repeat(np.arange(n, dtype=np.float32) * D, D).tofile(path)
    features = np.memmap(path, np.float32, "r", shape=(n, D))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IN_MEMORY", 0)
        patch.setattr(module, "BLOCK", block * D * 4)
        patch.setattr(module, "WINDOW", window * D * 4)
        batches = Batches(features, np.arange(n), min(batch, n), seed=n)
        found = numbers(batches.epoch(0))
        assert len(np.unique(found)) == found.size == batches.steps * batches.batch_size
        resumed = numbers(batches.epoch(0, batches.steps // 2))
    np.testing.assert_array_equal(resumed, found[batches.steps // 2 :])


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_the_thread_ends_with_the_epoch_or_an_early_exit(on_disk):
    features = on_disk(np.zeros((N, D), np.float32))
    batches = Batches(features, np.arange(N), 64, seed=0)
    with contextlib.closing(batches.epoch(0)) as epoch:
        next(epoch)
        assert readers()
    assert not readers()
    with pytest.raises(ZeroDivisionError), contextlib.closing(batches.epoch(0)) as epoch:
        for _ in epoch:
            raise ZeroDivisionError
    assert not readers()
    list(batches.epoch(0))
    assert not readers()


def test_an_error_while_reading_reaches_the_caller(on_disk):
    features = on_disk(np.zeros((N, D), np.float32))
    with pytest.raises(IndexError, match="5000"):
        list(Batches(features, np.arange(N + 8), 64, seed=0).epoch(0))
    assert not readers()


def test_a_view_of_a_map_and_an_array_are_permuted_as_a_whole(on_disk):
    features = on_disk(np.repeat(np.arange(N, dtype=np.float32) * D, D).reshape(N, D))
    rows = np.arange(N - 10)
    expected = numbers(Batches(np.array(features), rows, 64, 0).epoch(0))
    np.testing.assert_array_equal(numbers(Batches(features[:-10], rows, 64, 0).epoch(0)), expected)
    assert not np.array_equal(numbers(Batches(features, rows, 64, 0).epoch(0)), expected)


def test_a_run_from_disk_resumes_bit_for_bit(on_disk, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    features = on_disk(rng.standard_normal((N, D)).astype(np.float32))
    recipe = make_recipe(bits=8, epochs=2, batch_size=64, hidden=16)
    undisturbed, _ = fit(features, np.arange(N), recipe, device="cpu")
    saved = Checkpoint.save

    def save_and_stop(self, head, optimizer, state, best):
        saved(self, head, optimizer, state, best)
        if state.step == 50:
            raise KeyboardInterrupt

    checkpoint = Checkpoint(tmp_path / "m", {})
    with monkeypatch.context() as patch:
        patch.setattr("sdc.train.loop.checkpoint.SAVE_EVERY", 0.0)
        patch.setattr(Checkpoint, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            fit(features, np.arange(N), recipe, device="cpu", checkpoint=checkpoint)
    assert not readers()
    resumed, _ = fit(features, np.arange(N), recipe, device="cpu", checkpoint=checkpoint, resume=True)
    for name, value in undisturbed.items():
        np.testing.assert_array_equal(resumed[name], value)


class Numbers:
    """The ids 0, 1, … without a list of them."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[str]:
        return map(str, range(self.n))

    def __getitem__(self, rows: slice) -> list[str]:
        return list(map(str, range(self.n)[rows]))


@pytest.fixture
def small_memory() -> Iterator[str]:
    """The tasks file of a control group that may hold 2.5 GB, page cache included; skips where none can be made."""
    with runpy.run_path(str(DISK_BENCH))["capped"](2.5e9) as group:
        if group is None:
            pytest.skip("needs a control group of its own to cap memory, page cache included")
        yield str(group / "cgroup.procs")


@pytest.mark.slow
def test_ten_million_rows_train_in_two_gigabytes(small_memory, tmp_path):
    """10M × 512 float16 (10 GB) where no more than 2.5 GB fit in memory: the file can't stay in the page cache."""
    n, d = 10_000_000, 512
    if shutil.disk_usage(tmp_path).free < 15e9:
        pytest.skip("needs 15 GB of free disk")
    out = tmp_path / "feats.h5"
    block = np.random.default_rng(0).standard_normal((50_000, d)).astype(np.float16)
    try:
        splits = {"train": np.arange(n), "query": np.arange(1), "database": np.arange(n)}
        write_features(out, Listing(Numbers(n), splits), {}, d, np.float16, (block for _ in range(n // len(block))))
        with out.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        settings = ["--method", "sdc", "--epochs", "1", "--patience", "0", "--bits", "64"]
        command = [sys.executable, "-m", "sdc", "train", *settings]
        capped = (
            f"import os; open({small_memory!r}, 'w').write(str(os.getpid())); os.execv({sys.executable!r}, {command!r})"
        )
        with (tmp_path / "messages").open("w") as messages:
            process = subprocess.Popen([sys.executable, "-c", capped], cwd=tmp_path, stderr=messages)
        most, end = 0, time.monotonic() + 400
        began = False
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError, IndexError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                most = max(most, int(status.split("RssAnon:")[1].split()[0]) * 1024)
            if not began and "read from the disk" in (tmp_path / "messages").read_text():
                began, end = True, time.monotonic() + 60
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130, (tmp_path / "messages").read_text()
        header = (tmp_path / "model.safetensors.checkpoint").read_bytes()[:4000]
        steps = int(header.split(b'\\"step\\": ')[1].split(b",")[0])
        print(f"{steps} steps in a minute, {most / 1e9:.2f} GB of anonymous memory at most")
        assert steps > 300
        assert most < 2e9
    finally:
        out.unlink(missing_ok=True)
