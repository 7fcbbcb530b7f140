"""The benchmark of two-stage search runs, on few vectors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "rerank_bench.py"


@pytest.mark.slow
def test_it_measures_what_it_promises(tmp_path):
    command = [sys.executable, BENCH, "--rows", "5000", "--dimension", "64", "--bits", "64", "--out", "found.md"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    # Its bars are for a million vectors: what a process takes by itself, with its threads, may be more than they allow.
    assert done.returncode == 0 or done.stderr.endswith("a bar is missed\n"), done.stdout + done.stderr[-2000:]
    assert [path.name for path in tmp_path.iterdir()] == ["found.md"]
    text = (tmp_path / "found.md").read_text()
    assert text == done.stdout
    assert "two stages, features not in the page cache" in text
    reached, asked = re.search(r"recall@10: ([\d.]+) on 1000 unseen queries.*asked for: ([\d.]+)", text).groups()
    assert float(reached) >= float(asked) == 0.95
    assert float(re.search(r"([\d.]+) times as many \(at most 1.5\)", text)[1]) <= 1.5
