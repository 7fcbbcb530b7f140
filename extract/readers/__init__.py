"""Vectors in the formats of other tools, read block by block."""

from sdc.extract.readers.registry import READERS, open_source, read_tables
from sdc.extract.readers.safe_pickle import read_pickle
from sdc.extract.readers.table import USUAL_NAMES, Source, Table

__all__ = ["READERS", "USUAL_NAMES", "Source", "Table", "open_source", "read_pickle", "read_tables"]
