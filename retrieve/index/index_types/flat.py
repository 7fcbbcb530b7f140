"""The type flat: every code is compared, so the search is exact."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdc.retrieve.index import faiss_layout
from sdc.retrieve.index.faiss_layout import Layout
from sdc.retrieve.index.flat_search import FlatSearcher
from sdc.retrieve.index.index_types.base import BuildRequest, Built, IndexChoice, IndexType


class FlatType(IndexType):
    """Codes by position, as FAISS' IndexBinaryFlat has them."""

    name = "flat"
    label = "flat"
    help = "exact search."
    fourcc = faiss_layout.FLAT
    exact = True
    keeps_order = True

    def footprint(self, count: int, width: int) -> int:
        return count * width

    def build(self, request: BuildRequest) -> Built:
        return flat_instead(request, "as asked")

    def open(self, path: Path, codes: np.ndarray, options: Mapping[str, Any]) -> FlatSearcher:
        return FlatSearcher(codes)

    def layout(self, data: mmap.mmap, size: int) -> Layout:
        return faiss_layout.flat_layout(data)


def flat_instead(request: BuildRequest, why: str, **measured: Any) -> Built:
    """A flat index, and why it is none of another type.

    Args:
        measured: further fields of `IndexChoice`.
    """
    choice = IndexChoice("flat", why, INDEX_TYPE.footprint(*request.codes.shape), **measured)
    return Built(choice, FlatSearcher(request.codes))


INDEX_TYPE = FlatType()
