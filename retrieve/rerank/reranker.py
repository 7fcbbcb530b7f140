"""`sdc search --rerank`: opens what it reads, decides on the size of the shortlist, describes what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.retrieve.features import IndexFeatures, encoded_features, missing_features
from sdc.retrieve.index import EncodedIndex
from sdc.retrieve.queries import Queries
from sdc.retrieve.rerank import shortlist
from sdc.retrieve.rerank.scoring import WIDTH, Factor, Ranking, rerank_positions, shortlist_size
from sdc.retrieve.rerank.shortlist import RECALL, RememberedChoices, ShortlistChoice
from sdc.train import ByteTables, Model


@dataclass(frozen=True)
class Reranker:
    """Reranks what the index finds.

    Attributes:
        model: the one that encoded the index, as it did.
        store: the features the index was encoded from; None where they are not at hand, so that the score by codes
            gives the final order.
        k: neighbors of a query.
        shortlist: how many of the candidates are compared by their features.
        choice: what chose the shortlist, with `auto`.
    """

    index: EncodedIndex
    model: Model
    store: IndexFeatures | None
    k: int
    shortlist: int
    choice: ShortlistChoice | None = None

    @classmethod
    def open(
        cls,
        index: EncodedIndex,
        model: Model,
        k: int,
        factor: Factor,
        *,
        recall: float | None = None,
        features: Path | None = None,
        verify: bool = True,
    ) -> Reranker:
        """Opens the features and decides on a shortlist.

        Args:
            k: from 1 to the size of the database.
            features: where they are; None takes the recorded path.
            verify: check every byte of the features where `auto` goes over all of them. A search as such reads a few
                rows of them, and checks no more than that they are the ones that were encoded.

        Raises:
            UsageError: other features than the index was encoded from.
            SdcError: the features are damaged; or missing, though they were named or are needed for `auto`.
        """
        choice, size = None, 0
        if factor == "auto":
            store, choice = _measured(index, model, k, RECALL if recall is None else recall, features, verify=verify)
            shortlist.log_choice(choice, index, store)
            size = choice.shortlist
        else:
            size = shortlist_size(k, factor, index.ntotal)
            missing = missing_features(index) if features is None else None
            if missing:
                log.info(
                    "the features are not %s: the order is by codes alone (%s); --features says where they are",
                    missing, "asymmetric distance" if model.tables is None else "byte tables",
                )  # fmt: skip
                return cls(index, model, None, k, size)
            store = encoded_features(index, features, verify=False)
        store.read_at_random()
        return cls(index, model, store, k, size, choice)

    @property
    def tables(self) -> ByteTables | None:
        """What scores the codes, where the model has such."""
        return None if self.model.tables is None else self.model.tables.decoder

    @property
    def candidates(self) -> int:
        """How many items the index has to find for each query."""
        return min(self.index.ntotal, WIDTH * self.shortlist)

    def features_and_outputs(self, parts: Sequence[Queries]) -> tuple[np.ndarray, np.ndarray]:
        """(Q, d) float32 and (Q, bits) of all queries; those of items of the index are read and computed here.

        Raises:
            SdcError: they are needed, and not at hand.
        """
        pairs = [self._read(part) for part in parts]
        return np.concatenate([features for features, _ in pairs]), np.concatenate([outputs for _, outputs in pairs])

    def _read(self, queries: Queries) -> tuple[np.ndarray, np.ndarray]:
        if queries.features is not None and queries.outputs is not None:
            return queries.features, queries.outputs
        if self.store is None:
            raise SdcError(
                f"--rerank needs the queries' own features, but those of {self.index.path} are not at hand: "
                "say where with --features, or search without --rerank"
            )
        assert queries.rows is not None
        features = np.asarray(self.store.take(queries.rows), np.float32)
        return features, self.model.outputs(features)

    def rerank(
        self, distances: np.ndarray, positions: np.ndarray, features: np.ndarray, outputs: np.ndarray
    ) -> Ranking:
        """The best k of each query among its candidates (Q, M).

        Args:
            distances, positions: what `Index.search_positions` found.
            features: (Q, d), the queries' own, and
            outputs: (Q, bits), the model's of them.
        """
        if self.store is None:
            queries = None if self.tables is None else features
            return rerank_positions(
                self.index, distances, positions, outputs, self.k, queries=queries, tables=self.tables
            )
        return rerank_positions(
            self.index, distances, positions, outputs, self.k,
            shortlist=self.shortlist, queries=features, features=self.store, tables=self.tables,
        )  # fmt: skip

    @property
    def measure(self) -> str:
        """What the final order goes by, under its name in the JSON."""
        return "score" if self.store is None else "similarity"

    def described(self) -> dict[str, Any]:
        """What was done, for the JSON of `sdc search`."""
        facts: dict[str, Any] = {"by": "codes" if self.store is None else "features", "candidates": self.candidates}
        if self.store is not None:
            facts["shortlist"] = self.shortlist
        if self.choice is not None and self.choice.queries:
            facts["recall"] = {
                "asked": self.choice.recall, "achieved": self.choice.achieved,
                "error": self.choice.error, "queries": self.choice.queries,
            }  # fmt: skip
        return facts


def _measured(
    index: EncodedIndex, model: Model, k: int, recall: float, features: Path | None, *, verify: bool
) -> tuple[IndexFeatures, ShortlistChoice]:
    """The features, opened once, and the choice that is remembered beside the index or measured now."""
    shortlist.check_recall(recall)
    remembered = RememberedChoices(index)
    choice = remembered.find(k, recall)
    store = encoded_features(index, features, verify=verify and choice is None)
    if choice is None:
        choice = shortlist.choose(index, model, store, k, recall)
        remembered.add(choice)
    return store, choice


def check_rerank(factor: Factor | None, recall: float | None) -> None:
    """Raises UsageError unless the factor is a number from 1 on or `auto`, and recall fits it."""
    if isinstance(factor, str) and factor != "auto":
        raise UsageError(f"--rerank must be a number from 1 on, or auto; found {factor!r}")
    if factor is not None and not isinstance(factor, str):
        shortlist_size(1, factor, 1)
    if recall is not None:
        if factor != "auto":
            raise UsageError("--recall says what --rerank auto has to reach: give it with that")
        shortlist.check_recall(recall)
