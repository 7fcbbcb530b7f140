"""The tables of the paper: our figures beside the published ones."""

from sdc.reproduce.plan import plan, plan_text
from sdc.reproduce.run import ReproduceSettings, reproduce
from sdc.reproduce.tables import TABLES, catalogue

__all__ = ["TABLES", "ReproduceSettings", "catalogue", "plan", "plan_text", "reproduce"]
