"""The interface of an engine to `sdc push` and `sdc search`, and the record that a collection keeps of its index."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.retrieve.engines.urls import Target

MOST_ROWS = 16384  # of a batch: the most that Milvus returns to a query, so that a batch can be looked at as a whole
_FORMAT = 1


@dataclass(frozen=True)
class Record:
    """What a collection or table holds, written into it when it is made.

    Attributes:
        fingerprint: of the items that are pushed, and of the model that encoded them.
        bits: of a code.
        count: codes in the index.
        labels: none, one a code, or many (multi-hot).
        index_type: flat, ivf or hnsw.
        metadata: model and features of the index, with absolute paths; see `sdc.retrieve.index.Index.metadata`. And
            `classes`, the names of its classes, where they have any.
    """

    fingerprint: str
    bits: int
    count: int
    labels: str
    index_type: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """The fields that must agree for a push to continue one that was cut off."""
        return {name: value for name, value in asdict(self).items() if name != "metadata"}

    def text(self) -> str:
        return json.dumps({"sdc_push": _FORMAT, **asdict(self)}, ensure_ascii=True, sort_keys=True)

    @classmethod
    def of_text(cls, text: str | None) -> Record | None:
        """The inverse of `text`; None where it is no text of ours."""
        try:
            values = json.loads(text or "")
        except ValueError:
            return None
        if not isinstance(values, dict) or values.pop("sdc_push", None) != _FORMAT:
            return None
        kinds = {"bits": int, "count": int, "metadata": dict}
        names = [each.name for each in fields(cls)]
        if sorted(values) != sorted(names) or not all(isinstance(values[n], kinds.get(n, str)) for n in names):
            return None
        return cls(**values)


class PushBatch(NamedTuple):
    """Codes on their way: rows (n,) int64, ids, codes (n, bits // 8) uint8; a label each, a list of them, or none."""

    rows: np.ndarray
    ids: list[str]
    codes: np.ndarray
    labels: list[int] | list[list[int]] | None


class Hits(NamedTuple):
    """The neighbors of one query, ordered by (distance, row): (n,) int64, (n,) int32, n ids, and n labels.

    A label is a number, or a list of them; None where the codes have none. The codes, (n, bits // 8) uint8, are there
    where they were asked for.
    """

    rows: np.ndarray
    distances: np.ndarray
    ids: list[str]
    labels: list[Any] | None = None
    codes: np.ndarray | None = None

    @classmethod
    def sorted(
        cls,
        rows: Sequence[int],
        distances: Sequence[float],
        ids: Sequence[str],
        labels: Sequence[Any] | None = None,
        codes: np.ndarray | None = None,
    ) -> Hits:
        number, distance = np.array(rows, np.int64), np.array(distances).astype(np.int32)
        listed = None if labels is None else list(labels)
        return cls(number, distance, list(ids), listed, codes).take(np.lexsort((number, distance)))

    def take(self, places: np.ndarray) -> Hits:
        """Those at these places, in their order."""
        labels = None if self.labels is None else [self.labels[place] for place in places]
        codes = None if self.codes is None else self.codes[places]
        return Hits(self.rows[places], self.distances[places], [self.ids[place] for place in places], labels, codes)

    def within(self, radius: int) -> Hits:
        """Those within a distance, inclusive."""
        return self.take(np.arange(np.searchsorted(self.distances, radius, side="right")))


class Engine(ABC):
    """One collection or table of an engine; open from construction to `close`.

    Its methods raise SdcError where the engine refuses, cannot be reached, or has something else under that name. A
    constructor takes the target, and `create`: an embedded engine's file may be made.

    Attributes:
        title: its name in messages.
        form: the form of its URLs, for messages.
        index_types: what `--index-type` may be; the first is exact.
        longest_id: most bytes of an id; None where any fits.
        most: neighbors of a query.
    """

    title: ClassVar[str]
    form: ClassVar[str]
    index_types: ClassVar[tuple[str, ...]]
    longest_id: ClassVar[int | None] = None
    most: ClassVar[int]

    @abstractmethod
    def __init__(self, target: Target, *, create: bool = False) -> None: ...

    @staticmethod
    @abstractmethod
    def parse(url: str) -> Target:
        """Takes one of its URLs apart; raises UsageError, which says what is wrong with it."""

    @classmethod
    def types_at(cls, target: Target) -> tuple[str, ...]:
        """Those of `index_types` that there are at this target."""
        return cls.index_types

    @abstractmethod
    def record(self) -> Record | None:
        """The record of what was pushed there; None where there is nothing of that name.

        Raises:
            SdcError: what is there is not from `sdc push`.
        """

    @abstractmethod
    def create(self, record: Record) -> None: ...

    @abstractmethod
    def drop(self) -> None: ...

    @abstractmethod
    def insert(self, batch: PushBatch) -> None: ...

    @abstractmethod
    def present(self, first: int, last: int) -> np.ndarray:
        """Those rows from `first` to `last` inclusive that are there, at most `MOST_ROWS` apart; in any order."""

    @abstractmethod
    def finish(self, record: Record) -> None:
        """Makes what was inserted durable and indexed, and waits for it; does nothing where it is already."""

    @abstractmethod
    def count(self, labels: Sequence[int] = ()) -> int:
        """Codes there; with labels those that have one of them."""

    @abstractmethod
    def find(self, names: Sequence[str]) -> dict[str, tuple[np.ndarray, int]]:
        """Of each id that is there, the code (bits // 8,) uint8 and row of its first item."""

    @abstractmethod
    def search(
        self,
        codes: np.ndarray,
        k: int,
        *,
        radius: int | None = None,
        labels: Sequence[int] = (),
        nprobe: int | None = None,
        exact: bool = False,
        with_codes: bool = False,
    ) -> list[Hits]:
        """The k nearest of each query (Q, bits // 8); with a radius those of them within it, inclusive.

        Args:
            nprobe: lists to scan of an index of type ivf; None takes a sixteenth.
            exact: miss nothing, though the index be approximate; always so with a radius.
        """

    @abstractmethod
    def close(self) -> None: ...


def client(module: str, extra: str) -> Any:
    """Imports an engine's client.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{module} cannot be imported ({error}): install it with `pip install 'sdc-hash[{extra}]'`"
        ) from None


def foreign(target: Target, what: str, names: Sequence[str]) -> SdcError:
    """The error for something of that name that `sdc push` did not make; it is never replaced.

    Args:
        what: fields or columns.
        names: theirs, with their types.
    """
    listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return SdcError(
        f"{target.url} exists, but `sdc push` did not make it (its {what} are {listed}): choose another name, or "
        "remove it yourself"
    )
