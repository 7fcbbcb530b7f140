"""What codes are trained for: which goal counts when, and that models say so."""

from __future__ import annotations

import numpy as np
import pytest

import sdc
from sdc.errors import UsageError
from sdc.train import GOALS, PRESETS, choose_goal
from sdc.train.methods import METHODS

ASKED, LABELS, NONE = "as asked for", "the features have labels", "the features have no labels"
# goal, method, preset, other settings, labelled -> goal and a part of its reason, or None
CASES = [
    (None, None, "default", [], False, ("neighbors", NONE)),
    (None, None, "default", [], True, ("kinds", LABELS)),
    (None, None, "default", ["epochs", "head", "lr", "search_by", "tables"], False, ("neighbors", NONE)),
    (None, None, "default", ["epochs", "search_by"], True, ("kinds", LABELS)),
    ("neighbors", None, "default", [], True, ("neighbors", ASKED)),
    ("neighbors", None, "default", ["search_by", "price", "steps"], False, ("neighbors", ASKED)),
    ("kinds", None, "default", [], False, ("kinds", ASKED)),
    ("kinds", None, "default", ["calibration", "locality"], True, ("kinds", ASKED)),
    (None, "itq", "default", [], False, None),
    (None, "neighbors", "default", [], True, None),
    (None, "sdc", "default", ["locality"], True, None),
    (None, None, "paper-code", [], False, None),
    *((None, None, "default", [setting], labelled, None)
      for setting in ("calibration", "locality", "supervised", "pairs") for labelled in (False, True)),
]  # fmt: skip
REFUSED = [
    ("neighbours", None, "default", [], "unknown goal 'neighbours': did you mean 'neighbors'"),
    ("neighbors", "itq", "default", [], "--goal neighbors chooses the method .* so does --method itq"),
    ("kinds", "sdc", "default", [], "so does --method sdc"),
    ("kinds", None, "paper-code", [], "so does --preset paper-code"),
    ("neighbors", None, "default", ["locality"], "locality is a setting of SDC's loss"),
    ("neighbors", None, "default", ["epochs", "supervised"], "supervised is a setting of SDC's loss"),
]


@pytest.mark.parametrize(("goal", "method", "preset", "others", "labelled", "expected"), CASES)
def test_which_goal_counts(goal, method, preset, others, labelled, expected):
    chosen = choose_goal(goal, method, preset, others, labelled=labelled)
    if expected is None:
        assert chosen is None
    else:
        assert chosen.name == expected[0]
        assert expected[1] in chosen.reason


@pytest.mark.parametrize(("goal", "method", "preset", "others", "message"), REFUSED)
@pytest.mark.parametrize("labelled", [False, True])
def test_what_contradicts_a_goal_is_refused(goal, method, preset, others, labelled, message):
    with pytest.raises(UsageError, match=message):
        choose_goal(goal, method, preset, others, labelled=labelled)


def test_a_goal_says_its_aim_its_reason_and_the_other():
    assert str(choose_goal(None, None, "default", labelled=False)) == (
        "goal neighbors: the codes are trained to keep each item's nearest neighbours, since the features have no "
        "labels (--goal kinds trains them to tell kinds of items apart)"
    )
    assert str(choose_goal("kinds", None, "default", labelled=False)) == (
        "goal kinds: the codes are trained to tell kinds of items apart, as asked for "
        "(--goal neighbors trains them to keep each item's nearest neighbours)"
    )


@pytest.mark.parametrize("goal", GOALS)
def test_a_goal_leaves_other_settings_to_the_user(goal):
    recipe = sdc.Hasher(bits=16, goal=goal, lr=0.25).recipe
    assert {name: getattr(recipe, name) for name in GOALS[goal]} == GOALS[goal]
    assert recipe.lr == 0.25
    assert (recipe.search_by, recipe.tables) == (("both", True) if goal == "neighbors" else (None, False))
    assert sdc.Hasher(goal=goal, search_by="hamming").recipe.search_by == "hamming"
    assert sdc.Hasher(goal="kinds", locality=0.5).recipe.locality == 0.5


