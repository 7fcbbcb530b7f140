"""The check for machines with a GPU, as far as it runs without one."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu_check.py"


@pytest.fixture
def check():
    return runpy.run_path(str(SCRIPT))


def started(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_a_part_over_its_limit_is_stopped(check, tmp_path):
    assert check["run_part"]("env", tmp_path, 0.01, True) == "stopped after 0 s"


def test_a_line_that_was_cut_short_is_left_out(check, tmp_path):
    check["keep"](tmp_path, part="ended", what="env", code=0)
    with open(tmp_path / "gpu.jsonl", "a") as file:
        file.write('{"part": "step", "us": 1')
    assert check["read"](tmp_path) == [{"part": "ended", "what": "env", "code": 0}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_each_part_says_so(tmp_path):
    done = started("--out", tmp_path, "--only", "search")
    assert done.returncode == 1
    assert "failed: search" in done.stderr
    said, ended = map(json.loads, (tmp_path / "gpu.jsonl").read_text().splitlines())
    assert "no CUDA device" in said["skipped"]
    assert (ended["what"], ended["code"]) == ("search", 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_dry_run_goes_through_all_parts(check, tmp_path):
    done = started("--out", tmp_path, "--dry")
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "log.txt").read_text()[-4000:]
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [row["what"] for row in rows if row["part"] == "ended"] == list(check["LIMITS"])
    assert all(row["code"] == 0 for row in rows if row["part"] == "ended")
    assert {row["part"] for row in rows} == {"ended", *check["LIMITS"]}
    assert all(row.get("dry") for row in rows if row["part"] != "ended")  # none could be taken for a GPU's
    steps = [row for row in rows if row["part"] == "step"]
    assert {row["implementation"] for row in steps} == {"eager", "eager tf32", "triton", "triton tf32"}
    assert all(row["gradient_off"] < 1e-6 for row in steps)
    kernels = {row["kernel"] for row in rows if row["part"] == "kernels"}
    assert {"gram_kernel", "row_sort_kernel", "backward_kernel", "halves_kernel"} < kernels
    assert (tmp_path / "step.csv").read_text().count("\n") == 2 + len(steps)
    assert not os.path.exists(tmp_path / "sanitizer.txt")
