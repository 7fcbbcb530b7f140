"""sdc: compact binary codes from embeddings, and search over them.

`Hasher` and `Index` work on arrays in memory; the stages `sdc.extract`, `sdc.train` and `sdc.retrieve`
work on files, as the command `sdc` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdc._version import __version__

if TYPE_CHECKING:
    from sdc.api import Hasher
    from sdc.retrieve.index import Index


__all__ = ["Hasher", "Index", "__version__"]


def __getattr__(name: str) -> Any:
    # `import sdc` stays light: torch and FAISS load when the class that needs them is first touched.
    if name == "Hasher":
        from sdc.api import Hasher

        return Hasher
    if name == "Index":
        from sdc.retrieve.index import Index

        return Index
    raise AttributeError(f"module 'sdc' has no attribute {name!r}")
