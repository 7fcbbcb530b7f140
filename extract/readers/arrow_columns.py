"""Arrow's columns as arrays: the types that Parquet, Feather and Arrow files share.

Read are numbers, texts, and lists of numbers of one length; dictionaries (categories) and run-end encoding are decoded;
decimals, times, UUIDs and bytes become text (whole decimals numbers); extension types are taken by their storage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sdc.extract.readers.table import ContentError, Table, block_rows, unreadable

TEXTS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
Batches = Callable[[Sequence[str], int], Iterator[Any]]  # (columns, rows of a batch at most) -> record batches


def arrow_tables(schema: Any, rows: int, batches: Batches) -> list[Table]:
    """The columns of a file as tables; numbered columns of numbers (`dim_0`, `dim_1`, …) stand for one, `dim_*`.

    Args:
        schema: the file's, of pyarrow.
        rows: of the file.
        batches: reads record batches of some columns, with at most so many rows each.
    """
    names = schema.names
    classes = _classes(schema.metadata or {})
    tables = [
        replace(_column(field, rows, batches, names.count(field.name)), classes=classes.get(field.name, ()))
        for field in schema
    ]
    groups = _numbered([table.name for table in tables if table.numeric and len(table.shape) == 1])
    members = {name for names in groups.values() for name in names}
    kinds = {table.name: table.dtype for table in tables}
    return [
        *(table for table in tables if table.name not in members),
        *(_joined(stem, names, [kinds[name] for name in names], rows, batches) for stem, names in groups.items()),
    ]


def _classes(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """The names of classes, by column, that Hugging Face's `datasets` keeps in the schema of its files."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            name: tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _numbered(names: Sequence[str]) -> dict[str, list[str]]:
    """The names that differ in their last number alone, in its order, where these are 0, 1, 2, … or 1, 2, 3, …"""
    found: dict[str, dict[int, str]] = {}
    for name in names:
        match = re.fullmatch(r"(.*?)(\d{1,6})", name)
        if match:
            found.setdefault(match[1], {})[int(match[2])] = name
    return {
        stem: [group[number] for number in sorted(group)]
        for stem, group in found.items()
        if len(group) > 1 and min(group) in (0, 1) and max(group) - min(group) == len(group) - 1
    }


def _joined(stem: str, names: list[str], dtypes: list[str], rows: int, batches: Batches) -> Table:
    shape, dtype = (rows, len(names)), np.result_type(*dtypes)

    def blocks() -> Iterator[np.ndarray]:
        done = 0
        for batch in batches(names, block_rows(shape, 8)):
            columns = [batch.column(batch.schema.get_field_index(name)) for name in names]
            pairs = zip(columns, names, strict=True)
            yield np.column_stack([_numbers(column, name, done).astype(dtype, copy=False) for column, name in pairs])
            done += batch.num_rows

    return Table(f"{stem}*", shape, dtype.name, blocks)


def _column(field: Any, rows: int, batches: Batches, of_its_name: int) -> Table:
    name, kind = field.name, _storage(field.type)
    if of_its_name > 1:
        return unreadable(
            name, (rows,), str(field.type), f"is the name of {of_its_name} columns, of which none is read"
        )
    values, inner = kind, _list_shape(field.type)
    if inner is not None:
        values = _storage(kind.value_type)
    dtype = _dtype(values)
    if dtype is None or (inner is not None and dtype in ("object", "bytes") and not _is_decimal(values)):
        return unreadable(name, (rows,), str(field.type), f"is of the type {field.type}, which is not read")
    if inner is None:
        return Table(name, (rows,), dtype, lambda: _scalar_blocks(name, rows, batches))
    dtype = "float64" if dtype == "object" else dtype
    first = 0
    if 0 in inner:  # lists of any length: the first that is not empty tells
        head = next(batches([name], 1024), None)
        lengths = [] if head is None else [length or 0 for length in _plain(head.column(0)).value_lengths().to_pylist()]
        first = next((row for row, length in enumerate(lengths) if length), 0)
        inner = (lengths[first],) if lengths else (0,)
    shape = (rows, *inner)
    return Table(name, shape, dtype, lambda: _list_blocks(name, shape, dtype, first, batches))


def _list_shape(kind: Any) -> tuple[int, ...] | None:
    """The shape of a row of lists, (0,) where it may be any; None of what are no lists."""
    from pyarrow import types

    if hasattr(kind, "storage_type") and isinstance(getattr(kind, "shape", None), list):
        return tuple(kind.shape)  # a tensor of fixed shape
    kind = _storage(kind)
    if types.is_fixed_size_list(kind):
        return (kind.list_size,)
    views = any(is_view(kind) for is_view in (types.is_list_view, types.is_large_list_view))
    return (0,) if views or types.is_list(kind) or types.is_large_list(kind) else None


