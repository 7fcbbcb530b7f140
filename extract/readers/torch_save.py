"""What `torch.save` wrote, as tables: a tensor, or a dict such as {"codes": ..., "labels": ..., "id": ...}."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.errors import SdcError
from sdc.extract.readers.single_rows import gather_rows
from sdc.extract.readers.table import Table, unreadable

if TYPE_CHECKING:
    import torch

STEP = 8192  # rows of a block


def read_torch_save(path: Path) -> list[Table]:
    """The tensors that have rows, and the lists; of `{id: tensor}` the rows. Nothing else is unpickled.

    Raises:
        SdcError: it holds other things than tensors and plain values.
        Exception: whatever PyTorch raises for a damaged file.
    """
    import torch

    try:
        # Files of PyTorch before 1.6 are no zip archives, and are read as a whole.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line), "damaged, or no dump")
        raise SdcError(
            f"cannot read {path}: it must hold tensors and plain values alone ({reason[:120]}); nothing else is "
            'unpickled: save it again as torch.save({"codes": tensor, "labels": tensor, "id": tensor or list}, FILE)'
        ) from error
    values = content if isinstance(content, dict) else {"": content}
    tables = [table for name, value in values.items() if (table := _table(str(name), value)) is not None]
    by_name = {table.name: table for table in tables}
    return gather_rows(tables, lambda names: (by_name[name].read() for name in names))


def _table(name: str, value: Any) -> Table | None:
    """A tensor, or a list of numbers, of texts or of tensors of one shape; None of a single value."""
    import torch

    if isinstance(value, (list, tuple)) and value:
        return _list_table(name, value)
    if isinstance(value, dict):
        return unreadable(name, (len(value),), "dict", "is a dict in a dict, which is not read")
    if not isinstance(value, torch.Tensor) or not value.ndim:
        return None
    shape = tuple(value.shape)
    if value.layout != torch.strided or value.is_quantized:
        return unreadable(name, shape, "sparse or quantized", "is sparse or quantized, which is not read")
    tensor = value.detach()
    return Table(name, shape, _dtype(tensor), lambda: _parts(tensor))


def _list_table(name: str, values: Sequence[Any]) -> Table:
    import torch

    kinds, first = {type(value) for value in values}, values[0]
    if kinds <= {int, bool, float}:
        array = np.array(values, np.float64 if float in kinds else np.int64)
    elif kinds <= {str, bytes, int}:
        array = np.array(values, object)
    elif kinds <= {torch.Tensor, torch.nn.Parameter} and {(value.shape, value.dtype) for value in values} == {
        (first.shape, first.dtype)
    }:
        return Table(name, (len(values), *first.shape), _dtype(first), lambda: _stacked(values))
    else:
        listed = ", ".join(sorted(kind.__name__ for kind in kinds))
        return unreadable(name, (len(values),), "list", f"is a list of {listed}: save a tensor, numbers or texts")
    return Table(name, array.shape, array.dtype.name, lambda: iter([array]))


def _parts(tensor: torch.Tensor) -> Iterator[np.ndarray]:
    for start in range(0, len(tensor), STEP):
        yield _array(tensor[start : start + STEP])


def _stacked(rows: Sequence[torch.Tensor]) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), STEP):
        yield np.stack([_array(row.detach()) for row in rows[start : start + STEP]])


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _array(tensor: torch.Tensor) -> np.ndarray:
    import torch

    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
