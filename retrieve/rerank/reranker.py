"""`sdc search --rerank`: opens what it reads, decides on the size of the shortlist, describes what was done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.retrieve.features import IndexFeatures, Precision, check_precision, encoded_features, missing_features
from sdc.retrieve.index import EncodedIndex
from sdc.retrieve.origin import Origin
from sdc.retrieve.queries import Queries
from sdc.retrieve.rerank import shortlist
from sdc.retrieve.rerank.choices import RememberedChoices, ShortlistChoice, described
from sdc.retrieve.rerank.scoring import WIDTH, Factor, Ranking, batches, rerank_positions, shortlist_size
from sdc.retrieve.rerank.shortlist import RECALL
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
        features: IndexFeatures | None = None,
        verify: bool = True,
    ) -> Reranker:
        """Decides on a shortlist.

        Args:
            k: from 1 to the size of the database.
            recall: for `auto`; None takes `RECALL`.
            features: as `open_features` gives them; None leaves the order to the codes.
            verify: check every byte of the features where `auto` goes over all of them. A search as such reads a few
                rows of them, and checks no more than that they are the ones that were encoded.

        Raises:
            SdcError: `auto` has no features to measure with, or they are damaged.
        """
        if factor != "auto":
            return cls(index, model, features, k, shortlist_size(k, factor, index.ntotal))
        if features is None:
            raise SdcError(
                f"--rerank auto measures with the features of {index.path or 'the index'}, which are not at hand: say "
                "where with --features (attach in Python)"
            )
        choice = _measured(index, model, k, RECALL if recall is None else recall, features, verify=verify)
        shortlist.log_choice(choice, index, features)
        return cls(index, model, features, k, choice.shortlist, choice)

    @property
    def tables(self) -> ByteTables | None:
        """What scores the codes, where the model has such."""
        return None if self.model.tables is None else self.model.tables.decoder

    @property
    def candidates(self) -> int:
        """How many items the index has to find for each query."""
        return min(self.index.ntotal, WIDTH * self.shortlist)

    def features_and_outputs(self, parts: Sequence[Queries]) -> tuple[np.ndarray, np.ndarray]:
        """See `features_and_outputs`."""
        return features_and_outputs(parts, self.index, self.model, self.store, "--rerank")

    def search(
        self, codes: np.ndarray, features: np.ndarray, outputs: np.ndarray, within: np.ndarray | None = None
    ) -> Iterator[Ranking]:
        """The best k of each query, batch by batch in their order.

        Args:
            codes: (Q, bits // 8) uint8, what is searched with.
            features: (Q, d), the queries' own, and
            outputs: (Q, bits), the model's of them.
            within: search these rows alone; all without.
        """
        for part in batches(len(codes), self.candidates):
            distances, positions = self.index.search_positions(codes[part], self.candidates, within=within)
            yield self.rerank(distances, positions, features[part], outputs[part])

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
        return facts_of(self.candidates, self.index.bits, self.store, self.shortlist) | described(self.choice)


def facts_of(candidates: int, bits: int, store: IndexFeatures | None, shortlist: int) -> dict[str, Any]:
    """What reranking does to candidates of so many bits, for the JSON of `sdc search`."""
    facts: dict[str, Any] = {"by": "codes" if store is None else "features", "candidates": candidates}
    facts["bytes"] = {"codes": candidates * bits // 8, "features": 0}
    if store is not None:
        facts["shortlist"] = shortlist
        facts["precision"] = store.precision
        facts["bytes"]["features"] = shortlist * store.row_bytes
    return facts


def features_and_outputs(
    parts: Sequence[Queries], index: Origin, model: Model, store: IndexFeatures | None, option: str
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, d) float32 and (Q, bits) of all queries; those of items of the index are read and computed here.

    Args:
        store: the features of the index, where they are at hand.
        option: that of the command which needs them, for the error.

    Raises:
        SdcError: they are needed, and not at hand.
    """
    pairs = []
    for queries in parts:
        features, outputs = queries.features, queries.outputs
        if features is None or outputs is None:
            if store is None:
                raise SdcError(
                    f"{option} needs the queries' own features, but those of {index.path} are not at hand: "
                    f"say where with --features, or search without {option}"
                )
            assert queries.rows is not None
            features = np.asarray(store.original.take(queries.rows), np.float32)
            outputs = model.outputs(features)
        pairs.append((features, outputs))
    return np.concatenate([features for features, _ in pairs]), np.concatenate([outputs for _, outputs in pairs])


def open_features(
    index: EncodedIndex,
    model: Model,
    path: Path | None = None,
    precision: Precision = "stored",
    *,
    needed: bool = False,
) -> IndexFeatures | None:
    """The features an index was encoded from, for reranking; None, which is logged, where they are not at hand.

    Args:
        model: the one that encoded the index.
        path: where they are; None takes the recorded path.
        precision: `stored`, or a copy in `float16` or `int8`, which is made where there is none.
        needed: raise where they are not at hand, too.

    Raises:
        UsageError: other features than the index was encoded from.
        SdcError: they are missing, though they were named or are needed, or damaged.
    """
    missing = missing_features(index) if path is None and not needed else None
    if missing:
        log_missing(missing, model)
        return None
    store = encoded_features(index, path, verify=False, precision=precision)
    store.read_at_random()
    return store


def own_features(
    index: EncodedIndex, path: Path | None = None, *, needed: bool = False
) -> tuple[IndexFeatures | None, str | None]:
    """The features an index was encoded from, for queries in float; or None and why they cannot be read, a clause.

    Args:
        path: where they are; None takes the recorded path.
        needed: raise where others lie there now, as where they were named.
    """
    if path is None and (missing := missing_features(index)) is not None:
        return None, f"they are not {missing}"
    try:
        return encoded_features(index, path, verify=False), None
    except SdcError as error:
        if path is not None or needed:
            raise
        return None, str(error)


def log_missing(missing: str, model: Model) -> None:
    """Says that the features are not `recorded`, or not `at` a path, and what takes their place."""
    log.info(
        "the features are not %s: the order is by codes alone (%s); say where they are with --features (attach in "
        "Python)",
        missing, "asymmetric distance" if model.tables is None else "byte tables",
    )  # fmt: skip


def _measured(
    index: EncodedIndex, model: Model, k: int, recall: float, features: IndexFeatures, *, verify: bool
) -> ShortlistChoice:
    """The choice that is remembered beside the index, or measured now."""
    shortlist.check_recall(recall)
    remembered = RememberedChoices(index)
    choice = remembered.find(k, recall, features.precision)
    if choice is None:
        original = features.original
        for each in {id(store): store for store in (original, features) if verify}.values():
            each.verify()
        copy = None if original is features else features
        choice = shortlist.choose(index, model, original, k, recall, copy=copy, precision=features.precision)
        remembered.add(choice)
    return choice


def check_rerank(factor: Factor | None, recall: float | None, precision: str = "stored") -> None:
    """Raises UsageError unless the factor is a number from 1 on or `auto`, and recall and precision fit it."""
    check_precision(precision)
    if factor is None and precision != "stored":
        raise UsageError("--precision says which features --rerank compares: give it with that")
    if isinstance(factor, str) and factor != "auto":
        raise UsageError(f"--rerank must be a number from 1 on, or auto; found {factor!r}")
    if factor is not None and not isinstance(factor, str):
        shortlist_size(1, factor, 1)
    if recall is not None:
        if factor != "auto":
            raise UsageError("--recall says what --rerank auto has to reach: give it with that")
        shortlist.check_recall(recall)
