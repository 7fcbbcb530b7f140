"""What `torch.save` wrote, as tables: a tensor, or a dict such as {"codes": ..., "labels": ..., "id": ...}."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.errors import SdcError
from sdc.extract.readers.table import Table

if TYPE_CHECKING:
    import torch

STEP = 8192  # rows of a block


def read_torch_save(path: Path) -> list[Table]:
    """The tensors that have rows, and the lists; `id` is renamed to `ids`. Nothing else is unpickled.

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
    named = {"ids" if name == "id" and "ids" not in values else str(name): value for name, value in values.items()}
    return [table for name, value in named.items() if (table := _table(name, value)) is not None]


def _table(name: str, value: Any) -> Table | None:
    """A tensor, or a list of numbers or texts; None for what has no rows."""
    import torch

    if isinstance(value, (list, tuple)) and value and all(isinstance(item, (str, int)) for item in value):
        array = np.array(value, object if isinstance(value[0], str) else np.int64)
        return Table(name, array.shape, array.dtype.name, lambda: iter([array]))
    if not isinstance(value, torch.Tensor) or not value.ndim or value.layout != torch.strided:
        return None
    tensor = value.detach()
    return Table(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), lambda: _blocks(tensor))


def _blocks(tensor: torch.Tensor) -> Iterator[np.ndarray]:
    import torch

    for start in range(0, len(tensor), STEP):
        block = tensor[start : start + STEP]
        yield (block.float() if block.dtype == torch.bfloat16 else block).numpy()
