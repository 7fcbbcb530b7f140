"""How well codes keep the neighbours of rows that were held out from training: when to stop, without labels.

The neighbours of a held-out row are the `NEIGHBORS` training rows nearest to it by the method's teacher (with SDC at
locality 0, by the cosine of the features). The agreement is the share of them among the `NEIGHBORS` nearest by Hamming
distance, expected over random orders of tied rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdc.errors import SdcError, UsageError, log
from sdc.train.loop.distributed import World
from sdc.train.loop.state import State
from sdc.train.losses import expected_recall
from sdc.train.recipe import CUTS, LEAST_GAIN, Recipe

HELD_OUT = 1000  # rows, at most, and at most a tenth of all
DATABASE = 4096  # training rows among which neighbours are looked for, at most
NEIGHBORS = 10
CHECK_EVERY = 100  # steps
SPARE = 10  # times as many rows as are held out are enough to report how well they do
FROM_STEPS = 1000  # a run of fewer steps is trained to its end: it could save seconds, and would miss the rows


def split_rows(recipe: Recipe, rows: np.ndarray, ranks: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The rows to train on, those held out, both ascending, and how many make a batch.

    Raises:
        SdcError: fewer than 2 rows.
        UsageError: a batch has no share for each of the `ranks` processes.
    """
    size, checked = batch_size(recipe, len(rows), ranks), rows[:0]
    steps = recipe.steps or recipe.epochs * (len(rows) // size)
    # With a falling rate nothing is cut short, but how well the head does is worth a few of many rows.
    reported = recipe.schedule == "one-cycle" and len(rows) >= SPARE * HELD_OUT
    if recipe.patience and (recipe.budget or steps >= FROM_STEPS or reported):
        rows, checked = held_out(rows, recipe.seed)
        size = batch_size(recipe, len(rows), ranks)
    if size < recipe.batch_size:
        few = len(rows) < recipe.batch_size
        why = f"the train split has {len(rows)} rows" if few else "it is cut into equal parts"
        log.info("%s: the batch is %d, not %d", why, size, recipe.batch_size)
    return rows, checked, size


def batch_size(recipe: Recipe, rows: int, ranks: int) -> int:
    """The recipe's, or the next smaller one that the rows allow and that makes whole halves and equal shares."""
    if rows < 2:
        raise SdcError(f"training needs at least 2 rows, the train split has {rows}")
    size = min(recipe.batch_size, rows)
    size -= size % math.lcm(2 if recipe.pairs == "halves" else 1, ranks)
    if not size:
        raise UsageError(f"a batch of {min(recipe.batch_size, rows)} rows has no share for each of {ranks} processes")
    return size


def held_out(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`rows` without a random sample of them, and that sample, both ascending."""
    count = min(HELD_OUT, len(rows) // 10)
    drawn = np.random.default_rng((seed, 1)).choice(len(rows), count, replace=False, shuffle=False)
    return np.delete(rows, drawn), np.sort(rows[drawn])


class Agreement:
    """The agreement of a head's codes.

    Args:
        similarities: (Q, M) of the held-out rows to the training rows, M > `NEIGHBORS`: the highest are neighbours.
        queries: (Q, p) the held-out rows, as the head takes them.
        database: (M, p) the training rows, likewise.
    """

    def __init__(self, similarities: Tensor, queries: Tensor, database: Tensor) -> None:
        self._queries, self._database = queries, database
        self._near = similarities.topk(NEIGHBORS).indices

    @torch.no_grad()
    def __call__(self, head: nn.Module) -> float:
        """The agreement, from 0 to 1."""
        training = head.training
        head.eval()
        queries, database = (torch.where(head(x) > 0, 1.0, -1.0) for x in (self._queries, self._database))
        head.train(training)
        return expected_recall(queries @ database.T, self._near)  # K − 2 · Hamming distance, exact in float32


class EarlyStopping:
    """Keeps the best head, cuts the learning rate when held-out rows gain nothing, and ends training at last.

    Args:
        agreement: how good a head is; None checks nothing.
        held_out: the number of held-out rows, for the summary.
        patience: checks without a gain before the rate is cut.
        world: the processes that train together and must decide alike.

    Attributes:
        best: the tensors of the best head so far.
    """

    def __init__(self, agreement: Agreement | None, held_out: int, patience: int, world: World) -> None:
        self.agreement, self.held_out, self.patience, self.world = agreement, held_out, patience, world
        self.best: dict[str, Tensor] | None = None

    def check(self, head: nn.Module, state: State, step: int) -> bool:
        """Measures the head, and records in `state` what that means for the run.

        Returns:
            Whether the learning rate is to be cut; the head is the best one again then.
        """
        if self.agreement is None:
            return False
        agreement = self.world.same(self.agreement(head))
        if agreement > state.agreement + LEAST_GAIN:
            state.agreement, state.best_step, state.waited = agreement, step, 0
            self.best = {name: value.clone() for name, value in head.state_dict().items()}
            return False
        state.waited += 1
        if state.waited < self.patience:
            return False
        assert self.best is not None
        state.waited, state.cuts = 0, state.cuts + 1
        self.restore_best(head)
        if state.cuts > CUTS:
            log.info("held-out rows gain nothing any more: done after %d steps", step)
            state.done = True
        return True

    def restore_best(self, head: nn.Module) -> None:
        """Gives the head the tensors of the best one, where there is one."""
        if self.best is not None:
            head.load_state_dict(self.best)

    def summary(self, state: State, steps: int) -> dict[str, Any]:
        """What a model records of the checks, at the end of a run of `steps` steps."""
        if self.agreement is None:
            return {"agreement": None, "best_step": steps}
        return {"agreement": state.agreement, "best_step": state.best_step}
