"""What all safetensors files of ours share: how they are read, and the numbers that belong to their tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError

SCHEMA = 1
NORM_EPS = 1e-5  # torch.nn.BatchNorm1d's default
UNIT_EPSILON = 1e-12  # the least length that features are divided by


def read_tensors(path: Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
    """The tensors, metadata and recorded fingerprint of a safetensors file of ours.

    Raises:
        SdcError: it is no safetensors file, not ours, or of a newer schema.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("sdc", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise SdcError(f"{path} is not a readable {what} ({error}); it is damaged or not made by `sdc train`") from None
    if not isinstance(header, dict) or "schema" not in header:
        raise SdcError(f"{path} is a safetensors file, but not a {what} made by `sdc train`")
    if header["schema"] != SCHEMA:
        raise SdcError(f"{path} has {what} schema {header['schema']}, this sdc reads {SCHEMA}: upgrade sdc-hash")
    del header["schema"]
    return tensors, header, str(header.pop("fingerprint", ""))
