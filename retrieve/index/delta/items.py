"""Many entries at once: those that are kept, two runs joined into one, and where ids are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

import numpy as np

from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.records import Records

_BLOCK = 1 << 18  # ids copied at once
_LOOKED = 1 << 16  # ids looked at at once
_DIGITS = 20  # of the largest row number


def joined(parts: Sequence[tuple[Records, np.ndarray]]) -> Records:
    """The entries of all parts, in their order, of each those that its mask (N,) keeps; one copy of each array.

    The parts are of one kind: all or none have labels, of one width.
    """
    first = parts[0][0]
    ids = None
    if any(part.ids is not None for part, _ in parts):
        ids = _joined_ids([(part.ids or digits(part.rows), mask) for part, mask in parts])
    columns = [
        None if getattr(first, name) is None else _kept([(getattr(part, name), mask) for part, mask in parts])
        for name in ("codes", "rows", "labels", "labels_coarse")
    ]
    codes, rows, labels, labels_coarse = columns
    assert codes is not None
    assert rows is not None
    return Records(codes, rows, ids, labels, labels_coarse)


def digits(rows: np.ndarray) -> Ids:
    """Ids that are the rows in digits, written out."""
    texts, lengths = [np.empty(0, np.uint8)], [np.empty(0, np.int64)]
    for start in range(0, len(rows), _BLOCK):
        padded = rows[start : start + _BLOCK].astype(f"S{_DIGITS}")
        raw = padded.view(np.uint8)
        texts.append(raw[raw != 0])
        lengths.append(np.char.str_len(padded))
    return Ids(np.concatenate(texts), np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths])))


def positions(entries: Records, names: Collection[bytes]) -> Iterator[tuple[int, bytes]]:
    """Every position whose id is one of `names`, with that id; one pass over the ids, however many are looked for."""
    if entries.ids is None:
        wanted = np.array(sorted(row for name in names if (row := _row(name)) is not None), np.int64)
        found = np.minimum(np.searchsorted(entries.rows, wanted), len(entries) - 1)
        for place in found[entries.rows[found] == wanted].tolist() if len(entries) else ():
            yield place, str(entries.rows[place]).encode()
        return
    marked = _by_length(names)
    for start in range(0, len(entries), _LOOKED):
        offsets = np.asarray(entries.ids.offsets[start : start + _LOOKED + 1])
        text, lengths = entries.ids.text[offsets[0] : offsets[-1]], np.diff(offsets)
        begins, hits = offsets[:-1] - offsets[0], [np.empty(0, np.int64)]
        for length, marks in marked.items():
            possible = np.flatnonzero(lengths == length)
            if len(possible):
                texts = np.lib.stride_tricks.sliding_window_view(text, length)[begins[possible]]
                hits.append(possible[among(_marks(texts), marks)])
        for place in np.sort(np.concatenate(hits)).tolist():
            name = text[begins[place] : begins[place] + lengths[place]].tobytes()
            if name in names:
                yield start + place, name


def _by_length(names: Collection[bytes]) -> dict[int, np.ndarray]:
    """The marks of names of each length, ascending."""
    groups: dict[int, list[bytes]] = {}
    for name in names:
        groups.setdefault(len(name), []).append(name)
    return {
        length: np.sort(_marks(np.frombuffer(b"".join(group), np.uint8).reshape(len(group), length)))
        for length, group in groups.items()
    }


def _marks(texts: np.ndarray) -> np.ndarray:
    """(n,) a number for each of (n, length) texts: equal ones have the same, others nearly always another."""
    words = texts.shape[1] // 8 + 1
    padded = np.zeros((len(texts), 8 * words), np.uint8)
    padded[:, : texts.shape[1]] = texts
    odd = np.arange(1, words + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    marks: np.ndarray = padded.view(np.uint64) @ odd  # wraps around
    return marks


def among(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Which values are among `some`, ascending."""
    return standing(some, np.searchsorted(some, values), values)


def standing(ascending: np.ndarray, at: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which values stand where np.searchsorted put them."""
    if not len(ascending):
        return np.zeros(values.shape, bool)
    same: np.ndarray = ascending[np.minimum(at, len(ascending) - 1)] == values
    return same


def _row(name: bytes) -> int | None:
    """The row whose id, in digits, is `name`."""
    row = int(name) if name.isdigit() and len(name) < _DIGITS else -1
    return row if row <= np.iinfo(np.int64).max and str(row).encode() == name else None


def _kept(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    first = parts[0][0]
    counts = [int(mask.sum()) for _, mask in parts]
    out = np.empty((sum(counts), *first.shape[1:]), first.dtype)
    for (array, mask), (start, end) in zip(parts, pairwise(np.cumsum([0, *counts]).tolist()), strict=True):
        np.compress(mask, array, axis=0, out=out[start:end])
    return out


def _joined_ids(parts: Sequence[tuple[Ids, np.ndarray]]) -> Ids:
    lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(ids.offsets)[mask] for ids, mask in parts)])
    offsets = np.cumsum(lengths)
    text, done = np.empty(offsets[-1], np.uint8), 0
    for ids, mask in parts:
        for start in range(0, len(ids), _BLOCK):
            ends = np.asarray(ids.offsets[start : start + _BLOCK + 1])
            block = ids.text[ends[0] : ends[-1]]
            kept = block[np.repeat(mask[start : start + _BLOCK], np.diff(ends))]
            text[done : done + len(kept)] = kept
            done += len(kept)
    return Ids(text, offsets)
