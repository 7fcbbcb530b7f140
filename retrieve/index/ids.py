"""Ids of many items as one run of UTF-8, and how items are found by them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdc.errors import UsageError
from sdc.extract.store import EncodedIds, PackedIds
from sdc.retrieve.index.sorted_rows import among, look_up

_BLOCK = 1 << 18  # ids made or copied at once
_SEARCHED = 1 << 16  # ids looked at at once
_COMPARED = 20_000  # ids looked at for the nearest one: those of the most similar length
_DIGITS = 20  # of the largest row number


@dataclass(frozen=True)
class Ids:
    """N ids as one run of UTF-8 and the N + 1 offsets where they begin and end; decoded when asked for.

    Bytes that are no UTF-8 (file names) survive as surrogates.
    """

    text: np.ndarray  # (bytes,) uint8
    offsets: np.ndarray  # (N + 1,) int64

    @classmethod
    def of(cls, ids: Sequence[str | int | bytes] | np.ndarray | Ids) -> Ids:
        """Ids from texts, whole numbers (their digits) or bytes, in a sequence or an array.

        Raises:
            UsageError: one is something else.
        """
        if isinstance(ids, Ids):
            return ids
        if isinstance(ids, (str, bytes)):
            raise UsageError(f"ids must be a sequence of ids, found the text {ids[:40]!r}")
        values = ids.tolist() if hasattr(ids, "tolist") else ids
        packed = PackedIds.of(_given_id(name, row) for row, name in enumerate(values))
        return cls(packed.text, packed.offsets)

    @classmethod
    def of_rows(cls, names: EncodedIds, rows: np.ndarray) -> Ids | None:
        """The ids of `rows` of a feature store; None where each is its row in digits.

        Block by block, since a hundred million ids as Python strings would take several gigabytes.
        """
        blocks = [rows[start : start + names.block] for start in range(0, len(rows), names.block)]
        return None if all(_are_digits(names, block) for block in blocks) else cls.of_stored(names, rows)

    @classmethod
    def of_stored(cls, names: EncodedIds, rows: np.ndarray) -> Ids:
        """The ids, or other texts, of `rows` of a feature store, block by block."""
        blocks = [rows[start : start + names.block] for start in range(0, len(rows), names.block)]
        offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *(names.lengths(block) for block in blocks)]))
        text, done = np.empty(offsets[-1], np.uint8), 0
        for block in blocks:
            part = names.text_of(block)
            text[done : done + len(part)] = part
            done += len(part)
        return cls(text, offsets)

    @classmethod
    def of_digits(cls, rows: np.ndarray) -> Ids:
        """Ids that are the rows in digits, written out."""
        texts, lengths = [np.empty(0, np.uint8)], [np.empty(0, np.int64)]
        for start in range(0, len(rows), _BLOCK):
            padded = _in_digits(rows[start : start + _BLOCK])
            texts.append(_without_padding(padded))
            lengths.append(np.char.str_len(padded))
        return cls(np.concatenate(texts), np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths])))

    @classmethod
    def joined(cls, parts: Sequence[tuple[Ids, np.ndarray]]) -> Ids:
        """The ids of all parts, in their order, of each those that its mask (N,) keeps."""
        lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(ids.offsets)[mask] for ids, mask in parts)])
        offsets = np.cumsum(lengths)
        text, done = np.empty(offsets[-1], np.uint8), 0
        for ids, mask in parts:
            for start in range(0, len(ids), _BLOCK):
                ends = np.asarray(ids.offsets[start : start + _BLOCK + 1])
                block = ids.text[ends[0] : ends[-1]][np.repeat(mask[start : start + _BLOCK], np.diff(ends))]
                text[done : done + len(block)] = block
                done += len(block)
        return cls(text, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, positions: np.ndarray) -> list[str]:
        """The ids at `positions`."""
        starts, ends = self.offsets[positions], self.offsets[positions + 1]
        return [decode_id(self.text[start:end].tobytes()) for start, end in zip(starts, ends, strict=True)]

    def positions(self, names: Collection[bytes]) -> Iterator[tuple[int, bytes]]:
        """Every position whose id is one of `names`, with that id, ascending.

        One pass over the ids, however many are looked for.
        """
        hashes = _hashes_by_length(names)
        for start in range(0, len(self), _SEARCHED):
            offsets = np.asarray(self.offsets[start : start + _SEARCHED + 1])
            text, lengths = self.text[offsets[0] : offsets[-1]], np.diff(offsets)
            begins, hits = offsets[:-1] - offsets[0], [np.empty(0, np.int64)]
            for length, sought in hashes.items():
                possible = np.flatnonzero(lengths == length)
                if len(possible):
                    texts = np.lib.stride_tricks.sliding_window_view(text, length)[begins[possible]]
                    hits.append(possible[among(_hashes(texts), sought)])
            for position in np.sort(np.concatenate(hits)).tolist():
                name = text[begins[position] : begins[position] + lengths[position]].tobytes()
                if name in names:
                    yield start + position, name

    def find(self, name: str) -> int:
        """The first position that has this id, or -1."""
        return next((position for position, _ in self.positions({encode_id(name)})), -1)

    def nearest(self, name: str) -> list[str]:
        """At most one id that resembles `name`."""
        difference = np.abs(np.diff(self.offsets) - len(encode_id(name)))
        similar = np.argsort(difference, kind="stable")[:_COMPARED]
        return difflib.get_close_matches(name, self.take(similar), n=1)


def _given_id(name: Any, row: int) -> bytes:
    """The bytes of an id as it comes from Python."""
    if isinstance(name, bytes):
        return name
    if isinstance(name, (int, np.integer)) and not isinstance(name, bool):
        return str(int(name)).encode()
    if not isinstance(name, str):
        raise UsageError(f"id {row}: found {name!r}, a {type(name).__name__}, expected text, a whole number or bytes")
    try:
        return encode_id(name)
    except UnicodeEncodeError as error:
        raise UsageError(f"id {row}: {name!r} is not valid Unicode ({error.reason})") from error


def encode_id(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def decode_id(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def positions_of_digits(rows: np.ndarray, names: Collection[bytes]) -> Iterator[tuple[int, bytes]]:
    """`Ids.positions` where each id is its row in digits; rows ascend."""
    numbers = np.array(sorted(row for name in names if (row := _row(name)) is not None), np.int64)
    positions, present = look_up(rows, numbers)
    for position in positions[present].tolist():
        yield position, str(rows[position]).encode()


def _row(name: bytes) -> int | None:
    """The row whose id, in digits, is `name`."""
    row = int(name) if name.isdigit() and len(name) < _DIGITS else -1
    return row if row <= np.iinfo(np.int64).max and str(row).encode() == name else None


def _are_digits(names: EncodedIds, rows: np.ndarray) -> bool:
    """Whether the id of each of `rows` is the row in digits."""
    digits = Ids.of_digits(rows)
    return np.array_equal(names.lengths(rows), np.diff(digits.offsets)) and np.array_equal(
        names.text_of(rows), digits.text
    )


def _in_digits(rows: np.ndarray) -> np.ndarray:
    return rows.astype(f"S{_DIGITS}")


def _without_padding(names: np.ndarray) -> np.ndarray:
    """The bytes of NUL-padded names, end to end."""
    raw = names.view(np.uint8)
    text: np.ndarray = raw[raw != 0]
    return text


def _hashes_by_length(names: Collection[bytes]) -> dict[int, np.ndarray]:
    """The hashes of the names of each length, ascending."""
    groups: dict[int, list[bytes]] = {}
    for name in names:
        groups.setdefault(len(name), []).append(name)
    return {
        length: np.sort(_hashes(np.frombuffer(b"".join(group), np.uint8).reshape(len(group), length)))
        for length, group in groups.items()
    }


def _hashes(texts: np.ndarray) -> np.ndarray:
    """(n,) a number for each of (n, length) texts: equal ones have the same, others nearly always another."""
    words = texts.shape[1] // 8 + 1
    padded = np.zeros((len(texts), 8 * words), np.uint8)
    padded[:, : texts.shape[1]] = texts
    odd = np.arange(1, words + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    hashes: np.ndarray = padded.view(np.uint64) @ odd  # wraps around
    return hashes
