"""What a search is asked to do; the defaults are the command's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdc.errors import UsageError, unknown_name_error
from sdc.retrieve.features import Precision
from sdc.retrieve.rerank import READINGS, Factor, Reading, check_rerank


@dataclass(frozen=True)
class SearchSettings:
    """What `sdc search` does; the defaults are the command's. Without queries, images or ids: the query split.

    Attributes:
        index: a db.bin; or the URL of what `sdc push` made, for `sdc.retrieve.engines.search`.
        queries: a file of query vectors, of any format `sdc import` reads.
        images: image files, embedded by the backbone recorded with the features.
        ids: items of the database or the query split, by id.
        limit: at most so many queries; None takes all.
        k: neighbors a query; more than there are returns all.
        radius: everything within this Hamming distance, inclusive, instead of the k nearest; exact in any index.
        only_ids: a file with an id a line: search these alone.
        only_labels: search what has one of these labels alone: names of classes, or numbers.
        rerank: the factor that makes k the size of the shortlist whose features are compared, at least 1; `auto`
            measures which reaches `recall`. None leaves the order by Hamming distance.
        query: `code` compares queries by their codes, `float` in float with what codes decode to (or by the
            asymmetric score, where the model has no byte tables). None takes float where there are byte tables and the
            queries' features are at hand.
        recall: for `auto`, of the k nearest by the features' cosine; for queries in float, of the k best of all items,
            where 1 scores every code. None takes 0.95.
        features: the features the index was encoded from, for reranking and for queries in float that are items;
            None takes the recorded path.
        precision: of these features: as they are `stored`, or read from a copy in `float16` or `int8` beside them,
            which is made where there is none.
        model: the model that encoded the index; None takes the recorded path.
        weights: the backbone's weights for images, where they can't be had by their tag.
        nprobe: lists of an IVF index to scan; None takes what it was made with.
        explain: log how the search is carried out, and why.
        verify: check every byte of the index.
    """

    index: Path | str = Path("db.bin")
    queries: Path | None = None
    images: tuple[Path, ...] = ()
    ids: tuple[str, ...] = ()
    limit: int | None = None
    k: int = 10
    radius: int | None = None
    only_ids: Path | None = None
    only_labels: tuple[int | str, ...] = ()
    rerank: Factor | None = None
    query: Reading | None = None
    recall: float | None = None
    features: Path | None = None
    precision: Precision = "stored"
    model: Path | None = None
    weights: str | None = None
    nprobe: int | None = None
    explain: bool = False
    verify: bool = True

    def check_counts(self) -> None:
        """Raises UsageError unless limit and k are at least 1."""
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be at least 1, found {self.limit}")
        if self.k < 1:
            raise UsageError(f"k must be at least 1, found {self.k}")

    def check(self) -> None:
        """Raises UsageError unless limit and k are at least 1, and the other settings fit together."""
        self.check_counts()
        if self.query is not None and self.query not in READINGS:
            raise unknown_name_error("reading", self.query, READINGS)
        in_float = self.rerank is None and self.query != "code" and self.radius is None
        check_rerank(self.rerank, None if in_float else self.recall, self.precision)
        if self.radius is not None and self.rerank is not None:
            raise UsageError(
                "--radius lists all within a Hamming distance, --rerank orders the k nearest: give one of them"
            )
        if self.rerank is not None and self.query == "code":
            raise UsageError("--rerank compares queries in float: leave out --query code, or --rerank")
