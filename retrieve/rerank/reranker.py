"""The second stage of `sdc search`, `--rerank`: what it reads, how wide it is, and what it says of itself."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.retrieve.features.feature_source import Sources, encoded_features, lacking
from sdc.retrieve.index import Index
from sdc.retrieve.rerank import shortlist
from sdc.retrieve.rerank.scoring import WIDTH, Reranked, rerank, shortlist_size
from sdc.retrieve.rerank.shortlist import RECALL, Choice
from sdc.train.model import Model

Factor = float | Literal["auto"]


@dataclass(frozen=True)
class SecondStage:
    """Reranks what the index finds.

    Attributes:
        model: the one that encoded the index, as it did: gives the queries' real outputs.
        store: the features the index was encoded from; None where they are not at hand, so that the asymmetric
            score gives the final order.
        k: neighbours of a query.
        shortlist: how many of the candidates are compared by their features.
        choice: what chose the shortlist, with `auto`.
    """

    index: Index
    model: Model
    store: Sources | None
    k: int
    shortlist: int
    choice: Choice | None = None

    @classmethod
    def of(
        cls,
        index: Index,
        model: Model,
        k: int,
        factor: Factor,
        *,
        recall: float | None = None,
        features: Path | None = None,
        verify: bool = True,
    ) -> SecondStage:
        """Opens the features and settles on a shortlist.

        Args:
            k: from 1 to the size of the database.
            features: where they are; None takes the recorded path.
            verify: check every byte of the features where `auto` goes over all of them. A search as such reads a few
                rows of them, and checks no more than that they are the ones that were encoded.

        Raises:
            UsageError: other features than the index was encoded from.
            SdcError: the features are damaged; or missing, though they were named or are needed for `auto`.
        """
        store = _features(index, features, needed=factor == "auto")
        if factor != "auto":
            return cls(index, model, store, k, shortlist_size(k, factor, index.ntotal))
        assert store is not None
        choice = shortlist.tuned(index, model, features, k, RECALL if recall is None else recall, verify=verify)
        shortlist.say(choice, index, store)
        return cls(index, model, store, k, choice.shortlist, choice)

    @property
    def candidates(self) -> int:
        """How many items the index has to find for each query."""
        return min(self.index.ntotal, WIDTH * self.shortlist)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The features of queries that are items of the index.

        Raises:
            SdcError: they are not at hand.
        """
        if self.store is None:
            raise SdcError(
                f"--rerank needs the queries' own features, but those of {self.index.path} are not at hand: "
                "say where with --features, or search without --rerank"
            )
        return self.store.take(rows)

    def refine(self, distances: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> Reranked:
        """The best k of each query (Q, d) among the candidates (Q, M) that the index found."""
        outputs = self.model.outputs(vectors)
        if self.store is None:
            return rerank(self.index, distances, rows, outputs, self.k)
        return rerank(
            self.index, distances, rows, outputs, self.k,
            shortlist=self.shortlist, queries=vectors, features=self.store,
        )  # fmt: skip

    @property
    def measure(self) -> str:
        """What the final order goes by, under its name in the JSON."""
        return "score" if self.store is None else "similarity"

    def described(self) -> dict[str, Any]:
        """What was done, for the JSON of `sdc search`."""
        found: dict[str, Any] = {"by": "codes" if self.store is None else "features", "candidates": self.candidates}
        if self.store is not None:
            found["shortlist"] = self.shortlist
        if self.choice is not None and self.choice.queries:
            found["recall"] = {
                "asked": self.choice.recall, "achieved": self.choice.achieved,
                "error": self.choice.error, "queries": self.choice.queries,
            }  # fmt: skip
        return found


def _features(index: Index, path: Path | None, *, needed: bool) -> Sources | None:
    if path is None and not needed:
        missing = lacking(index)
        if missing:
            log.info(
                "the features are not %s: the order is by codes alone (asymmetric distance); --features says where "
                "they are", missing,
            )  # fmt: skip
            return None
    store = encoded_features(index, path, verify=False)
    for part in store.stores:
        mapped: Any = part.features.base
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)  # else the system reads 30 times as much around each row
    return store


def check(factor: Factor | None, recall: float | None) -> None:
    """Raises UsageError unless the factor is a number from 1 on or `auto`, and recall fits it."""
    if isinstance(factor, str) and factor != "auto":
        raise UsageError(f"--rerank must be a number from 1 on, or auto; found {factor!r}")
    if factor is not None and not isinstance(factor, str):
        shortlist_size(1, factor, 1)
    if recall is not None:
        if factor != "auto":
            raise UsageError("--recall says what --rerank auto has to reach: give it with that")
        shortlist.check_recall(recall)
