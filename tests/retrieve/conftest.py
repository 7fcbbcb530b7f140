"""A small scene of all three files: clustered features, a random-projection model, and the index made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.retrieve.encode import EncodeSettings, run
from sdc.retrieve.index.index import Index
from sdc.train.model import Model

DIMENSION, ROWS, QUERIES, CLASSES = 24, 400, 30, 5


@dataclass(frozen=True)
class Scene:
    """feats.h5, model.safetensors and db.bin in one folder."""

    folder: Path

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(self.folder / "feats.h5")

    @property
    def model(self) -> Model:
        return Model.load(self.folder / "model.safetensors")

    @property
    def index(self) -> Index:
        return Index.open(self.folder / "db.bin")

    def write_features(
        self,
        name="feats.h5",
        *,
        seed=0,
        labels="single",
        coarse=None,
        queries=QUERIES,
        database="all",
        dimension=DIMENSION,
        order=None,
        classes=None,
    ):
        """Clustered features; the database is `all` rows, those `without` the queries', or `none`."""
        rng = np.random.default_rng(seed)
        kind = rng.integers(0, CLASSES, ROWS)
        features = rng.standard_normal((CLASSES, dimension))[kind] + rng.standard_normal((ROWS, dimension))
        features[7] = features[11]  # equal vectors tie
        features[13] = 0  # has no direction
        made = {
            "single": kind.astype(np.int32),
            "some": np.where(np.random.default_rng(1).random(ROWS) < 0.3, -1, kind).astype(np.int32),
            "multi": (rng.random((ROWS, CLASSES)) < 0.2).astype(np.uint8),
            None: None,
        }[labels]
        upper = {
            "single": (kind // 2).astype(np.int32),
            "multi": np.stack([kind < 2, kind > 2, kind % 2 == 0], axis=1).astype(np.uint8),
            None: None,
        }[coarse]
        query = rng.choice(ROWS, queries, replace=False)
        order = np.arange(ROWS) if order is None else order  # the same rows in another order
        query = np.sort(np.argsort(order)[query])
        rows = {
            "all": np.arange(ROWS),
            "without": np.setdiff1d(np.arange(ROWS), query),
            "none": np.arange(0),
        }[database]
        listing = Listing(
            [f"img/{row:04}.png" for row in order],
            {"query": query, "database": rows},
            labels=None if made is None else made[order],
            labels_coarse=None if upper is None else upper[order],
            classes=classes or {},
        )
        provenance = {"source": "import", "seed": seed, "protocol": {"name": "category", "at": 50}}
        features = features.astype(np.float32)[order]
        return write_features(self.folder / name, listing, provenance, dimension, np.float32, [features])

    def write_model(self, name="model.safetensors", *, seed=0, bits=16, dimension=DIMENSION):
        rng = np.random.default_rng(seed)
        tensors = {"output.weight": rng.standard_normal((bits, dimension)), "output.bias": rng.standard_normal(bits)}
        metadata = {"method": "lsh", "settings": {"bits": bits}, "features": {"fingerprint": "others"}}
        return Model(tensors, metadata).save(self.folder / name)

    def encode(self, features="feats.h5", model="model.safetensors", out="db.bin", **options):
        paths = {"features": features, "model": model, "out": out}
        return run(EncodeSettings(**{key: self.folder / name for key, name in paths.items()}, **options))


@pytest.fixture
def make_scene(tmp_path):
    """A function that writes all three files, its options those of `Scene.write_features`."""

    def make(**options):
        scene = Scene(tmp_path)
        scene.write_features(**options)
        scene.write_model()
        scene.encode()
        return scene

    return make


@pytest.fixture
def scene(make_scene):
    return make_scene()
