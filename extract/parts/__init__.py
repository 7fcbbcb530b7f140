"""Extractions in parts: resumable, and shared by several processes."""

from sdc.extract.parts.leases import Leases
from sdc.extract.parts.leftovers import parts_folder
from sdc.extract.parts.part_set import Parts, is_up_to_date
from sdc.extract.parts.worker import PartWorker, assemble_once

__all__ = ["Leases", "PartWorker", "Parts", "assemble_once", "is_up_to_date", "parts_folder"]
