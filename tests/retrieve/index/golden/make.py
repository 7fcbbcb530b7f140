"""Makes db.bin and named.bin beside it: small indexes with what db.bin can hold. Run it when the format changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.records import Records

ROWS = np.arange(24) * 3 + 1


def codes(count: int, start: int) -> np.ndarray:
    return (np.arange(start, start + count * 4) * 37 % 251).astype(np.uint8).reshape(count, 4)


def build(names: dict[int, str] | None = None, **metadata: object) -> Index:
    queries = Records(codes(5, 1000), np.arange(5), Ids.of([f"query-{i}" for i in range(5)]), np.arange(5) % 3)
    return Index.build(
        codes(24, 0),
        ids=[f"bild-{row}-ä" for row in ROWS],
        labels=np.arange(24) % 3,
        classes={"labels": names} if names else None,
        rows=ROWS,
        queries=queries,
        metadata={
            "model": {"path": "model.safetensors", "fingerprint": "0" * 32, "method": "sdc", "trained_on": "1" * 32},
            "features": {"path": "feats.h5", "fingerprint": "1" * 32, "provenance": {"source": "import"}},
            "settings": {"index_type": "flat"},
            **metadata,
        },
    )


NAMES = {0: "T-shirt/top", 1: "näktergal", 2: "3"}

if __name__ == "__main__":
    build().save(Path(__file__).with_name("db.bin"))
    build(NAMES, version="golden").save(Path(__file__).with_name("named.bin"))
