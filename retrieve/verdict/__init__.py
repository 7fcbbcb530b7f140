"""What an index is worth, in five lines: its size, what it finds, how fast, and what to do if that is too little."""

from sdc.retrieve.verdict.figures import Figures, Recall, Warned
from sdc.retrieve.verdict.run import judge
from sdc.retrieve.verdict.words import advice, verdict_json, verdict_lines

__all__ = ["Figures", "Recall", "Warned", "advice", "judge", "verdict_json", "verdict_lines"]
