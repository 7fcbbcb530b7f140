"""What `sdc push` and `sdc search` ask of an engine, and what a collection says of itself."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, Protocol

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.retrieve.engines.urls import Target

MOST_ROWS = 16384  # of a batch: the most that Milvus returns to a query, so that a batch can be looked at as a whole
LONGEST_ID = 65535  # bytes of a VARCHAR of Milvus
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
        metadata: model and features of the index, with absolute paths; see `sdc.retrieve.index.Index.metadata`.
    """

    fingerprint: str
    bits: int
    count: int
    labels: str
    index_type: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def lists(self) -> int:
        """Of type ivf: about 4·√N, each with enough codes to be trained on."""
        return int(max(1, min(4 * self.count**0.5, self.count / 39, 65536)))

    def probes(self, nprobe: int | None = None) -> int:
        """Lists that a search scans: a sixteenth, unless told otherwise."""
        return min(self.lists, nprobe or max(8, self.lists // 16))

    def identity(self) -> dict[str, Any]:
        """What must agree for a push to go on with what is there."""
        return {name: value for name, value in asdict(self).items() if name != "metadata"}

    def text(self) -> str:
        return json.dumps({"sdc_push": _FORMAT, **asdict(self)}, ensure_ascii=True, sort_keys=True)

    @classmethod
    def of_text(cls, text: str | None) -> Record | None:
        """The inverse of `text`; None where it is no text of ours."""
        try:
            found = json.loads(text or "")
        except ValueError:
            return None
        if not isinstance(found, dict) or found.pop("sdc_push", None) != _FORMAT:
            return None
        kinds = {"bits": int, "count": int, "metadata": dict}
        names = [each.name for each in fields(cls)]
        if sorted(found) != sorted(names) or not all(isinstance(found[n], kinds.get(n, str)) for n in names):
            return None
        return cls(**found)


class Batch(NamedTuple):
    """Codes on their way: rows (n,) int64, ids, codes (n, bits // 8) uint8; a label each, a list of them, or none."""

    rows: np.ndarray
    ids: list[str]
    codes: np.ndarray
    labels: list[int] | list[list[int]] | None


class Hits(NamedTuple):
    """What one query found, ordered by (distance, row): (n,) int64, (n,) int32, and n ids."""

    rows: np.ndarray
    distances: np.ndarray
    ids: list[str]

    @classmethod
    def sorted(cls, rows: Sequence[int], distances: Sequence[float], ids: Sequence[str]) -> Hits:
        number, distance = np.array(rows, np.int64), np.array(distances).astype(np.int32)
        order = np.lexsort((number, distance))
        return cls(number[order], distance[order], [ids[place] for place in order])


class Engine(Protocol):
    """One collection of Milvus or one table of PostgreSQL; open from construction to `close`.

    Its methods raise SdcError where the engine refuses, cannot be reached, or holds something else under that name.
    """

    most: int  # neighbours of a query

    def record(self) -> Record | None:
        """What was pushed there; None where there is nothing of that name. SdcError: it is not from `sdc push`."""

    def create(self, record: Record) -> None: ...

    def drop(self) -> None: ...

    def insert(self, batch: Batch) -> None: ...

    def present(self, first: int, last: int) -> np.ndarray:
        """Those rows from `first` to `last` inclusive that are there, at most `MOST_ROWS` apart; in any order."""

    def finish(self, record: Record) -> None:
        """Makes what was inserted durable and indexed, and waits for it; does nothing where it is already."""

    def count(self, labels: Sequence[int] = ()) -> int:
        """Codes there; with labels those that have one of them."""

    def find(self, names: Sequence[str]) -> dict[str, tuple[np.ndarray, int]]:
        """Of each id that is there, the code (bits // 8,) uint8 and row of its first item."""

    def search(
        self,
        codes: np.ndarray,
        k: int,
        *,
        radius: int | None = None,
        labels: Sequence[int] = (),
        nprobe: int | None = None,
        exact: bool = False,
    ) -> list[Hits]:
        """The k nearest of each query (Q, bits // 8); with a radius those of them within it, inclusive.

        Args:
            nprobe: lists to scan of an index of type ivf; None takes a sixteenth.
            exact: miss nothing, though the index be approximate.
        """

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
    """The error for something of that name that is not ours; it is never replaced.

    Args:
        what: fields or columns.
        names: theirs, with their types.
    """
    listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return SdcError(
        f"{target.url} exists, but `sdc push` did not make it (its {what} are {listed}): choose another name, or "
        "remove it yourself"
    )
