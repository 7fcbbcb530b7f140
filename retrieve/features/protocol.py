"""What features are, whoever holds them: one store, or several that are read as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np


class Features(Protocol):
    """Features by rows: a feature store, or several that are read as one."""

    @property
    def dimension(self) -> int: ...

    @property
    def row_bytes(self) -> int: ...

    def take(self, rows: np.ndarray) -> np.ndarray: ...

    def blocks(self, rows: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]: ...
