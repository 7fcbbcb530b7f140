"""Makes the golden folder: a db.bin with an item removed, then two added in the place of another."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sdc.extract.store import Listing, write_features
from sdc.retrieve.index.index import Index
from sdc.retrieve.update import changes
from sdc.retrieve.update.settings import AddSettings, RemoveSettings
from sdc.train.model import Model


def make(folder: Path) -> Path:
    """Bits are the signs of the features; the code of row r in db.bin is r."""
    tensors = {"output.weight": np.eye(8), "output.bias": np.zeros(8)}
    model = Model(tensors, {"method": "lsh", "settings": {"bits": 8}, "features": {"fingerprint": "others"}})
    model.save(folder / "model.safetensors")
    metadata = {
        "model": {"path": "model.safetensors", "fingerprint": model.fingerprint},
        "features": {"path": "feats.h5", "fingerprint": "none", "provenance": {"source": "import"}},
        "settings": {"index_type": "flat"},
        "version": "golden",
    }
    path = Index.build(np.arange(6, dtype=np.uint8)[:, None], metadata=metadata).save(folder / "db.bin")
    changes.remove(RemoveSettings(path, ("2",)))
    listing = Listing(["x", "unused", "y"], {"database": np.array([0, 2])})
    bits = np.unpackbits(np.array([[100], [101], [102]], np.uint8), axis=1, bitorder="little")
    features = bits.astype(np.float32) * 2 - 1
    more = write_features(folder / "more.h5", listing, {"source": "import"}, 8, np.float32, [features])
    changes.add(AddSettings(path, more))
    return path


if __name__ == "__main__":
    make(Path(sys.argv[1]))
