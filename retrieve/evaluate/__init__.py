"""Scores of an index: mAP by labels or ground truth, and how many of the features' neighbours the codes keep."""

from sdc.retrieve.evaluate.landmark_metrics import revisited
from sdc.retrieve.evaluate.ranking_metrics import average_precision
from sdc.retrieve.evaluate.run import EvaluateSettings, evaluate

__all__ = ["EvaluateSettings", "average_precision", "evaluate", "revisited"]
