"""Whether the codes of an index have collapsed, how, and what to change."""

from sdc.retrieve.diagnose.run import DiagnoseSettings
from sdc.retrieve.diagnose.run import run as diagnose
from sdc.retrieve.diagnose.similarity_histograms import Histogram
from sdc.retrieve.diagnose.similarity_histograms import write as write_histograms

__all__ = ["DiagnoseSettings", "Histogram", "diagnose", "write_histograms"]