def test_in_memory_the_goal_is_neighbors():
    assert sdc.Hasher().recipe == sdc.Hasher(goal="neighbors").recipe
    assert sdc.Hasher(locality=None, calibration=None).recipe.method == "neighbors"  # settings that are not given
    assert sdc.Hasher(locality=1.0).recipe.method == "sdc"


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "default"])
def test_presets_and_methods_refine_nothing(preset):
    recipe = sdc.Hasher(preset=preset).recipe
    assert (recipe.method, recipe.search_by, recipe.tables, recipe.steps) == ("sdc", None, False, 0)
    assert (recipe.normalize, recipe.optimizer, recipe.schedule) == (False, "adam", "constant")


@pytest.mark.parametrize("method", [name for name in METHODS if name != "neighbors"])
def test_other_methods_refine_only_where_asked(method):
    assert (sdc.Hasher(method=method).recipe.search_by, sdc.Hasher(method=method).recipe.tables) == (None, False)
    assert sdc.Hasher(method=method, search_by="both").recipe.search_by == "both"


@pytest.mark.parametrize("price", [-0.1, float("nan"), float("inf"), 2e6])
def test_a_price_out_of_range_is_refused(price):
    with pytest.raises(UsageError, match=r"price = \S+: must lie between 0 and 1e\+06"):
        sdc.Hasher(price=price)


def test_a_price_without_refinement_is_refused():
    with pytest.raises(UsageError, match="add --search-by hamming, both or tables"):
        sdc.Hasher(method="itq", price=0.1)
    assert sdc.Hasher(method="itq", search_by="both", price=0.0).recipe.price == 0


@pytest.fixture(scope="module", params=[False, True], ids=["vectors", "labels"])
def trained(request, tmp_path_factory, command_in):
    """A folder with a model, and what `sdc train` said while it was made, without --goal."""
    folder = tmp_path_factory.mktemp("goal")
    rng = np.random.default_rng(0)
    np.save(folder / "vectors.npy", rng.standard_normal((400, 24)).astype(np.float32))
    np.save(folder / "labels.npy", rng.integers(3, size=400))
    command = command_in(folder)
    command("import", "vectors.npy", *(["--labels", "labels.npy"] if request.param else []))
    done = command("train", "--bits", "16", *(["--epochs", "1"] if request.param else ["--steps", "3"]))
    return ("kinds" if request.param else "neighbors"), command, done.stderr


def test_the_goal_is_printed_and_recorded(trained):
    goal, command, said = trained
    lines = [line for line in said.splitlines() if f"goal {goal}: the codes are trained to" in line]
    assert len(lines) == 1
    assert "since the features have" in lines[0]
    described = command.json("inspect", "model.safetensors")
    assert described["goal"] == goal
    assert described["method"] == GOALS[goal]["method"]
    assert f"goal: {goal}" in command("inspect", "model.safetensors").stdout


def test_inspect_shows_what_settings_came_to(trained):
    goal, command, _ = trained
    settings = command.json("inspect", "model.safetensors")["settings"]
    assert None not in settings.values()
    assert settings["locality"] == (1.0 if goal == "kinds" else 0.0)
    assert settings["lr"] == (0.04 if goal == "kinds" else 0.001)
    assert settings["train_on"] == ("train" if goal == "kinds" else "database")


def test_inspect_shows_what_a_rule_gave(command_in, made, tmp_path):
    """The locality and rate that the width and the bits decide, which no option names."""
    command = command_in(made)
    command("train", "--method", "sdc", "--epochs", "1", "--bits", "8", "--out", tmp_path / "rule.safetensors")
    settings = command.json("inspect", tmp_path / "rule.safetensors")["settings"]
    assert settings["locality"] == 0.0  # 8 bits for 24 dimensions
    assert settings["lr"] == pytest.approx(1e-5)
