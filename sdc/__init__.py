"""sdc: compact binary codes from embeddings, and search over them.

`Hasher` and `Index` work on arrays in memory; the stages `sdc.extract`, `sdc.train` and `sdc.retrieve`
work on files, as the command `sdc` does. What goes wrong with a user's data or request is an `SdcError`,
with a request alone a `UsageError`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sdc._version import __version__
from sdc.devices import wait_passively

if TYPE_CHECKING:
    from sdc.api import Hasher
    from sdc.errors import SdcError, UsageError
    from sdc.retrieve import Index

__all__ = ["Hasher", "Index", "SdcError", "UsageError", "__version__"]

wait_passively()  # before any library with threads is loaded

# `import sdc` stays light: PyTorch and FAISS load when the class that needs them is first touched.
_HOMES = {"Hasher": "sdc.api", "Index": "sdc.retrieve", "SdcError": "sdc.errors", "UsageError": "sdc.errors"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sdc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
