"""Heads for other programs: the stage `export` and its formats."""

from sdc.train.export.formats import FORMATS
from sdc.train.export.run import ExportSettings
from sdc.train.export.run import run as export_head

__all__ = ["FORMATS", "ExportSettings", "export_head"]
