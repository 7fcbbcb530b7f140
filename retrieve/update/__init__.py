"""`sdc add`, `sdc remove`, `sdc compact`: changes to an index."""

from sdc.retrieve.update.changes import add, compact, remove
from sdc.retrieve.update.settings import AddSettings, CompactSettings, RemoveSettings

__all__ = ["AddSettings", "CompactSettings", "RemoveSettings", "add", "compact", "remove"]
