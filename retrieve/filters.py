"""Which rows a search is restricted to: those of listed ids, of labels, or of both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sdc.errors import SdcError, UsageError, did_you_mean
from sdc.extract.store import shown_names, used_numbers
from sdc.retrieve.index import Records, encode_id
from sdc.text import text_lines, whole_texts

_COMPARED, _LONGEST = 1000, 100  # names of classes that an unknown one is compared with, and characters of it


def matching_rows(database: Records, ids: Path | None, labels: Sequence[int | str]) -> np.ndarray | None:
    """The rows (n,) of those items whose id stands in a file and whose label is one of `labels`; None for all.

    Args:
        ids: a file with an id a line; None for any id.
        labels: names or numbers of classes; none for any label.

    Raises:
        SdcError: the file can't be read, or it holds no id.
        UsageError: an id or a label that no item of the database has, or a database without labels.
    """
    if ids is None and not labels:
        return None
    matching = np.ones(len(database), bool)
    if ids is not None:
        matching &= _listed(database, ids)
    if labels:
        matching &= _labelled(database, labels)
    rows: np.ndarray = database.rows[matching]
    return rows


def read_ids(path: Path, option: str) -> list[bytes]:
    """The ids in a file, one a line, as `sdc import --ids` reads them; empty lines are passed over.

    Raises:
        SdcError: the file can't be read; the message names the option that takes it.
    """
    try:
        lines = whole_texts(line for line in text_lines(path, "surrogateescape") if line.strip())
    except SdcError as error:
        raise SdcError(f"{error}; {option} takes a file with an id a line") from None
    return [encode_id(line) for line in lines]


def label_numbers(wanted: Sequence[int | str], names: Mapping[int, str]) -> tuple[int, ...]:
    """The numbers of classes, each called by its name or its number; a text that may be either is a name.

    Raises:
        UsageError: a text that is neither.
    """
    by_name = {name: number for number, name in names.items()}
    numbers = []
    for each in wanted:
        if isinstance(each, str) and each in by_name:
            numbers.append(by_name[each])
        elif isinstance(each, str) and not re.fullmatch("[+-]?[0-9]{1,18}", each.strip()):
            # A service is asked for anything: looking for what resembles it must not take long.
            near = did_you_mean(each, list(by_name)[:_COMPARED]) if len(each) <= _LONGEST else ""
            known = f"{near}known: {shown_names(list(by_name))}"
            known = known if names else "the classes have numbers, and no names"
            raise UsageError(f"unknown class {each[:_LONGEST]!r}: {known}")
        else:
            numbers.append(int(each))
    return tuple(numbers)


def _listed(database: Records, path: Path) -> np.ndarray:
    lines = read_ids(path, "--only-ids")
    names = set(lines)
    if not names:
        raise SdcError(f"{path} holds no id, expected one a line")
    hits = list(database.positions(names))
    unknown = names.difference(name for _, name in hits)
    if unknown:
        first = next(line for line in lines if line in unknown).decode("utf-8", "surrogateescape")
        question = did_you_mean(first, database.nearest(first)).strip()
        hint = question or f"ids look like {database.names(np.arange(1))[0]!r}"
        raise UsageError(
            f"{path} lists {first!r}, which is no id of the database ({len(unknown)} of {len(names)} are not); {hint}"
        )
    matching = np.zeros(len(database), bool)
    matching[[position for position, _ in hits]] = True
    return matching


def _labelled(database: Records, wanted: Sequence[int | str]) -> np.ndarray:
    """Which items have one of the labels."""
    known = database.labels
    if known is None:
        raise UsageError("the index has no labels to choose by: encode features that have them (`sdc import --labels`)")
    labels = label_numbers(wanted, database.classes.get("labels", {}))
    if known.ndim == 1:
        members = {label: known == label for label in labels}
    else:
        members = {label: known[:, label] != 0 for label in labels if 0 <= label < known.shape[1]}
    for label in labels:
        if label not in members or not members[label].any():
            used = used_numbers(known)
            range_ = f"{len(used)} are in use, from {used[0]} to {used[-1]}" if used else "none is in use"
            raise UsageError(f"no code has the label {label}: {range_}")
    matching: np.ndarray = np.logical_or.reduce([members[label] for label in labels])
    return matching
