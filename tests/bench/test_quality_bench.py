"""The table of methods: scores a user could compute, sets without labels, dashes, cells that are kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import warm

from sdc.extract import ImportSettings, import_features

BENCH = Path(__file__).parents[2] / "bench" / "quality_bench.py"


def bench(folder, *arguments, code=0):
    environment = {**os.environ, warm.FORK: "1"}
    done = warm.run([BENCH, *arguments], cwd=folder, env=environment, capture_output=True)
    assert done.returncode == code, done.stderr
    return done


def rows(text):
    """The cells of the tables' lines, by method, a list for each table."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| method"):
            method, *cells = [part.strip() for part in line.strip("|").split("|")]
            found.setdefault(method, []).append(cells[:-1])
    return found


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with labelled.h5 (24-d) and bare.h5 (40-d, no labels)."""
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=1500)
    for name, dimension in (("labelled", 24), ("bare", 40)):
        centres = rng.standard_normal((5, dimension)) * 2
        np.save(folder / f"{name}.npy", (centres[labels] + rng.standard_normal((1500, dimension))).astype(np.float32))
    np.save(folder / "labels.npy", labels)
    import_features(ImportSettings(folder / "labelled.npy", labels=folder / "labels.npy", out=folder / "labelled.h5"))
    import_features(ImportSettings(folder / "bare.npy", out=folder / "bare.h5"))
    return folder


def test_each_set_has_a_section_with_the_scores_it_can_have(sets):
    options = ["--bits", "16,32", "--methods", "default,itq,sign", "--score", "map,recall@10"]
    bench(sets, "--features", "labelled.h5", "--features", "bare.h5", *options, "--seeds", "2")
    labelled, bare = (sets / "quality.md").read_text().split("## ")[1:]
    assert labelled.startswith("labelled.h5: 24 dimensions; rows: 1350 train, 150 query, 1500 database")
    assert labelled.count("expected over ties") == 2
    assert "mAP@1000, expected over ties" in labelled
    assert "mAP" not in bare
    assert "recall of the float features' 10 nearest neighbours" in bare
    found = rows(labelled)
    for method in ("itq", "sign"):  # neither makes 32 bits of 24 dimensions
        assert [cells[1] for cells in found[method]] == ["—", "—"]
    assert "— itq, 32 bits: 32 bits need as many principal axes: the features have 24 dimensions" in labelled
    assert labelled.count("— itq") == 1
    assert "—" not in "".join(found["default"][0])

    cells = {path.name: json.loads(path.read_text()) for path in (sets / "quality.work").glob("*.json")}
    assert len(cells) == 2 * 2 * 2 * 3
    scores = [c["evaluate"]["map"] for n, c in cells.items() if n.startswith("sdc-16-") and "map" in c["evaluate"]]
    assert found["default"][0][0] == f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"


def test_finished_cells_are_kept_by_set_and_reused(sets):
    work = sets / "kept"
    options = ["--bits", "16", "--methods", "lsh", "--score", "recall@10", "--work", work]
    bench(sets, "--features", "labelled.h5", *options)
    (kept,) = work.glob("*.json")
    result = json.loads(kept.read_text())
    result["evaluate"]["neighbor_recall"]["10"] = 0.123
    kept.write_text(json.dumps(result))
    again = bench(sets, "--features", "labelled.h5", "--features", "bare.h5", *options)
    first, second = rows(again.stdout)["lsh"]
    assert first == ["0.123"]
    assert second != ["0.123"]


def test_what_cannot_be_is_refused_before_the_work(sets):
    refused = bench(sets, "--features", "labelled.h5", "--methods", "default,itk", code=2)
    assert "itk; known: default, " in refused.stderr
    refused = bench(sets, "--features", "labelled.h5", "--score", "recall@7", code=2)
    assert "recall@7; known: map, recall@1, recall@10, recall@100" in refused.stderr
    refused = bench(sets, "--features", "bare.h5", code=2)
    assert "bare.h5 has no labels for a mAP" in refused.stderr
