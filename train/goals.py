"""What codes are trained for: to keep each item's nearest neighbours, or to tell kinds of items apart.

The two are different aims. Codes that keep neighbours find fewer items of the same label, and the other way round:
`bench/results/recipe.md` has the figures of both.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sdc.errors import UsageError, unknown_name_error

# The settings that a goal stands for.
GOALS: dict[str, dict[str, Any]] = {
    "neighbors": {"method": "neighbors"},
    "kinds": {"method": "sdc", "locality": 1.0},
}
# Settings of SDC's loss, which mean that method where no goal is named; the goal `kinds` takes them too.
OF_SDC = frozenset({
    "calibration", "pairs", "loss", "quantization", "quantization_weight", "contrastive_weight", "supervised", "space",
    "locality", "init",
})  # fmt: skip
AIMS = {"neighbors": "keep each item's nearest neighbours", "kinds": "tell kinds of items apart"}


@dataclass(frozen=True)
class Goal:
    """A goal and why it was chosen.

    Attributes:
        name: one of `GOALS`.
        reason: in words.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        other = next(name for name in GOALS if name != self.name)
        return (
            f"goal {self.name}: the codes are trained to {AIMS[self.name]}, {self.reason} "
            f"(--goal {other} trains them to {AIMS[other]})"
        )


def choose_goal(
    goal: str | None, method: str | None, preset: str, others: Collection[str] = (), *, labelled: bool
) -> Goal | None:
    """The goal of a training; None where a method, a preset or a setting of SDC's loss decides for itself.

    The rule: features with labels, or with a ground truth, are there to find items of a kind; all others to find
    neighbours.

    Args:
        goal: what was asked for, if anything.
        method, preset: likewise.
        others: the names of all other settings that are given.
        labelled: whether the features have labels or a ground truth.

    Raises:
        UsageError: an unknown goal, or one beside a method or a preset.
    """
    if goal is not None and goal not in GOALS:
        raise unknown_name_error("goal", goal, GOALS)
    if goal is not None and (method is not None or preset != "default"):
        named = f"--method {method}" if method is not None else f"--preset {preset}"
        raise UsageError(f"--goal {goal} chooses the method and its settings, and so does {named}: give one of them")
    of_sdc = sorted(OF_SDC.intersection(others))
    if goal == "neighbors" and of_sdc:
        raise UsageError(f"{of_sdc[0]} is a setting of SDC's loss, which --goal neighbors does not have: leave one out")
    if method is not None or preset != "default" or (goal is None and of_sdc):
        return None
    if goal is not None:
        return Goal(goal, "as asked for")
    if labelled:
        return Goal("kinds", "since the features have labels")
    return Goal("neighbors", "since the features have no labels")
