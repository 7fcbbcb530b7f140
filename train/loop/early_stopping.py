"""How well codes keep the neighbours of rows that were held out from training: when to stop, told without labels.

The neighbours of a held-out row are the `NEIGHBORS` training rows nearest to it by the method's teacher (with SDC at
locality 0, by the cosine of the features). The agreement is the share of them among the `NEIGHBORS` nearest by Hamming
distance, expected over random orders of tied rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

HELD_OUT = 1000  # rows, at most, and at most a tenth of all
DATABASE = 4096  # training rows among which neighbours are looked for, at most
NEIGHBORS = 10
CHECK_EVERY = 100  # steps
FROM_STEPS = 1000  # a run of fewer steps is trained to its end: it could save seconds, and would miss the rows


def held_out(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`rows` without a random sample of them, and that sample, both ascending."""
    count = min(HELD_OUT, len(rows) // 10)
    chosen = np.random.default_rng((seed, 1)).choice(len(rows), count, replace=False, shuffle=False)
    return np.delete(rows, chosen), np.sort(rows[chosen])


class Agreement:
    """The agreement of a head's codes.

    Args:
        teacher: from features (N, p) to unit vectors (N, p).
        queries: (Q, p) the held-out rows.
        database: (M, p) the training rows, M > `NEIGHBORS`.
    """

    def __init__(self, teacher: Callable[[Tensor], Tensor], queries: Tensor, database: Tensor) -> None:
        self._queries, self._database = queries, database
        self._near = (teacher(queries) @ teacher(database).T).topk(NEIGHBORS).indices

    @torch.no_grad()
    def __call__(self, head: nn.Module) -> float:
        """The agreement, from 0 to 1."""
        training = head.training
        head.eval()
        queries, database = (torch.where(head(x) > 0, 1.0, -1.0) for x in (self._queries, self._database))
        head.train(training)
        similarities = queries @ database.T  # K − 2 · Hamming distance, exact in float32
        last = similarities.topk(NEIGHBORS).values[:, -1:]
        above, tied = (similarities > last).sum(1), (similarities == last).sum(1)
        found = similarities.gather(1, self._near)
        expected = (found > last).sum(1) + (found == last).sum(1) * (NEIGHBORS - above) / tied
        return float(expected.mean()) / NEIGHBORS
