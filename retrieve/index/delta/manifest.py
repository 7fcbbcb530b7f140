"""manifest.json: which changes a db.bin has had since it was written, and the files that hold them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdc.errors import SdcError
from sdc.files import atomic_write, fingerprint, json_text, seal, unseal

SCHEMA = 1
NAME = "manifest.json"
AGAIN = "fetch a good copy of the folder, or encode anew with `sdc encode --overwrite`"

Identity = tuple[int, int, int, int] | None


@dataclass(frozen=True)
class Part:
    """A file of a change: how many items or rows it has, and its checksum (`Container.checksum`, of rows XXH3)."""

    count: int
    checksum: str


@dataclass(frozen=True)
class Source:
    """The feature store that added items come from; its row r has the number `first` + r in the index.

    Attributes:
        path: relative to the folder of db.bin.
        first: its first number.
        count: its rows.
    """

    path: str
    fingerprint: str
    first: int
    count: int


@dataclass(frozen=True)
class Change:
    """What one change added and removed; its files are named by its generation."""

    generation: int
    added: Part | None = None
    source: Source | None = None
    removed: Part | None = None

    @property
    def added_name(self) -> str:
        return f"{self.generation:06}.added.bin"

    @property
    def removed_name(self) -> str:
        return f"{self.generation:06}.removed.bin"

    @property
    def names(self) -> list[str]:
        """The files it has."""
        named = ((self.added, self.added_name), (self.removed, self.removed_name))
        return [name for part, name in named if part is not None]


@dataclass(frozen=True)
class Manifest:
    """All changes since a db.bin was written.

    Attributes:
        base: the checksum of that db.bin, `Container.checksum`.
        generation: of the last change; it counts on through compactions.
        next_row: the number of the next row that is added; no smaller one is free.
        changes: at least one, in their order.
    """

    base: str
    generation: int
    next_row: int
    changes: tuple[Change, ...]

    @property
    def content(self) -> str:
        """A fingerprint of all that the changes added and removed: the manifest has the checksums of their files."""
        return fingerprint(asdict(self))

    @property
    def added(self) -> int:
        """How many items the changes added, those that were removed since included."""
        return sum(change.added.count for change in self.changes if change.added)

    @property
    def removed(self) -> int:
        """How many items of db.bin and of earlier changes they removed."""
        return sum(change.removed.count for change in self.changes if change.removed)

    @property
    def sources(self) -> list[Source]:
        return [change.source for change in self.changes if change.source]

    def contained(self, metadata: Mapping[str, Any]) -> bool:
        """Whether the db.bin with this metadata follows the one that was changed, and all these changes."""
        follows = metadata.get("follows") or {}
        return bool(follows.get("base") == self.base and follows.get("generation", 0) >= self.generation)

    def write(self, folder: Path) -> None:
        """Makes the changes count: writes the manifest, whole, and renames it into place."""
        content = {"schema": SCHEMA, **asdict(self)}
        with atomic_write(folder / NAME) as temporary:
            text = json_text(seal(content), indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> tuple[Manifest | None, Identity]:
    """The manifest in a folder, and which file that was; (None, None) where there is none.

    Raises:
        SdcError: it cannot be read, or is damaged.
    """
    path = folder / NAME
    try:
        with open(path, "rb") as file:
            identity, data = identity_of(os.fstat(file.fileno())), file.read()
    except FileNotFoundError:
        return None, None
    except OSError as error:
        raise SdcError(f"cannot read {path}: {error.strerror}; the index cannot be read without it") from None
    return _parse(data, path), identity


def identity(path: Path) -> Identity:
    """What tells one file at `path` from another that takes its place; None where there is none."""
    try:
        return identity_of(path.stat())
    except OSError:
        return None


def identity_of(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _parse(data: bytes, path: Path) -> Manifest:
    try:
        content = json.loads(data)
        schema = content["schema"]
        if schema != SCHEMA:
            raise SdcError(f"{path} has schema {schema!r}, this sdc reads {SCHEMA}: upgrade sdc-hash")
        unseal(content)
        changes = tuple(
            Change(
                change["generation"],
                Part(**change["added"]) if change["added"] else None,
                Source(**change["source"]) if change["source"] else None,
                Part(**change["removed"]) if change["removed"] else None,
            )
            for change in content["changes"]
        )
        generations = [change.generation for change in changes]
        if not all(isinstance(each, int) and each > 0 for each in (*generations, content["next_row"])):
            raise ValueError("a number is none")
        if generations != sorted(set(generations)) or generations[-1:] != [content["generation"]]:
            raise ValueError("its changes are not in order")
        return Manifest(content["base"], content["generation"], content["next_row"], changes)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SdcError(f"{path} is damaged: {error or type(error).__name__}; {AGAIN}") from None
