"""The tables of the paper: our figures beside the published ones."""

from sdc.reproduce.job import ReproduceSettings
from sdc.reproduce.plan import make_plan, plan_text
from sdc.reproduce.run import reproduce
from sdc.reproduce.tables import TABLES, catalogue

__all__ = ["TABLES", "ReproduceSettings", "catalogue", "make_plan", "plan_text", "reproduce"]
