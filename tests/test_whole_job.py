"""The whole job at full size, as the README promises it. Slow: it extracts 82,000 images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_the_demo_runs_and_ends_with_a_table(tmp_path):
    done = subprocess.run(["bash", ROOT / "bench" / "demo.sh", tmp_path / "demo"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    score = scores(tmp_path / "demo" / "quality.md")
    assert score["lsh"] < score["itq"] < score["default"]
    assert score["default"] > score["float features, cosine"] - 0.03
    again = subprocess.run(["bash", ROOT / "bench" / "demo.sh", tmp_path / "demo"], capture_output=True, text=True)
    assert again.returncode == 0
    assert again.stderr.count("nothing to do") == 3


def scores(table):
    """The mean score of each method, from the first column of the table that the benchmark writes."""
    rows = [line.split("|") for line in table.read_text().splitlines() if "| 0." in line]
    return {method.strip(): float(cell.split("±")[0]) for _, method, cell, *_ in rows}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """All of Fashion-MNIST at 128 px through EfficientNet-Lite0."""
    folder = tmp_path_factory.mktemp("full")
    subprocess.run([sys.executable, "-m", "sdc", "extract", "--image-size", "128"], cwd=folder, check=True)
    return folder / "feats.h5"


def test_quality_at_64_bits(features):
    """Means of 3 seeds: the paper's recipe near the float features, above ITQ and LSH; ours no worse."""
    out = features.parent / "quality.md"
    subprocess.run(
        [sys.executable, ROOT / "bench" / "quality_bench.py", "--features", features, "--bits", "64",
         "--methods", "default,paper-code,itq,lsh", "--seeds", "3", "--out", out],
        check=True,
    )  # fmt: skip
    assert len(list(out.with_suffix(".work").glob("*.json"))) == 12
    score = scores(out)
    assert score["paper-code"] > score["float features, cosine"] - 0.02
    assert score["paper-code"] > score["itq"] + 0.008
    assert score["paper-code"] > score["lsh"] + 0.1
    assert score["default"] >= score["paper-code"]
