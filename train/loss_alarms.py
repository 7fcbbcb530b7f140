"""Warnings from the loss curve, after the paper: the run diverges, oscillates, or its collapse persists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

FEWEST, PERSISTENT = 3, 5  # epochs from which on a curve may be said to rise, and not to fall
# Shares of the largest |loss| of the curve. 20 healthy runs (8 to 512 bits, 4 to 40 epochs) did not rise, swung by at
# most 0.02 (0.06 where an epoch has less than ten steps) and fell by at least 0.1.
RISE, SWING, FALL = 0.05, 0.1, 0.01
CLEAR = 2.5  # times the noise of a single epoch: a rise below may be chance


def training_alarms(curve: Sequence[Mapping[str, float]], *, solved: bool = False) -> list[str]:
    """What is wrong with a run, in words, and which options to change.

    Args:
        curve: the mean losses of each epoch: `total`, and where the method calibrates `calibration`, whose fall is
            what ends the collapse.
        solved: the run started from a solution (ITQ's), so its loss need not fall.

    Returns:
        A message for each sign found; none for a sound curve or a short one.
    """
    if len(curve) < FEWEST:
        return []
    curves = {"the loss": np.array([epoch["total"] for epoch in curve])}
    calibrates = all("calibration" in epoch for epoch in curve)
    if calibrates:
        curves["the calibration term"] = np.array([epoch["calibration"] for epoch in curve])
    for name, values in curves.items():
        alarms = _unsteady(name, values)
        if alarms:
            return alarms  # the terms of one loss go wrong together: one message will do
    if solved or len(curve) < PERSISTENT:
        return []
    meaning = "the collapse persists" if calibrates else "nothing is learned"
    for name, values in curves.items():
        scale, step = np.abs(values).max(), np.abs(np.diff(values)).mean()
        # A term that hardly falls may be at its best from the start; only where it stands still nothing is learned.
        judged = name == "the loss" or step < FALL * scale
        if judged and values[0] - _thirds(values)[-1] < FALL * scale:
            return [
                f"{name} does not fall ({values[0]:.4g} in the first epoch, {values[-1]:.4g} in the last of "
                f"{len(curve)}): {meaning}. Raise --lr, or lower --batch-size for more steps; more --epochs if it has "
                "just begun to fall"
            ]
    return []


def _unsteady(name: str, values: np.ndarray) -> list[str]:
    """Whether it oscillates or rises."""
    scale, steps, means = np.abs(values).max(), np.diff(values[1:]), _thirds(values)
    turns = steps[1:] * steps[:-1] < 0  # the first step is left out: there a loss falls steeply
    alarms = []
    if len(turns) >= 2 and turns.mean() >= 0.5 and np.abs(steps).mean() > SWING * scale:
        alarms.append(
            f"{name} oscillates, by {np.abs(steps).mean():.2g} from one epoch to the next: lower --lr or raise "
            "--batch-size"
        )
    noise = np.median(np.abs(np.diff(values, 2))) / 2  # about the standard deviation, where there is but noise
    if means[-1] - means.min() > max(RISE * scale, CLEAR * noise):
        alarms.append(
            f"{name} rises: its best was {values.min():.4g} (epoch {values.argmin() + 1}), it ends at "
            f"{values[-1]:.4g}; training diverges: lower --lr, or stop earlier with fewer --epochs"
        )
    return alarms


def _thirds(values: np.ndarray) -> np.ndarray:
    """The means of all stretches of a third of the curve; the last is that of its last third."""
    length = len(values) // 3
    means: np.ndarray = np.convolve(values, np.full(length, 1 / length), "valid")
    return means
