"""A sample of an index, small enough to be measured in a second: items, queries, and their exact nearest neighbors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sdc.arrays import evenly_spread
from sdc.retrieve.bits import hamming, pack
from sdc.retrieve.cross_validation import query_part
from sdc.retrieve.evaluate import average_precision_of_groups, count_groups, share_label
from sdc.retrieve.features import IndexFeatures, Nearest, expected_overlap, nearest
from sdc.retrieve.index import EncodedIndex, Index, Records, own_positions
from sdc.retrieve.origin import is_refined
from sdc.train import Model
from sdc.train.methods import ITQ

QUERIES, _FEWEST = 128, 100  # at most; of a query split that is used
_VALUES, _LEAST, _MOST = 1 << 24, 4096, 1 << 16  # values of the items' features, and items: bounds of a second or so
_TRAINED, _WIDEST, _LONGEST = 4096, 1536, 256  # rows, dimensions and bits that ITQ is fitted to in as short a time
_AT = 100  # R of mAP@R


@dataclass(frozen=True, eq=False)
class Sample:
    """Some items of an index as an index of their own, with some queries as its query split.

    Attributes:
        index: exact, in memory; its rows are those of the whole one.
        store: the features of both.
        k: how many neighbors are looked for: 10, or all there are.
    """

    index: Index
    store: IndexFeatures
    k: int

    @classmethod
    def of(cls, whole: EncodedIndex, model: Model, store: IndexFeatures, k: int) -> Sample | None:
        """None where there are fewer than two items."""
        items = evenly_spread(len(whole.items), min(_MOST, max(_LEAST, _VALUES // store.dimension)))
        if len(items) < 2:
            return None
        labels = whole.database.labels
        database = Records(
            whole.items.codes(items), whole.items.rows(items), labels=None if labels is None else labels[items],
            lengths=whole.items.lengths(items),
        )  # fmt: skip
        part, of_split = query_part(database, whole.queries, _FEWEST)
        some = evenly_spread(len(part), QUERIES)
        codes, labels = part.codes[some], None if part.labels is None else part.labels[some]
        if not of_split:  # as a query an item may have another code
            features = np.asarray(store.take(part.rows[some]), np.float32)
            codes = model.encode(features, refine=is_refined(whole), query=True)
        index = Index.build(
            database.codes, labels=database.labels, rows=database.rows, lengths=database.lengths,
            queries=Records(codes, part.rows[some], labels=labels),
            metadata={"settings": whole.metadata.get("settings", {})},
        )  # fmt: skip
        return cls(index, store, min(k, len(items) - 1))

    @property
    def queries(self) -> Records:
        assert self.index.queries is not None
        return self.index.queries

    @cached_property
    def own(self) -> np.ndarray:
        """(Q,) the position of each query's own row among the items, or −1."""
        return own_positions(self.queries.rows, self.index.database.rows)

    @cached_property
    def near(self) -> list[Nearest]:
        """The exact nearest neighbors of each query."""
        return nearest(self.store, self.queries.rows, self.index.database.rows, self.own, self.k)

    @cached_property
    def query_features(self) -> np.ndarray:
        """(Q, d) float32."""
        return np.asarray(self.store.take(self.queries.rows), np.float32)

    @cached_property
    def by_codes(self) -> tuple[np.ndarray, np.ndarray | None]:
        """What `scores` gives of the index's codes."""
        return self.scores(self.queries.codes, self.index.database.codes)

    def scores(self, queries: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Of each query (Q,) the recall of its nearest neighbors, and with labels the AP, by Hamming distance.

        Both are expected over ties, as those of `sdc evaluate`.
        """
        distances, width = hamming(queries, codes), 8 * codes.shape[1] + 1
        marks = self._relevant()
        recalls, aps = np.empty(len(queries)), np.empty(len(queries))
        no_marks = np.zeros(distances.shape, np.uint8)
        counted = count_groups(distances, width, self.own, no_marks if marks is None else marks, 1)
        for number, one in enumerate(counted):
            recalls[number] = expected_overlap(self.near[number], one.groups, one.sizes, self.k)
            if marks is not None:
                aps[number] = average_precision_of_groups(one.sizes, one.hits[0], _AT)
        return recalls, None if marks is None else aps

    def as_good_itq(self) -> float | None:
        """The recall of ITQ, fitted to these items, where it finds about as much, and as much by labels.

        None too where it would take too long to know, or there are too few items for it.
        """
        bits, rows = self.index.bits, self.index.database.rows
        if bits > min(self.store.dimension, _LONGEST) or self.store.dimension > _WIDEST or len(rows) <= 2 * bits:
            return None
        fitted = np.asarray(self.store.take(rows[evenly_spread(len(rows), _TRAINED)]), np.float32)
        tensors = ITQ().fit(fitted, bits, 0)
        weight, bias = tensors["output.weight"], tensors["output.bias"]
        items = [pack(block.astype(np.float32) @ weight.T + bias) for block in self.store.blocks(rows)]
        theirs = self.scores(pack(self.query_features @ weight.T + bias), np.concatenate(items))
        pairs = zip(self.by_codes, theirs, strict=True)
        if any(_clearly_above(ours, other) for ours, other in pairs if ours is not None and other is not None):
            return None
        return float(theirs[0].mean())

    def _relevant(self) -> np.ndarray | None:
        """(Q, N) uint8, which items share a label with each query."""
        ours, theirs = self.queries.labels, self.index.database.labels
        return None if ours is None or theirs is None else share_label(ours, theirs).astype(np.uint8)


def _clearly_above(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether the mean difference of the queries' scores is above two of its standard errors."""
    difference = ours - theirs
    return bool(difference.mean() > 2 * difference.std() / np.sqrt(len(difference)))
