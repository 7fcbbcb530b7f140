"""`EncodedIndex`: a database of codes that knows where they come from, whoever built or opened it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sdc.errors import UsageError
from sdc.files import checksum as checksum_of
from sdc.files import fingerprint, linked_file
from sdc.retrieve.index.delta import Identity, Manifest, MergedView
from sdc.retrieve.index.index_types import IndexType, Searcher
from sdc.retrieve.index.records import Records
from sdc.retrieve.index.searchable import Searchable


class EncodedIndex(Searchable):
    """What `Index` is once it is there: what may be asked of it, but not how it is built, opened and saved.

    Attributes:
        type: its type, see `sdc.retrieve.index.INDEX_TYPES`.
        queries: the query split's, where `sdc encode` stored one.
        metadata: what db.bin says of itself: count, bits, bit_order, index_type, version; where another type than flat
            was asked for, plan (the fields of `IndexChoice`); and, from `sdc encode`, model, features ({path,
            fingerprint, …}, the path relative to db.bin's folder) and settings. Where the model's batch norm was
            re-centred, model has the mean it was given: {recentered: {mean: K numbers}}. Where items were added,
            sources (the fields of `sdc.retrieve.index.Source`).
        path: the file it was opened from, if any.
        checksum: of db.bin, without its changes; None where plain FAISS wrote it, or there is no file.
        changes: what was added and removed since db.bin was written, if anything.
    """

    def __init__(
        self,
        searcher: Searcher,
        index_type: IndexType,
        database: Records | MergedView,
        queries: Records | None,
        metadata: Mapping[str, Any],
        path: Path | None = None,
        checksum: str | None = None,
        changes: Manifest | None = None,
        files: tuple[Identity, Identity] | None = None,
    ) -> None:
        self.type, self.queries, self.metadata, self.path = index_type, queries, dict(metadata), path
        super().__init__(searcher, database if isinstance(database, MergedView) else MergedView(database))
        self.checksum, self.changes, self._files = checksum, changes, files
        if queries is not None:
            self.items.check(queries)

    def __repr__(self) -> str:
        return f"<Index of {self.ntotal} codes of {self.bits} bits{f' from {self.path}' if self.path else ''}>"

    @property
    def vouched(self) -> bool:
        """Whether the index is ours; False for a file that plain FAISS wrote."""
        return bool(self.metadata)

    @property
    def fingerprint(self) -> str:
        """Of all that db.bin and its changes hold; of the codes where plain FAISS wrote it, or there is no file."""
        content = self.checksum or checksum_of(np.ascontiguousarray(self.items.stored.codes))
        changes = {} if self.changes is None else {"changes": self.changes.content}
        return fingerprint({"kind": "index", "content": content, **changes})

    @property
    def generation(self) -> int:
        """How many changes it has had; compaction, which changes no item, leaves it as it was."""
        if self.changes is not None:
            return self.changes.generation
        return int((self.metadata.get("follows") or {}).get("generation", 0))

    @property
    def approximate(self) -> bool:
        """Whether a search may miss some of the nearest codes."""
        return not self.type.exact

    def recorded(self, what: Literal["model", "features"]) -> tuple[Path, str]:
        """Where the model or features this index was encoded with were, and their fingerprint.

        Raises:
            UsageError: nothing is recorded, since `sdc encode` did not write the index.
        """
        origin = self.metadata.get(what)
        if not origin:
            raise UsageError(f"{self.path or 'this index'} records no {what}: `sdc encode` did not write it")
        beside = linked_file(self.path).parent if self.path else Path()
        return Path(os.path.normpath(beside / origin["path"])), str(origin["fingerprint"])
