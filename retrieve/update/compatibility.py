"""Whether the items of a feature store may be added to an index."""

from __future__ import annotations

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.extract.store import FeatureStore
from sdc.files import differing
from sdc.retrieve.index import Index, Source
from sdc.retrieve.update.settings import AddSettings


def addable(settings: AddSettings, index: Index, store: FeatureStore, dimension: int) -> None:
    """Refuses features that can't be added, and warns of those that may be another backbone's.

    Args:
        dimension: of what the model takes.

    Raises:
        SdcError: there is nothing in the database split.
        UsageError: features of another dimension, or with other labels than the index has.
    """
    if store.dimension != dimension:
        raise UsageError(
            f"{settings.features} has features of {store.dimension} dimensions, the model of {settings.index} takes "
            f"{dimension}: add features of the same backbone"
        )
    if not len(store.splits["database"]):
        raise SdcError(f"{settings.features} has no rows in its database split: there is nothing to add")
    for name in ("labels", "labels_coarse"):
        old, new = (_kind(getattr(each, name)) for each in (index.items.stored, store))
        by_name = name in index.items.classes and name in store.classes  # the columns of multi-hot labels too
        if old != new and not (by_name and old.endswith("hot") and new.endswith("hot")):
            raise UsageError(
                f"{settings.features} has {new} {name}, {settings.index} has {old}: they must be of one kind; "
                "import or extract the new items as the others were"
            )
    ours, theirs = (
        {name: provenance.get(name) for name in ("source", "backbone", "weights_sha256", "preprocessing")}
        for provenance in (index.metadata.get("features", {}).get("provenance", {}), store.provenance)
    )
    different = differing(ours, theirs)
    if different:
        log.warning(
            "%s was made otherwise than the features of %s (%s): their codes compare only if one backbone made both",
            settings.features, settings.index, "; ".join(different),
        )  # fmt: skip


def say_replaced(index: Index, source: Source) -> None:
    """Warns where the features of items that were added before are no longer in their place."""
    past = [index.metadata.get("features", {}), *index.metadata.get("sources", [])]
    if any(each.get("path") == source.path and each["fingerprint"] != source.fingerprint for each in past):
        log.warning(
            "%s held other features when items of %s were added from it or encoded: --rerank and --neighbors float "
            "need those in their place, so give each lot of features a name of its own", source.path, index.path,
        )  # fmt: skip


def _kind(labels: np.ndarray | None) -> str:
    if labels is None:
        return "no"
    return "single" if labels.ndim == 1 else f"{labels.shape[1]} wide multi-hot"
