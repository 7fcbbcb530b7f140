"""How far a training run has come."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class State:
    """How far a run has come: `step` batches into `epoch`, the mean losses of the epochs so far, and the best check.

    Attributes:
        seconds: spent so far, as counts against a budget.
        agreement: the best so far (see `sdc.train.loop.early_stopping`), `best_step` when, `waited` checks ago.
        cuts: of the learning rate.
        done: training is over, before its last epoch.
    """

    epoch: int = 0
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)  # of the epoch under way
    seconds: float = 0.0
    agreement: float = -1.0
    best_step: int = 0
    waited: int = 0
    cuts: int = 0
    done: bool = False
