"""Scores of an index: mAP by labels or ground truth, and how many of the features' neighbors the codes keep."""

from sdc.retrieve.evaluate.distance_counts import count_groups
from sdc.retrieve.evaluate.landmark_metrics import revisited
from sdc.retrieve.evaluate.metrics import METRICS, Metric, Rankings, table_columns
from sdc.retrieve.evaluate.ranking_metrics import average_precision, average_precision_of_groups
from sdc.retrieve.evaluate.rankings import groups_of_scores
from sdc.retrieve.evaluate.relevance import share_label
from sdc.retrieve.evaluate.run import EvaluateSettings, evaluate

__all__ = [
    "METRICS",
    "EvaluateSettings",
    "Metric",
    "Rankings",
    "average_precision",
    "average_precision_of_groups",
    "count_groups",
    "evaluate",
    "groups_of_scores",
    "revisited",
    "share_label",
    "table_columns",
]
