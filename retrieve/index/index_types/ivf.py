"""The type ivf: codes in lists around centroids, of which a search scans some; fast, and approximate."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.inputs import utf8_path
from sdc.retrieve.index import faiss_layout
from sdc.retrieve.index.faiss_layout import Layout
from sdc.retrieve.index.flat_search import FlatSearcher
from sdc.retrieve.index.index_types import ivf_lists
from sdc.retrieve.index.index_types.base import NEIGHBORS, BuildRequest, Built, IndexChoice, IndexType
from sdc.retrieve.index.index_types.flat import flat_instead
from sdc.retrieve.index.index_types.ivf_nprobe import plan_scan
from sdc.retrieve.index.index_types.ivf_search import IVFSearcher
from sdc.retrieve.index.index_types.measure import QuerySample, timed
from sdc.retrieve.index.threads import faiss_module

GAIN = 1.25  # how much faster than exact search it must be to be chosen: it is approximate
MOST_SCANNED = 0.5  # of the codes, beyond which it is not worth a timing
_TRIAL = 200_000  # codes for a first look at a larger database
_TIMED = 50  # queries, one at a time


class IVFType(IndexType):
    """Lists of codes, as FAISS' IndexBinaryIVF has them."""

    name = "ivf"
    label = "IVF"
    help = "faster and approximate, for millions of codes."
    fourcc = faiss_layout.IVF
    competes = True
    options: ClassVar[Mapping[str, str]] = {
        "nprobe": "Lists of an IVF index to scan: more find more.  [default: chosen at `sdc encode`]"
    }

    def footprint(self, count: int, width: int) -> int:
        return ivf_lists.footprint(count, width, ivf_lists.list_count(count))

    def build(self, request: BuildRequest) -> Built:
        count, width = request.codes.shape
        rng = np.random.default_rng(request.seed)
        if count <= NEIGHBORS:
            return flat_instead(request, f"{count} codes are too few for lists")
        memory = self.footprint(count, width)
        if request.auto and request.memory is not None and memory > request.memory:
            return flat_instead(request, f"IVF would take {memory} bytes, --memory allows {request.memory}")
        return _measured(request, memory, rng)

    def open(self, path: Path, codes: np.ndarray, options: Mapping[str, Any]) -> IVFSearcher:
        nprobe = options.get("nprobe")
        if nprobe is not None and nprobe < 1:
            raise UsageError(f"--nprobe must be at least 1, found {nprobe}")
        faiss = faiss_module()
        try:
            inverted = faiss.read_index_binary(str(utf8_path(path)), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise SdcError(f"FAISS cannot read {path}: {str(error).splitlines()[0]}") from None
        return IVFSearcher(inverted, codes, nprobe)

    def layout(self, data: mmap.mmap, size: int) -> Layout:
        return faiss_layout.ivf_layout(data)


def pays(exact: float, approximate: float) -> bool:
    """Whether a search by lists is worth being approximate, by the milliseconds of a query."""
    return approximate * GAIN <= exact


def _measured(request: BuildRequest, memory: int, rng: np.random.Generator) -> Built:
    """The index with as many lists scanned as the recall takes; flat where another type would do and it is no gain."""
    codes, recall, seed = request.codes, request.recall, int(rng.integers(2**31))
    if request.auto and len(codes) > 2 * _TRIAL:
        scanned = _scanned_in_sample(request, rng, seed)
        if scanned > MOST_SCANNED:
            return flat_instead(request, _hopeless(recall, scanned, f"in a sample of {_TRIAL} codes "), asked=recall)
    queries = QuerySample.of(request, rng)
    scan = plan_scan(codes, queries, ivf_lists.list_count(len(codes)), recall, seed)
    if request.auto and scan.scanned > MOST_SCANNED:
        return flat_instead(request, _hopeless(recall, scan.scanned), asked=recall)
    searcher = IVFSearcher(ivf_lists.build(codes, scan.centroids, scan.assigned), codes, scan.nprobe)
    exact, approximate = timed([FlatSearcher(codes).search, searcher.search], queries.codes[:_TIMED])
    measured: Mapping[str, Any] = {
        "asked": recall, "flat_milliseconds": exact, "queries": len(queries), "measured_on": queries.origin,
    }  # fmt: skip
    if request.auto and not pays(exact, approximate):
        why = f"IVF takes {approximate:.3g} ms for recall {scan.recall:.3f}, exact search {exact:.3g} ms"
        return flat_instead(request, why, milliseconds=exact, **measured)
    lists = len(scan.centroids)
    choice = IndexChoice(
        "ivf",
        f"exact search takes {exact:.3g} ms" if request.auto else "as asked",
        memory,
        scan.recall,
        milliseconds=approximate,
        **measured,
        details={"lists": lists, "nprobe": scan.nprobe},
        search=f"{scan.nprobe} of {lists} lists scanned, recall@{NEIGHBORS} {scan.recall:.3f}",
    )
    return Built(choice, searcher)


def _scanned_in_sample(request: BuildRequest, rng: np.random.Generator, seed: int) -> float:
    """The share of the codes that would have to be scanned, in a sample of a large database."""
    sample = np.sort(rng.choice(len(request.codes), _TRIAL, replace=False))
    codes = request.codes[sample]
    part = replace(request, codes=codes, rows=request.rows[sample], query_codes=codes[:0], query_rows=sample[:0])
    lists = ivf_lists.list_count(_TRIAL)
    return plan_scan(codes, QuerySample.of(part, rng), lists, request.recall, seed).scanned


def _hopeless(recall: float, scanned: float, where: str = "") -> str:
    return f"for recall {recall:g} IVF would have to scan {scanned:.0%} of the codes {where}".rstrip()


INDEX_TYPE = IVFType()
