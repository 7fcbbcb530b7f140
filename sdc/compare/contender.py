"""What `sdc compare` compares, whatever it is: codes of a head, a quantizer or plain floats."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

ASYMMETRIC = "-asymmetric"  # ends the name of a method whose codes are compared with the query's real outputs
TABLES = "-tables"  # ends the name of a method whose codes are compared with the query by what they decode to
RERANKED = "-reranked"  # ends the name of a method whose codes find candidates, which features put in order


class Contender(ABC):
    """A way to keep N vectors in few bytes and to search them.

    Attributes:
        bytes: of a vector in memory, all that is kept for each.
        disk: bytes of a vector on disk; the same, unless features are read from there.
        query: what a query is compared as: its `code`, or `float` numbers.
    """

    bytes: int
    query: str
    disk: int | None = None

    @abstractmethod
    def prepare(self, features: np.ndarray) -> np.ndarray:
        """Queries (b, d) as `search` and `groups` take them."""

    @abstractmethod
    def search(self, prepared: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest by FAISS: distances and positions in the database, each (b, k)."""

    @abstractmethod
    def groups(self, prepared: np.ndarray, depth: int) -> tuple[np.ndarray, int]:
        """(b, N) int32, a new array: the group of ties each item is in, 0 being the nearest; and how many there are.

        All that stands below `depth` may be one group, the last.
        """