def _storage(kind: Any) -> Any:
    """The type behind an extension, a dictionary and run-end encoding."""
    from pyarrow import types

    while True:
        if hasattr(kind, "storage_type"):
            kind = kind.storage_type
        elif types.is_dictionary(kind) or types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def _is_decimal(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_decimal(kind))


def _dtype(kind: Any) -> str | None:
    """The dtype of what `_plain` makes of values of this type; None where they are not read."""
    from pyarrow import types

    if types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind):
        return str(np.dtype(kind.to_pandas_dtype()))
    if _is_decimal(kind):
        return "int64" if _is_whole(kind) else "object"
    binary = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    if any(is_kind(kind) for is_kind in binary):
        return "bytes"
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_temporal)
    return "object" if any(is_kind(kind) for is_kind in texts) and not types.is_interval(kind) else None


def _is_whole(decimal: Any) -> bool:
    return bool(decimal.scale <= 0 and decimal.precision - decimal.scale <= 18)


def _plain(values: Any) -> Any:
    """An Arrow array without extension, dictionary and encoding: of numbers, texts, bytes or lists."""
    import pyarrow as arrow
    from pyarrow import compute, types

    while True:
        kind = values.type
        if getattr(kind, "extension_name", "") == "arrow.uuid":
            return arrow.array([None if value is None else str(value) for value in values.to_pylist()], arrow.string())
        if hasattr(kind, "storage_type"):
            values = values.storage
        elif types.is_dictionary(kind):
            values = _entries(values.dictionary).take(values.indices)
        elif types.is_run_end_encoded(kind):
            values = compute.run_end_decode(values)
        elif types.is_list_view(kind) or types.is_large_list_view(kind):
            return arrow.array(values.to_pylist(), arrow.large_list(kind.value_type))  # its own cast was wrong
        elif types.is_decimal(kind):
            if _is_whole(kind):
                return values.cast(arrow.int64())
            return arrow.array([None if value is None else str(value) for value in values.to_pylist()], arrow.string())
        elif types.is_temporal(kind):
            return compute.replace_substring_regex(values.cast(arrow.string()), r"\.0+(Z?)$", r"\1")
        else:
            return values


def _entries(dictionary: Any) -> Any:
    """The entries of a dictionary, of a type of which some can be taken."""
    import pyarrow as arrow

    taken = {arrow.string_view(): arrow.large_string(), arrow.binary_view(): arrow.large_binary()}
    return dictionary.cast(taken.get(dictionary.type, dictionary.type))


def _numbers(values: Any, column: str, start: int) -> np.ndarray:
    """The values of a column, (n,): one in each row, or None where a text is missing."""
    values = _plain(values)
    if values.null_count and str(values.type) not in TEXTS:
        rows = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)) + start
        raise ContentError(f"column {column} has no value in row {rows[0]}{_and_more(len(rows))}")
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _and_more(count: int) -> str:
    return f" and {count - 1} more" if count > 1 else ""


def _scalar_blocks(column: str, rows: int, batches: Batches) -> Iterator[np.ndarray]:
    done = 0
    for batch in batches([column], block_rows((rows,), 8)):
        yield _numbers(batch.column(0), column, done)
        done += batch.num_rows


def _list_blocks(column: str, shape: tuple[int, ...], dtype: str, first: int, batches: Batches) -> Iterator[np.ndarray]:
    done, d = 0, int(np.prod(shape[1:]))
    for batch in batches([column], block_rows(shape, 8)):
        yield (
            _list_rows(_plain(batch.column(0)), column, done, d, first)
            .astype(dtype, copy=False)
            .reshape(-1, *shape[1:])
        )
        done += batch.num_rows


def _list_rows(values: Any, column: str, start: int, d: int, first: int) -> np.ndarray:
    """A batch of lists as (n, d), where each has `d` values, as that of row `first` has."""
    if values.null_count:
        nulls = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)) + start
        raise ContentError(f"column {column} has no value in row {nulls[0]}{_and_more(len(nulls))}")
    lengths = np.asarray(values.value_lengths())
    odd = np.flatnonzero(lengths != d)
    if odd.size:
        raise ContentError(
            f"column {column} holds {lengths[odd[0]]} values in row {start + odd[0]} and {d} in row {first}, expected "
            "the same number in each"
        )
    flat = _plain(values.flatten())
    if flat.null_count:
        empty = np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))
        rows = np.unique(empty // max(1, d)) + start
        raise ContentError(f"column {column} holds empty values in row {rows[0]}{_and_more(len(rows))}")
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(values), d)
