"""What people write for labels and ids, as numbers and names: text, arrays and columns go the same way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdc.errors import SdcError, log
from sdc.extract.store import (
    LEVELS,
    NO_LABEL,
    SPOKEN,
    Listing,
    are_numbers,
    classes_of_json,
    number_names,
    shown_names,
    used_numbers,
)
from sdc.text import text_lines, whole_texts

SPLIT_NAMES = {
    "train", "training", "val", "valid", "validation", "dev", "test", "testing", "query", "queries", "database",
    "gallery",
}  # fmt: skip
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)"
_NUMBERS = re.compile(rf"(?:{_NUMBER})(?:[\s,;]+(?:{_NUMBER}))*", re.IGNORECASE)
_SHOWN = 5  # rows in a message
_MANY = 20  # rows from which on classes of one row each are told of


class Labels(NamedTuple):
    """Labels (N,) of whole numbers or (N, C) of zeros and ones, and the names of their classes, if they have any."""

    values: np.ndarray
    names: dict[int, str]


def as_labels(values: np.ndarray, what: str) -> Labels:
    """The labels that an array holds: (N,) whole numbers, in floats too, numbers written as text, or names; or (N, C).

    Names become numbers as `sdc.extract.store.number_names` says. A text with several numbers, zeros and ones, is a row
    of (N, C). -1 is no label.

    Args:
        what: what they are called in messages.

    Raises:
        SdcError: a value that is missing, empty or NaN; numbers that are not whole; several that are not 0 and 1.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind == "f":
        return Labels(_whole(values, what), {})
    if values.dtype.kind not in "OUS" or values.ndim != 1:
        return Labels(values, {})  # whole numbers; or what the listing refuses
    names = [name.strip() for name in as_texts(values, what)]
    if "" in names:
        raise SdcError(f"{what}: row {names.index('')} is empty, expected a class; {NO_LABEL} stands for no label")
    numbers, classes = number_names(names)
    if are_numbers(classes):
        return Labels(numbers, {})
    distinct = dict.fromkeys(names)
    bare = {name: name.strip("[]() ") for name in distinct}
    if not all(_NUMBERS.fullmatch(text) for text in bare.values()):
        return Labels(numbers, classes)
    rows = {name: [float(number) for number in re.split(r"[\s,;]+", text)] for name, text in bare.items()}
    widths = {len(row) for row in rows.values()}
    if widths == {1}:
        return Labels(_whole(np.array([rows[name][0] for name in names]), what), {})
    return Labels(_zeros_and_ones(names, rows, what), {})


def _whole(values: np.ndarray, what: str) -> np.ndarray:
    """Floats as whole numbers."""
    bad = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
    if len(bad):
        kind = "NaN" if np.isnan(values).any() else "infinite values"
        raise SdcError(f"{what}: {kind} in {_rows(bad)}, expected whole numbers; {NO_LABEL} stands for no label")
    broken = np.argwhere((values != np.floor(values)) | (np.abs(values) > 2**53))
    if len(broken):
        raise SdcError(
            f"{what}: found {values.dtype}, expected whole numbers (zeros and ones if several a row), or names; row "
            f"{broken[0][0]} holds {values[tuple(broken[0])]}"
        )
    return values.astype(np.int64)


def _zeros_and_ones(names: Sequence[str], rows: dict[str, list[float]], what: str) -> np.ndarray:
    """The rows (N, C) that texts of several numbers are."""
    width = len(rows[names[0]])
    for number, name in enumerate(names):
        if len(rows[name]) != width:
            raise SdcError(
                f"{what}: {len(rows[name])} numbers in row {number} and {width} in row 0, expected one label, or a "
                "zero or one for each class"
            )
        if not {*rows[name]} <= {0.0, 1.0}:
            counted = width == 2 and all(rows[name][0] in (row, row + 1) for row, name in enumerate(names))
            hint = ": are these the rows' numbers with labels? Leave the first column out" if counted else ""
            raise SdcError(
                f"{what}: found {name[:40]!r} in row {number}, expected one label, or a zero or one for each class"
                f"{hint}"
            )
    return np.array([rows[name] for name in names], np.uint8)


