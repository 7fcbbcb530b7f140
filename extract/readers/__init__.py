"""Vectors in the formats of other tools, read block by block."""

from sdc.extract.readers.registry import READERS, read_tables
from sdc.extract.readers.safe_pickle import read_pickle
from sdc.extract.readers.table import Table

__all__ = ["READERS", "Table", "read_pickle", "read_tables"]
