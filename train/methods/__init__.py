"""Hashing methods: closed-form and trained ones, one a file, found by name."""

from sdc.train.methods.base import PUBLISHED, ClosedForm
from sdc.train.methods.registry import CALIBRATED, METHODS, load_method, published_settings

__all__ = ["CALIBRATED", "METHODS", "PUBLISHED", "ClosedForm", "load_method", "published_settings"]
