"""feats.h5: written whole or not at all, read through memory maps."""

from sdc.extract.store.store import SPLITS, FeatureStore, Listing, default_splits, write_features

__all__ = ["SPLITS", "FeatureStore", "Listing", "default_splits", "write_features"]
