"""Two levels of labels and `--imbalance` from end to end on the command line."""

from __future__ import annotations

import itertools

import numpy as np
import pytest


@pytest.fixture
def chain(command, vectors):
    """The folder of a chain with coarse labels, whose model was trained on a long tail."""
    labels = np.load(command.folder / "labels.npy")
    (command.folder / "coarse.txt").write_text("\n".join(np.array(["low", "low", "low", "high", "high"])[labels]))
    command("import", "vectors.npy", "--labels", "labels.npy", "--labels-coarse", "coarse.txt")
    command("train", "--method", "pcah", "--bits", "16", "--imbalance", "8")
    command("encode")
    return command


def test_evaluate_prints_both_levels_and_the_groups(chain):
    scores = chain.json("evaluate")
    assert scores["fall"] == scores["coarse"]["map"] - scores["map"]
    assert list(scores["groups"]) == ["head", "middle", "tail"]
    assert sum(group["queries"] for group in scores["groups"].values()) == scores["queries"] == 30
    shown = dict(line.rsplit(None, 1) for line in chain("evaluate").stdout.splitlines())
    for label, value in {
        "map": scores["map"],
        "precision@10": scores["precision"]["10"],
        "coarse.map": scores["coarse"]["map"],
        "coarse.precision@10": scores["coarse"]["precision"]["10"],
        "fall": scores["fall"],
        "groups.tail.map": scores["groups"]["tail"]["map"],
    }.items():
        assert shown[label] == f"{value:.4f}", label
    assert shown["groups.head.classes"] == "2"


def test_inspect_shows_the_levels_and_the_groups(chain):
    features, model, index = (chain.json("inspect", name) for name in ("feats.h5", "model.safetensors", "db.bin"))
    assert features["labels"] == features["labels_coarse"] == [300]
    assert model["settings"]["imbalance"] == 8
    assert index["model"]["groups"] == model["groups"]
    assert sorted(itertools.chain(*model["groups"].values())) == [0, 1, 2, 3, 4]


def test_what_does_not_fit_is_refused_in_one_line(command, vectors):
    np.save(command.folder / "few.npy", np.zeros(7, int))
    assert "give --labels as well" in command.error("import", "vectors.npy", "--labels-coarse", "few.npy", code=2)
    found = command.error("import", "vectors.npy", "--labels", "labels.npy", "--labels-coarse", "few.npy")
    assert "few.npy: found 7 labels_coarse, expected 300" in found
    command("import", "vectors.npy")
    assert "needs one label a row, feats.h5 has none" in command.error("train", "--imbalance", "5", code=2)
    command("import", "vectors.npy", "--labels", "labels.npy", "--overwrite")
    assert "expected the largest class over the smallest" in command.error("train", "--imbalance", "0.1", code=2)
    assert "leaves no row of the smallest" in command.error("train", "--imbalance", "1000", code=2)
