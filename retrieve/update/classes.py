"""Which class of an index each class of added features is: the one of its name, or a new one."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sdc.errors import UsageError, log
from sdc.extract.store import LEVELS, NO_LABEL, Classes, FeatureStore, are_numbers, shown_names, used_numbers
from sdc.retrieve.index import Index

_LARGEST = np.iinfo(np.int32).max


class MatchedLabels(NamedTuple):
    """The labels of added items in the index's numbers.

    Attributes:
        labels, labels_coarse: as in `sdc.retrieve.index.Records`.
        classes: the names of the classes that they have.
        new: those of them that the index did not have.
    """

    labels: np.ndarray | None
    labels_coarse: np.ndarray | None
    classes: Classes
    new: Classes


def match_labels(features: Path, index: Index, store: FeatureStore, rows: np.ndarray) -> MatchedLabels:
    """The labels of rows of a store, by the names of their classes where these have any.

    Raises:
        UsageError: one side alone has names, so that nothing says which class is which; or a new class of multi-hot
            labels, for which the index has no column.
    """
    found: dict[str, np.ndarray | None] = {}
    classes, new = {}, {}
    for level in LEVELS:
        known = getattr(store, level)
        if known is None:
            found[level] = None
            continue
        labels = known[rows]
        numbers, names, found_new = _matching(features, index, store, level, used_numbers(labels))
        stored = getattr(index.items.stored, level)
        found[level] = _renumbered(labels, numbers, None if stored.ndim == 1 else stored.shape[1])
        if names:
            classes[level] = names
        if found_new:
            new[level] = found_new
            _say_new(index, level, found_new)
    return MatchedLabels(found["labels"], found["labels_coarse"], classes, new)


def _matching(
    features: Path, index: Index, store: FeatureStore, level: str, used: Sequence[int]
) -> tuple[dict[int, int], dict[int, str], dict[int, str]]:
    """Of classes that are in use the number in the index; their names by that number; and those that are new."""
    ours, in_use = index.items.classes.get(level, {}), set(used)
    theirs = {number: name for number, name in store.classes.get(level, {}).items() if number in in_use}
    if are_numbers(ours) and are_numbers(theirs) and _comparable(index, ours, theirs):
        named = used if ours or theirs else []
        names = {number: ours.get(number) or theirs.get(number) or str(number) for number in named}
        new = {number: name for number, name in names.items() if ours and number not in ours}
        return dict(zip(used, used, strict=True)), names, new
    known = {_key(name): number for number, name in ours.items()}
    nameless = not ours or len(theirs) < len(used)
    strange = dict.fromkeys(number for number in used if number not in theirs or _key(theirs[number]) not in known)
    if nameless or (strange and are_numbers(ours) != are_numbers(theirs)):
        raise UsageError(_unmatched(features, index, level, ours, theirs))
    stored = getattr(index.items.stored, level)
    if strange and stored.ndim == 2:
        raise UsageError(
            f"{features} has the class {theirs[next(iter(strange))]!r}, which {index.path} has no column of {level} "
            "for: leave it out, or encode all features anew"
        )
    free = _free_numbers({*ours, *_numbers_in_use(index, level)})
    numbers = {number: known[_key(theirs[number])] if number not in strange else next(free) for number in used}
    names = {numbers[number]: ours.get(numbers[number], theirs[number]) for number in used}
    return numbers, names, {numbers[number]: theirs[number] for number in strange}


def _comparable(index: Index, ours: Mapping[int, str], theirs: Mapping[int, str]) -> bool:
    """Whether numbers mean the same on both sides: earlier versions numbered folders from 0, whatever their names."""
    provenance = index.metadata.get("features", {}).get("provenance", {})
    return bool(ours) or not theirs or provenance.get("dataset") != "folder"


def _unmatched(features: Path, index: Index, level: str, ours: Mapping[int, str], theirs: Mapping[int, str]) -> str:
    def described(names: Mapping[int, str]) -> str:
        kind = "numbers" if are_numbers(names) else "names"
        return f"the {kind} {shown_names([*names.values()], 3)}" if names else "no names"

    advice = "remove features of an earlier version, extract or import them with names, and encode anew"
    if ours:
        advice = "extract the new items from folders of these names, or import them with the names as labels"
    return (
        f"the {level} of {features} have {described(theirs)}, those of {index.path} {described(ours)}, so classes "
        f"cannot be matched: {advice}"
    )


def _numbers_in_use(index: Index, level: str) -> list[int]:
    parts = [getattr(part, level) for part in (index.items.stored, index.items.added) if part is not None]
    return [number for labels in parts if labels is not None for number in used_numbers(labels)]


def _free_numbers(taken: set[int]) -> Iterator[int]:
    """Numbers of new classes: those above the largest that is taken, then what is free from 0 on."""
    above = range(max(taken, default=-1) + 1, _LARGEST + 1)
    return itertools.chain(above, (number for number in itertools.count() if number not in taken))


def _renumbered(labels: np.ndarray, numbers: Mapping[int, int], width: int | None) -> np.ndarray:
    if width is None:
        distinct, members = np.unique(labels, return_inverse=True)
        mapped = np.array([numbers.get(number, NO_LABEL) for number in distinct.tolist()], np.int32)
        return np.asarray(mapped[members])
    columns = np.zeros((len(labels), width), np.uint8)
    for number, place in numbers.items():
        columns[:, place] = labels[:, number]
    return columns


def _say_new(index: Index, level: str, new: Mapping[int, str]) -> None:
    log.info("new classes of %s: %s", level, shown_names([f"{name} ({number})" for number, name in new.items()]))
    folded = {_key(name).casefold(): name for name in index.items.classes.get(level, {}).values()}
    for name in new.values():
        if _key(name).casefold() in folded:
            log.warning("the new class %r differs from %r in capitals alone", name, folded[_key(name).casefold()])


def _key(name: str) -> str:
    """One text for the two ways in which systems write letters such as ü in names of files."""
    return unicodedata.normalize("NFC", name)
