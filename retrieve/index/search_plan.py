"""How an exact search is carried out: a pure choice from the numbers that decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

QUERY_GROUP = 32  # queries scanned together: they share each pass over the codes
GPU_K = 512  # FAISS selects at least 1024 on a GPU, and ties are settled by those beyond k
_SPLIT = 1 << 21  # words (8 bytes of a code) of work from which a second thread pays: it takes 0.1 ms to wake
_SLICE = 1 << 21  # words of a slice, about 0.3 ms
_SLICES = 4  # slices a thread: a thread that other work holds up leaves the rest to the others
_EVEN = 0.9  # of the threads are busy on average
_LISTED = 50  # each slice finds k by itself: k is to be at most 1/50 of it
_GPU_QUERIES = 64  # one block of threads serves one query: fewer leave a GPU idle
_GPU_WORK = 1 << 33  # words: half a second to a second of one CPU thread, which reads 10 to 20 G a second


@dataclass(frozen=True)
class Plan:
    """How a search is carried out.

    Attributes:
        how: on one thread, with the database split over threads, with the queries split over threads, or on GPUs.
        threads: of the CPU.
        shards: parts the database is split into.
        reason: why so, a clause.
    """

    how: Literal["serial", "database", "queries", "gpu"]
    threads: int
    shards: int
    reason: str

    def __str__(self) -> str:
        where = {
            "serial": "on one thread",
            "database": f"database in {self.shards} slices over {self.threads} threads",
            "queries": f"queries over {self.threads} threads",
            "gpu": f"on {self.shards} GPU{'s' * (self.shards > 1)}",
        }[self.how]
        return f"{where}: {self.reason}"


def plan(queries: int, codes: int, width: int, k: int, *, threads: int, gpus: int = 0) -> Plan:
    """Chooses how to find the k nearest of `codes` codes of `width` bytes to each of `queries` queries.

    Args:
        threads: CPUs this process may use.
        gpus: CUDA devices, 0 where the search can't run on them.
    """
    scan = codes * -(-width // 8)  # words read for one query
    work = queries * scan
    if gpus and queries >= _GPU_QUERIES and k <= GPU_K and work >= _GPU_WORK:
        return Plan("gpu", 1, min(gpus, codes), f"{queries} queries are enough to fill it")
    if threads == 1:
        return Plan("serial", 1, 1, "this process may use one CPU")
    if work < _SPLIT:
        return Plan("serial", 1, 1, "the scan is shorter than waking a second thread pays for")
    if queries / (-(-queries // threads) * threads) >= _EVEN:
        return Plan("queries", threads, 1, "every thread has its share of them")
    slices = min(max(scan // _SLICE, threads), _SLICES * threads, codes // (_LISTED * k))
    if slices > 1:
        return Plan("database", min(threads, slices), slices, "too few queries to share them out")
    if queries == 1:
        return Plan("serial", 1, 1, f"each slice of the database would have to list {k} neighbours")
    return Plan("queries", min(threads, queries), 1, f"each slice of the database would have to list {k} neighbours")
