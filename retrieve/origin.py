"""What made the codes of an index, wherever it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol


class Origin(Protocol):
    """What names the model of queries: an index, or another engine's copy of it."""

    @property
    def path(self) -> Path | str | None: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    @property
    def vouched(self) -> bool: ...

    def recorded(self, what: Literal["model", "features"]) -> tuple[Path, str]: ...


def is_refined(index: Origin) -> bool:
    """Whether the codes of an index are refined where its model can: unless it was encoded with --no-refine."""
    return not index.metadata.get("settings", {}).get("no_refine", False)
