"""The names of classes: what a label, which is a number, is called.

`Classes` has them by the level of labels (`labels`, `labels_coarse`), then by number; a level whose classes have no
names is not there. In feats.h5 and in the metadata of db.bin they stand as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdc.errors import SdcError
from sdc.text import natural_key

LEVELS = ("labels", "labels_coarse")
SPOKEN = {"labels": "labels", "labels_coarse": "coarse labels"}  # what messages call them
NO_LABEL = -1  # the label of what is of no class that is known
_SMALLEST, _LARGEST = int(np.iinfo(np.int32).min), int(np.iinfo(np.int32).max)
Classes = Mapping[str, Mapping[int, str]]

_WHOLE = re.compile("-?[0-9]{1,18}")


def number_names(names: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """The classes that N names name, as numbers, and what each number is called.

    Names that are all whole numbers stay those numbers (1, 2 and 10 are 1, 2 and 10), unless two of them are one number
    (1 and 01) or one is too large. Others are counted from 0 in natural order. "-1" is `NO_LABEL` in any case.

    Returns:
        numbers (N,) int64 and {number: name}, ascending.
    """
    places: dict[str, int] = {}
    members = np.fromiter((places.setdefault(name, len(places)) for name in names), np.int64, len(names))
    distinct = [name for name in places if name != str(NO_LABEL)]
    whole = _whole_numbers(distinct)
    ordered = zip(whole, distinct, strict=True) if whole is not None else enumerate(sorted(distinct, key=natural_key))
    classes = dict(sorted(ordered))
    numbers = {name: number for number, name in classes.items()}
    return np.array([numbers.get(name, NO_LABEL) for name in places], np.int64)[members], classes


def _whole_numbers(names: Sequence[str]) -> list[int] | None:
    if not all(_WHOLE.fullmatch(name) for name in names):
        return None
    numbers = [int(name) for name in names]
    distinct = len(set(numbers)) == len(numbers)
    return numbers if distinct and all(_SMALLEST <= number <= _LARGEST for number in numbers) else None


def are_numbers(names: Mapping[int, str] | None) -> bool:
    """Whether each name is the number of its class, as where there are no names: then the numbers mean something."""
    return all(_WHOLE.fullmatch(name) and int(name) == number for number, name in (names or {}).items())


def checked_classes(classes: Classes, labels: Mapping[str, np.ndarray | None]) -> dict[str, dict[int, str]]:
    """The names as they are kept: of the levels that have any, in the order of their numbers.

    Args:
        labels: by level, as they are stored.

    Raises:
        SdcError: a class without a name among others that have one; two classes of one name; a name that is no text.
    """
    checked = {}
    for level, given in classes.items():
        known = labels[level]
        if known is None or not given:
            continue
        names = {int(number): str(given[number]) for number in sorted(given)}
        what = SPOKEN[level]
        nameless = [number for number in used_numbers(known) if number not in names]
        if nameless:
            raise SdcError(f"{what}: class {nameless[0]} has no name, but {len(names)} classes have: name all or none")
        strange = [number for number in names if known.ndim == 2 and not 0 <= number < known.shape[1]]
        if strange:
            raise SdcError(f"{what}: found a name for class {strange[0]}, expected 0 to {known.shape[1] - 1}")
        _check_names(what, names)
        checked[level] = names
    return checked


def _check_names(what: str, names: Mapping[int, str]) -> None:
    first: dict[str, int] = {}
    for number, name in names.items():
        if not name or "\0" in name or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise SdcError(f"{what}: the name {name!r} of class {number} is no text: rename it")
        if first.setdefault(name, number) != number:
            raise SdcError(f"{what}: classes {first[name]} and {number} are both called {name!r}: rename one of them")


def used_numbers(labels: np.ndarray) -> list[int]:
    """The classes that labels (N,) or (N, C) have, ascending; no label is none."""
    if labels.ndim == 2:
        return np.flatnonzero(labels.any(axis=0)).tolist()
    numbers = np.unique(labels)
    return numbers[numbers != NO_LABEL].tolist()  # type: ignore[no-any-return]


def classes_to_json(classes: Classes) -> dict[str, dict[str, str]]:
    """{level: {number: name}}, numbers as text."""
    return {level: {str(number): name for number, name in names.items()} for level, names in classes.items()}


def classes_of_json(content: Any) -> dict[str, dict[int, str]]:
    """The inverse of `classes_to_json`, of what JSON gives or of its text; nothing without content.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(content, (str, bytes)):
        content = json.loads(content)
    classes: dict[str, dict[int, str]] = {}
    for level, names in dict(content or {}).items():
        if level not in LEVELS or not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise ValueError(f"names of classes of {level!r}, expected names by number of {' and '.join(LEVELS)}")
        classes[level] = {int(number): name for number, name in names.items()}
    return classes


def shown_names(names: Sequence[str], most: int = 10) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(name if len(name) <= 40 else f"{name[:37]}..." for name in names[:most]) + (
        f" and {more} more" if more > 0 else ""
    )
