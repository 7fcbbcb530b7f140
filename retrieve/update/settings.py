"""What `sdc add`, `sdc remove` and `sdc compact` are told; the defaults are the commands'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AddSettings:
    """What `sdc add` does; the defaults are the command's.

    Attributes:
        index: the db.bin to add to.
        features: a feature store whose database split is added.
        model: the model that encoded the index; None takes the recorded path.
        replace: remove the items whose ids come again, in the same change.
        verify: check every byte of the index and of the features first.
    """

    index: Path = Path("db.bin")
    features: Path = Path("feats.h5")
    model: Path | None = None
    replace: bool = False
    verify: bool = True


@dataclass(frozen=True)
class RemoveSettings:
    """What `sdc remove` does; the defaults are the command's.

    Attributes:
        index: the db.bin to remove from.
        ids: of the items.
        listed: a file with further ids, one a line.
        ignore_missing: take ids that the index does not have for removed.
        verify: check every byte of the index first.
    """

    index: Path = Path("db.bin")
    ids: tuple[str, ...] = ()
    listed: Path | None = None
    ignore_missing: bool = False
    verify: bool = True


@dataclass(frozen=True)
class CompactSettings:
    """What `sdc compact` does: the db.bin whose changes are merged into it."""

    index: Path = Path("db.bin")
