"""Shortlists and numbers of candidates that were chosen by measuring, remembered beside an index in
db.bin.rerank.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sdc.errors import SdcError, log
from sdc.files import atomic_write, seal, unseal

_LATER = {"precision": "stored", "by": "features"}  # what an older sdc did not write
_KEPT = 100  # choices that are remembered, those made last


class Chosen(Protocol):
    """What choices are made for: an index."""

    @property
    def path(self) -> Path | None: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def search_options(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ShortlistChoice:
    """A shortlist, or the candidates of a query in float, for one k and recall, and what it achieved.

    Attributes:
        k: neighbors.
        recall: asked for: the mean share of the k nearest by the features' cosine that are in the shortlist.
        shortlist: how many items.
        achieved: the recall of queries by shortlists that others chose, in ten turns.
        error: its standard error.
        queries: how many; 0 where there was nothing to measure, since everything is in the shortlist.
        of: where they are from: the `query` split, or the `database` with their own rows left out.
        search_options: those of the index, such as nprobe of type ivf: with others it would achieve something else.
        precision: of the features that are compared, see `sdc.retrieve.features.PRECISIONS`; so would this one.
        by: `features`: a shortlist of theirs. `codes`: candidates that are scored by their codes, of which the recall
            is that of the k best of all items.
    """

    k: int
    recall: float
    shortlist: int
    achieved: float
    error: float
    queries: int
    of: str
    search_options: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "stored"
    by: str = "features"

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ShortlistChoice:
        fields = {**_LATER, **fields}
        names = cls.__dataclass_fields__.keys() - {"search_options"}
        options = {name: value for name, value in fields.items() if name not in names and value is not None}
        return cls(**{name: fields[name] for name in names}, search_options=options)

    def to_json(self) -> dict[str, Any]:
        """As JSON: the search options stand among the fields, nprobe in any case, as it always has."""
        fields = asdict(self)
        options = fields.pop("search_options")
        for name, value in _LATER.items():
            if fields[name] == value:
                del fields[name]
        return {**fields, "nprobe": None, **options}


def described(choice: ShortlistChoice | None) -> dict[str, Any]:
    """What was measured, if anything, for the JSON of `sdc search`."""
    if choice is None or not choice.queries:
        return {}
    return {
        "recall": {
            "asked": choice.recall, "achieved": choice.achieved, "error": choice.error, "queries": choice.queries,
            "measured_on": "query split" if choice.of == "query" else "database rows",
        }
    }  # fmt: skip


class RememberedChoices:
    """The choices that are remembered beside an index; none where the file is of another index, or damaged."""

    def __init__(self, index: Chosen) -> None:
        self._index = index
        self._path = None if index.path is None else index.path.with_name(f"{index.path.name}.rerank.json")
        self._choices = [] if self._path is None else _read(self._path, index)

    def find(self, k: int, recall: float, precision: str = "stored", by: str = "features") -> ShortlistChoice | None:
        """The choice for all these and the search options of the index; None where there is none."""
        asked = (k, recall, precision, by, self._index.search_options)
        known = ((each, (each.k, each.recall, each.precision, each.by, each.search_options)) for each in self._choices)
        return next((each for each, of in known if of == asked), None)

    def add(self, choice: ShortlistChoice) -> None:
        """Remembers one more; logs a warning where it cannot be written."""
        if self._path is None:
            return
        kept = (*self._choices, choice)[-_KEPT:]
        content = {"index": self._index.fingerprint, "choices": [each.to_json() for each in kept]}
        try:
            with atomic_write(self._path) as temporary:
                temporary.write_text(json.dumps(seal(content), indent=1), encoding="utf-8")
        except SdcError as error:
            reason = str(error).partition("; choose another --out")[0]  # of which a search has none
            log.warning("what was measured is not remembered: %s", reason)


def _read(path: Path, index: Chosen) -> list[ShortlistChoice]:
    try:
        content = unseal(json.loads(path.read_bytes()))
        same = content["index"] == index.fingerprint
        return [ShortlistChoice.from_json(choice) for choice in content["choices"]] if same else []
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("%s cannot be read (%s): measuring anew", path, error)
        return []
