"""How many threads work takes, and that those which wait sleep."""

import os
import subprocess
import sys

import numpy as np
import pytest
import threadpoolctl
import torch

import sdc
from sdc import devices


@pytest.mark.parametrize(
    ("work", "available", "threads"),
    [
        (0, 8, 1),
        (2e8, 8, 1),  # a linear head of 1280 dimensions, 256 rows a step
        (9.9e8, 8, 1),
        (1e9, 8, 2),
        (2.7e9, 8, 5),  # an mlp of 1280
        (2.7e9, 2, 2),
        (1e12, 1, 1),
    ],
)
def test_threads_follow_the_work(work, available, threads):
    assert devices.threads_for(work, available) == threads


@pytest.fixture
def four_processors(monkeypatch):
    """PyTorch as it starts on four processors."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "cpu_count", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_processors")
def test_little_work_takes_one_thread_meanwhile():
    with devices.threads_by_work(1e6):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4
    with pytest.raises(KeyError), devices.threads_by_work(1e6):
        raise KeyError
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_processors")
def test_much_work_takes_all_threads():
    with devices.threads_by_work(1e12):
        assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_processors")
def test_the_number_a_user_has_set_stays(monkeypatch):
    torch.set_num_threads(3)
    with devices.threads_by_work(1e6):
        assert torch.get_num_threads() == 3
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with devices.threads_by_work(1e6):
        assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_processors")
def test_a_small_head_trains_in_one_thread(monkeypatch):
    asked, really = [], torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda count: (asked.append(count), really(count)))
    rows = np.random.default_rng(0).standard_normal((128, 16), np.float32)
    sdc.Hasher(bits=8, method="sdc", epochs=1, batch_size=32).fit(rows)
    assert asked == [1, 4]


def test_threads_that_wait_sleep_unless_a_user_says_otherwise():
    names = ("OMP_WAIT_POLICY", "OPENBLAS_THREAD_TIMEOUT")
    script = f"import os, sdc; print(*[os.environ[name] for name in {names}])"
    environment = {name: value for name, value in os.environ.items() if name not in names}
    for given, expected in (({}, "PASSIVE 4"), ({"OMP_WAIT_POLICY": "active"}, "active 4")):
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment | given, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


@pytest.mark.parametrize(("size", "threads"), [(64, {1}), (1024, {1}), (1025, {2})])
def test_small_matrices_are_decomposed_in_one_thread(size, threads):
    def of_blas():
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}

    np.linalg.eigvalsh(np.eye(2))  # loads it
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        with devices.decomposing(size):
            assert of_blas() == threads
        assert of_blas() == {2}
