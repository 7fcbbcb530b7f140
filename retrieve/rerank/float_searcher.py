"""`sdc search --query float`: decides on the number of candidates, searches, describes what was done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdc.errors import SdcError
from sdc.retrieve.features import IndexFeatures
from sdc.retrieve.index import EncodedIndex
from sdc.retrieve.rerank.candidates import BY_CODES, choose_candidates, log_candidates, unmeasured
from sdc.retrieve.rerank.choices import RememberedChoices, ShortlistChoice, described
from sdc.retrieve.rerank.float_search import float_search
from sdc.retrieve.rerank.scoring import Ranking, batches
from sdc.retrieve.rerank.shortlist import RECALL, check_recall
from sdc.train import Model


@dataclass(frozen=True)
class FloatSearcher:
    """Searches with queries in float, see `sdc.retrieve.rerank.float_search`.

    Attributes:
        model: the one that encoded the index, as it did.
        k: neighbors of a query.
        candidates: how many items are scored for each query.
        choice: what was measured for that, if anything.
    """

    index: EncodedIndex
    model: Model
    k: int
    candidates: int
    choice: ShortlistChoice | None = None

    @classmethod
    def open(
        cls,
        index: EncodedIndex,
        model: Model,
        k: int,
        *,
        recall: float | None = None,
        features: IndexFeatures | None = None,
    ) -> FloatSearcher:
        """Decides how many candidates are scored: as was measured once and is remembered beside the index.

        Args:
            k: from 1 to the size of the database.
            recall: of the k best of all items; None takes `RECALL`. 1 scores every code.
            features: as `open_features` gives them; without, a rule says how many.

        Raises:
            UsageError: the recall is not above 0 and at most 1.
            SdcError: a recall is asked for, and there are no features to measure with.
        """
        if recall is not None:
            check_recall(recall)
        if recall == 1:
            return cls(index, model, k, index.ntotal)
        remembered = RememberedChoices(index)
        choice = remembered.find(k, RECALL if recall is None else recall, by=BY_CODES)
        if choice is None and features is not None:
            choice = choose_candidates(index, model, features.original, k, RECALL if recall is None else recall)
            log_candidates(choice, index)
            remembered.add(choice)
        if choice is None and recall is not None:
            raise SdcError(
                f"--recall is measured with the features of {index.path or 'the index'}, which are not at hand: say "
                "where with --features, or leave --recall out"
            )
        return cls(index, model, k, choice.shortlist if choice else unmeasured(k, index.ntotal), choice)

    def search(
        self, codes: np.ndarray, features: np.ndarray, outputs: np.ndarray, within: np.ndarray | None = None
    ) -> Iterator[Ranking]:
        """The best k of each query, batch by batch in their order; arguments as those of `Reranker.search`."""
        for part in batches(len(codes), self.k):
            yield float_search(
                self.index, self.model, features[part], self.k,
                candidates=self.candidates, codes=codes[part], outputs=outputs[part], within=within,
            )  # fmt: skip

    def explain(self) -> str:
        """What is done, in words for `--explain`."""
        by = "outputs" if self.model.tables is None else "byte tables"
        if self.candidates >= self.index.ntotal:
            return f"every code is scored by {by}"
        how = "by a rule, since nothing was measured"
        if self.choice is not None:
            how = f"which hold {self.choice.achieved:.3f} of the {self.k} best of all"
        return f"{self.candidates} candidates of each query are scored by {by}, {how}"

    @property
    def measure(self) -> str:
        """What the order goes by, under its name in the JSON."""
        return "score"

    def described(self) -> dict[str, Any]:
        """What was done, for the JSON of `sdc search`."""
        by = "outputs" if self.model.tables is None else "tables"
        return {"by": by, "candidates": self.candidates} | described(self.choice)
