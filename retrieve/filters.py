"""Which rows a search is restricted to: those of listed ids, of labels, or of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.retrieve.index import Records
from sdc.retrieve.index.delta import items


def rows_of(database: Records, ids: Path | None, labels: Sequence[int]) -> np.ndarray | None:
    """The rows (n,) of those codes whose id stands in a file and whose label is one of `labels`; None for all.

    Args:
        ids: a file with an id a line; None for any id.
        labels: numbers of classes; none for any label.

    Raises:
        SdcError: the file can't be read, or it holds no id.
        UsageError: an id or a label that no code of the database has, or a database without labels.
    """
    if ids is None and not labels:
        return None
    chosen = np.ones(len(database), bool)
    if ids is not None:
        chosen &= _listed(database, ids)
    if labels:
        chosen &= _labelled(database, labels)
    rows: np.ndarray = database.rows[chosen]
    return rows


def _listed(database: Records, path: Path) -> np.ndarray:
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise SdcError(f"cannot read {path}: {error.strerror}; --only-ids takes a file with an id a line") from None
    wanted = {line for line in lines if line.strip()}
    if not wanted:
        raise SdcError(f"{path} holds no id, expected one a line")
    hits = list(items.positions(database, wanted))
    unknown = wanted.difference(name for _, name in hits)
    if unknown:
        first = next(line for line in lines if line in unknown).decode("utf-8", "surrogateescape")
        near = database.nearest(first)
        hint = f"did you mean {near[0]!r}?" if near else f"ids look like {database.names(np.arange(1))[0]!r}"
        raise UsageError(
            f"{path} lists {first!r}, which is no id of the database ({len(unknown)} of {len(wanted)} are not); {hint}"
        )
    chosen = np.zeros(len(database), bool)
    chosen[[position for position, _ in hits]] = True
    return chosen


def _labelled(database: Records, labels: Sequence[int]) -> np.ndarray:
    held = database.labels
    if held is None:
        raise UsageError("the index has no labels to choose by: encode features that have them (`sdc import --labels`)")
    if held.ndim == 1:
        members = {label: held == label for label in labels}
    else:
        members = {label: held[:, label] != 0 for label in labels if 0 <= label < held.shape[1]}
    for label in labels:
        if label not in members or not members[label].any():
            known = np.unique(held) if held.ndim == 1 else np.flatnonzero(held.any(axis=0))
            used = f"{len(known)} are in use, from {known.min()} to {known.max()}" if len(known) else "none is in use"
            raise UsageError(f"no code has the label {label}: {used}")
    found: np.ndarray = np.logical_or.reduce([members[label] for label in labels])
    return found
