"""SDC against other ways to keep vectors in as many bytes, on the user's own features."""

from sdc.compare.run import TABLE, CompareSettings, compare, read_comparison

__all__ = ["TABLE", "CompareSettings", "compare", "read_comparison"]