def as_texts(values: np.ndarray, what: str) -> list[str]:
    """The texts or numbers of an array (N,), as text.

    Raises:
        SdcError: bytes that are no UTF-8, or a value that is missing.
    """
    plain: list[Any] = values.tolist()
    if set(map(type, plain)) == {str}:
        return plain
    if values.dtype.kind == "O":
        missing = [row for row, value in enumerate(plain) if value is None or _is_nan(value)]
        if missing:
            raise SdcError(f"{what}: no value in {_rows(np.array(missing))}, expected one in each")
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in plain]
    except UnicodeDecodeError as error:
        raise SdcError(f"{what}: {error.object!r} is not UTF-8 text") from error


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def as_ids(values: np.ndarray, what: str) -> list[str]:
    """The ids that an array holds: texts, or whole numbers, in floats too.

    Raises:
        SdcError: it holds something else, or a value is missing.
    """
    if values.dtype.kind == "f" and values.ndim == 1 and (np.floor(values) == values).all() and _exact(values):
        values = values.astype(np.int64)
    if values.ndim != 1 or values.dtype.kind in "fc":
        raise SdcError(
            f"{what}: found {values.dtype} of shape {values.shape}, expected text or whole numbers, one a row"
        )
    return as_texts(values, what)


def _exact(values: np.ndarray) -> bool:
    """Whether each float stands for one whole number alone."""
    return bool((np.abs(values) < 2 ** np.finfo(values.dtype).nmant).all())


def entry_lines(path: Path) -> list[str]:
    """The lines of a text file with an entry for each row; blank lines at its end are passed over.

    Raises:
        SdcError: it is no text, or a line between others is blank.
    """
    lines = list(whole_texts(text_lines(path)))
    while lines and not lines[-1].strip():
        lines.pop()
    empty = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if empty:
        raise SdcError(f"{path}: line {empty} is empty, expected one entry a line")
    return lines


def given_names(texts: Sequence[str], level: str, labels: np.ndarray, what: str) -> dict[int, str]:
    """The names that an array beside numbers gives their classes: those of feats.h5, or of class 0, 1, 2 and so on.

    An array of as many texts as there are rows says something of the rows, and gives no names.
    """
    if len(texts) == 1 and texts[0].startswith("{"):
        try:
            return classes_of_json(texts[0]).get(level, {})
        except ValueError as error:
            raise SdcError(f"{what} cannot be read: {error}") from error
    fitting = all(0 <= number < len(texts) for number in used_numbers(labels))
    return dict(enumerate(texts)) if level == LEVELS[0] and fitting and len(texts) != len(labels) else {}


def say_classes(listing: Listing) -> None:
    """Says which classes there are, and warns of what looks like something else than classes."""
    for level in LEVELS:
        labels = getattr(listing, level)
        if labels is not None:
            what = SPOKEN[level]
            for warning in _said(what, labels, dict(listing.classes.get(level, {}))):
                log.warning("%s: %s", what, warning)


def _said(what: str, labels: np.ndarray, names: dict[int, str]) -> Iterator[str]:
    """Logs the classes; yields what is strange about them."""
    used = used_numbers(labels)
    if labels.ndim == 2:
        sizes = [int(labels[:, number].astype(bool).sum()) for number in used]
        without = int((~labels.any(axis=1)).sum())
    else:
        sizes = np.unique(labels[labels != NO_LABEL], return_counts=True)[1].tolist()
        without = int((labels == NO_LABEL).sum())
    shown = shown_names([f"{names.get(number, number)} ({size})" for number, size in zip(used, sizes, strict=True)])
    left = f"; {without} of {len(labels)} rows have none" if without else ""
    log.info("%s: %d %s: %s%s", what, len(used), "class" if len(used) == 1 else "classes", shown, left)
    named = [names.get(number, "").lower() for number in used]
    if named and SPLIT_NAMES.issuperset(named):
        yield (
            f"the classes are called {shown_names([names[number] for number in used])}, which are names of splits: are "
            "the classes a level below? Then take one of these as the root, or move them together and give --split"
        )
    if labels.ndim == 1 and len(used) == len(labels) > 1:
        yield f"each of the {len(labels)} rows has a class of its own, so no two are relevant to each other"
    elif labels.ndim == 1 and len(labels) >= _MANY and sizes.count(1) > len(labels) / 2:
        yield f"{sizes.count(1)} of {len(labels)} rows are alone in their class: are these labels?"
    if labels.ndim == 1 and len(used) == 1 and not without and len(labels) >= _MANY:
        yield f"all {len(labels)} rows are of one class, so everything is relevant to everything"


def _rows(rows: np.ndarray) -> str:
    listed = ", ".join(map(str, rows[:_SHOWN].tolist())) + (", …" if len(rows) > _SHOWN else "")
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} ({listed})"
