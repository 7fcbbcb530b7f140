"""Small landmark sets from disk to the revisited scores, on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

POSITIVES = {"easy": ["easy"], "medium": ["easy", "hard"], "hard": ["hard"]}
IGNORED = {"easy": ["hard", "junk"], "medium": ["junk"], "hard": ["easy", "junk"]}


def expected_scores(ranked: list[str], entry: dict[str, Any], images: list[str], setting: str) -> list[float] | None:
    """AP, P@1, P@5 and P@10 of one query's ranking of image names; None without positives."""
    named = {kind: {images[number] for number in entry[kind]} for kind in ("easy", "hard", "junk")}
    ignored = set().union(*(named[kind] for kind in IGNORED[setting]))
    positives = set().union(*(named[kind] for kind in POSITIVES[setting]))
    ranked = [name for name in ranked if name not in ignored]
    ranks = [rank for rank, name in enumerate(ranked) if name in positives]
    if not ranks:
        return None
    ap = 0.0
    for j, rank in enumerate(ranks):
        before = j / rank if rank else 1.0
        ap += (before + (j + 1) / (rank + 1)) / 2 / len(positives)
    cutoffs = [min(ranks[-1] + 1, k) for k in (1, 5, 10)]
    return [ap, *(sum(rank < k for rank in ranks) / k for k in cutoffs)]


@pytest.mark.parametrize(("name", "folder"), [("roxf", "roxford5k"), ("rparis", "rparis6k")])
def test_from_disk_to_the_revisited_scores(landmarks: Callable[..., Any], command: Any, name: str, folder: str) -> None:
    made = landmarks(folder)
    made.gnd["gnd"][1]["easy"] = []  # a query that easy leaves out
    made.write()
    command(
        "extract", "--backbone", "test_resnet", "--weights", "random:0", "--data", name, "--root", made.root,
        "--image-size", 96, "--scales", "1",
    )  # fmt: skip
    command("train", "--method", "lsh", "--bits", 16, "--train-on", "database")
    command("encode")
    scores = command.json("evaluate")
    assert (scores["protocol"], scores["queries"], scores["database"]) == ("revisited", 3, 30)
    ranked = [
        [neighbor["id"] for neighbor in result["neighbors"]] for result in command.json("search", "-k", 30)["results"]
    ]
    for setting in POSITIVES:
        values = [
            expected_scores(names, entry, made.gnd["imlist"], setting)
            for names, entry in zip(ranked, made.gnd["gnd"], strict=True)
        ]
        counted = [value for value in values if value is not None]
        found = scores[setting]
        assert found["queries"] == len(counted) == (2 if setting == "easy" else 3)
        np.testing.assert_allclose([found["map"], *found["mp"].values()], np.mean(counted, axis=0), rtol=0, atol=1e-9)
        assert found["map_worst"] <= min(found["map"], found["map_expected"])
        assert found["map_best"] >= max(found["map"], found["map_expected"])
    lines = command("evaluate").stdout.splitlines()
    shown = dict(line.split(None, 1) for line in lines)
    assert shown["easy.map"] == f"{scores['easy']['map']:.4f}"
    assert shown["hard.mp@10"] == f"{scores['hard']['mp']['10']:.4f}"
    assert shown["medium.mp_expected@5"] == f"{scores['medium']['mp_expected']['5']:.4f}"
    assert shown["conventions.at"] == "the whole ranking"
    assert shown["conventions.no_hit"] == "a query without positives is left out of the mean"
    assert "--protocol revisited would do" in command.error("evaluate", "--protocol", "category", code=2)
