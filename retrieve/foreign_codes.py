"""`sdc import --codes`: binary codes that were made elsewhere become db.bin, with ids, labels and a query split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError, log
from sdc.extract import ImportSettings, find_codes, opened_import, packed_codes
from sdc.extract.store import Listing
from sdc.files import check_same_settings, writable
from sdc.retrieve.encode import labels_of_rows
from sdc.retrieve.index import Ids, Index, Records


def import_codes(settings: ImportSettings) -> Path:
    """Makes db.bin of codes.

    Their bits may have any order, as long as queries have the same: a Hamming distance does not depend on it.

    Args:
        settings: `vectors` are the codes, see `sdc.extract.code_files.packed_codes`; `dtype` is not given.

    Raises:
        UsageError: no codes, or no such; `out` exists and was made of others.
        SdcError: a file is missing or damaged; labels, ids, splits or ground truth do not fit.
    """
    if settings.dtype is not None:
        raise UsageError("--dtype is of features: leave it out with --codes")
    out = Path(settings.out)
    with opened_import(settings, find_codes) as opened:
        origin = {name: value for name, value in opened.provenance.items() if name != "version"}
        if out.is_file() and not settings.overwrite:
            check_same_settings(out, _origin(out), origin)
            return out
        writable(out, *opened.source.files)
        codes = packed_codes(opened.table.read(), opened.source.name)
        listing = opened.listing()
    rows, queries = (listing.splits[name] for name in ("database", "query"))
    if not len(rows):
        raise SdcError(f"{opened.source.name} has no rows in its database split: there is nothing to search")
    split = Records(
        codes[queries],
        queries,
        _ids(listing, queries),
        groundtruth=listing.groundtruth,
        **labels_of_rows(listing, queries),
    )
    index = Index.build(
        codes[rows],
        ids=_ids(listing, rows),
        **labels_of_rows(listing, rows),
        classes=listing.classes,
        texts=None if listing.texts is None else Ids.of_stored(listing.texts, rows),
        rows=rows,
        queries=split if len(queries) else None,
        metadata={"codes": origin},
        copy=False,
    )
    index.save(out)
    log.info("%s: %d codes of %d bits, and %d queries", out, len(index), index.bits, len(queries))
    return out


def _origin(out: Path) -> dict[str, Any]:
    """What an index that is there was made of."""
    try:
        return dict(Index.open(out).metadata.get("codes", {}))
    except SdcError as error:
        raise SdcError(f"{error}; --overwrite replaces it") from None


def _ids(listing: Listing, rows: np.ndarray) -> Ids | None:
    """The ids of rows; None where each is its row in digits."""
    names = [listing.ids[row] for row in rows.tolist()]
    return None if all(name == str(row) for name, row in zip(names, rows.tolist(), strict=True)) else Ids.of(names)
