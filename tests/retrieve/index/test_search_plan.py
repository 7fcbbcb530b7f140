"""The choice of how to search, case by case."""

from __future__ import annotations

import dataclasses
import os

import pytest

from sdc.devices import cpu_count
from sdc.retrieve.index.search_plan import GPU_K, Plan, plan

M = 1_000_000


@pytest.mark.parametrize(
    ("queries", "codes", "width", "k", "threads", "gpus", "expected"),
    [
        (1, 1000, 8, 10, 2, 0, ("serial", 1, 1)),  # too short to wake a thread for
        (1, M, 8, 10, 2, 0, ("serial", 1, 1)),
        (1, 10 * M, 8, 10, 1, 0, ("serial", 1, 1)),  # one CPU
        (500, 10 * M, 8, 10, 1, 0, ("serial", 1, 1)),
        (0, 10 * M, 8, 10, 2, 0, ("serial", 1, 1)),
        (1, 10 * M, 8, 10, 2, 0, ("database", 2, 4)),
        (1, M, 32, 10, 2, 0, ("database", 2, 2)),
        (1, 2 * M, 8, 10, 2, 0, ("serial", 1, 1)),
        (1, 3 * M, 8, 10, 2, 0, ("database", 2, 2)),
        (1, 10 * M, 8, 10, 16, 0, ("database", 16, 16)),
        (1, 100 * M, 8, 10, 16, 0, ("database", 16, 47)),
        (3, 10 * M, 8, 10, 2, 0, ("database", 2, 4)),  # the third would be alone
        (2, 10 * M, 8, 10, 2, 0, ("queries", 2, 1)),
        (16, 10 * M, 8, 10, 2, 0, ("queries", 2, 1)),
        (17, 10 * M, 8, 10, 2, 0, ("queries", 2, 1)),
        (16, 10 * M, 8, 10, 64, 0, ("database", 64, 64)),
        (1024, M, 8, 100, 64, 0, ("queries", 64, 1)),
        (1, 10 * M, 8, 10 * M, 2, 0, ("serial", 1, 1)),  # each slice would list all it has
        (1, 10 * M, 8, 50_000, 2, 0, ("database", 2, 4)),
        (3, 10 * M, 8, 10 * M, 2, 0, ("queries", 2, 1)),
        (1000, 10 * M, 8, 10, 16, 1, ("gpu", 1, 1)),
        (1000, 10 * M, 9, 10, 16, 4, ("gpu", 1, 4)),
        (1000, 10 * M, 8, GPU_K, 16, 1, ("gpu", 1, 1)),
        (1000, 10 * M, 8, GPU_K + 1, 16, 1, ("queries", 16, 1)),
        (1, 100 * M, 8, 10, 16, 1, ("database", 16, 47)),  # one query leaves a GPU idle
        (800, 10 * M, 8, 10, 16, 1, ("queries", 16, 1)),  # under a second on one CPU
        (1000, 100_000, 8, 10, 16, 1, ("queries", 16, 1)),
    ],
)
def test_the_choice(queries, codes, width, k, threads, gpus, expected):
    found = plan(queries, codes, width, k, threads=threads, gpus=gpus)
    assert (found.how, found.threads, found.shards) == expected
    assert found.reason


def test_a_plan_is_a_value_that_says_why():
    found = plan(1, 10 * M, 8, 10, threads=2)
    assert str(found) == "database in 4 slices over 2 threads: too few queries to share them out"
    assert found == plan(1, 10 * M, 8, 10, threads=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.how = "gpu"
    assert str(Plan("gpu", 1, 2, "why")) == "on 2 GPUs: why"


def test_cpus_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert cpu_count() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu_count() == 1
