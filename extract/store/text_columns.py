"""Texts in feats.h5: padded to one width where that costs little, end to end where one long text would widen all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from sdc.extract.store.file_format import Column
from sdc.extract.store.id_array import OFFSETS, EncodedIds, IdArray, PackedIds

IDS, TEXTS, SKIPPED, SKIPPED_TEXT = "ids", "texts", "skipped", "skipped_text"
_BLOCK = 1 << 16  # texts encoded at once
_BLOCK_BYTES = 1 << 26  # of texts handed on at once


def id_columns(ids: Sequence[str], widths: tuple[int, int]) -> list[Column]:
    """The columns of the ids; `widths` are the bytes of the longest and of all together."""
    longest, together = widths
    if _is_padded(len(ids) * longest, together, len(ids)):
        return [Column(IDS, (len(ids),), np.dtype(f"S{longest}"), _padded(ids, longest))]
    lengths = (len(name.encode()) for name in ids)
    return _packed(IDS, (name.encode() for name in ids), lengths, len(ids), together)


def _packed(name: str, texts: Iterable[bytes], lengths: Iterable[int], count: int, together: int) -> list[Column]:
    """`count` texts end to end, (together,) uint8, and where they begin and end, (count + 1,) int64."""
    return [
        Column(name, (together,), np.dtype(np.uint8), _joined(texts), packed=True),
        Column(name + OFFSETS, (count + 1,), np.dtype(np.int64), _ends(lengths), packed=True),
    ]


def ids_of_arrays(arrays: Mapping[str, np.ndarray]) -> EncodedIds:
    """The inverse of `id_columns`."""
    return PackedIds(arrays[IDS], arrays[IDS + OFFSETS]) if IDS + OFFSETS in arrays else IdArray(arrays[IDS])


def text_columns(texts: PackedIds | None) -> list[Column]:
    """The columns of the texts beside the items, where there are any; who does not know them passes over them."""
    if texts is None:
        return []
    offsets = np.asarray(texts.offsets, np.int64)
    return [
        Column(TEXTS, (len(texts.text),), np.dtype(np.uint8), [texts.text]),
        Column(TEXTS + OFFSETS, offsets.shape, offsets.dtype, [offsets]),
    ]


def texts_of_arrays(arrays: Mapping[str, np.ndarray]) -> PackedIds | None:
    """The inverse of `text_columns`."""
    return PackedIds(arrays[TEXTS], arrays[TEXTS + OFFSETS]) if TEXTS in arrays else None


def skipped_columns(skipped: Sequence[tuple[str, str]]) -> list[Column]:
    """The columns of what was skipped, (id, reason) each; packed, they follow each other in one run of texts."""
    encoded = [(name.encode(), reason.encode(errors="backslashreplace")) for name, reason in skipped]
    widths = [max((len(row[column]) for row in encoded), default=1) or 1 for column in (0, 1)]
    texts = [text for row in encoded for text in row]
    lengths = [len(text) for text in texts]
    if _is_padded(len(encoded) * sum(widths), sum(lengths), len(texts)):
        dtype = np.dtype([("id", f"S{widths[0]}"), ("reason", f"S{widths[1]}")])
        return [Column(SKIPPED, (len(encoded),), dtype, [np.array(encoded, dtype)])]
    return _packed(SKIPPED_TEXT, texts, lengths, len(texts), sum(lengths))


def skipped_of_arrays(arrays: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """The inverse of `skipped_columns`."""
    if SKIPPED in arrays:
        return [(name.decode(), reason.decode()) for name, reason in arrays[SKIPPED].tolist()]
    texts = PackedIds(arrays[SKIPPED_TEXT], arrays[SKIPPED_TEXT + OFFSETS])[:]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _is_padded(padded: int, together: int, count: int) -> bool:
    """Whether padding takes at most twice the bytes of `count` texts end to end: any reader of HDF5 sees texts then."""
    return padded <= 2 * (together + 8 * (count + 1))


def _padded(ids: Sequence[str], width: int) -> Iterator[np.ndarray]:
    step = max(1, min(_BLOCK, _BLOCK_BYTES // width))
    for start in range(0, len(ids), step):
        yield np.array([name.encode() for name in ids[start : start + step]], f"S{width}")


def _joined(texts: Iterable[bytes]) -> Iterator[np.ndarray]:
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        waiting.append(text)
        size += len(text)
        if len(waiting) == _BLOCK or size >= _BLOCK_BYTES:
            yield np.frombuffer(b"".join(waiting), np.uint8)
            waiting, size = [], 0
    yield np.frombuffer(b"".join(waiting), np.uint8)


def _ends(lengths: Iterable[int]) -> Iterator[np.ndarray]:
    done = 0
    ends = [0]
    for length in lengths:
        done += length
        ends.append(done)
        if len(ends) == _BLOCK:
            yield np.array(ends, np.int64)
            ends = []
    yield np.array(ends, np.int64)
