"""Training hash heads: models, recipes and the stage `train`."""

from sdc.train.byte_tables import ByteTables, CodeTables
from sdc.train.fit_tables import fit_code_tables
from sdc.train.goals import GOALS, Goal, choose_goal
from sdc.train.model import Model
from sdc.train.presets import PRESETS, make_recipe, recorded_recipe
from sdc.train.recipe import Recipe
from sdc.train.run import TrainSettings, model_metadata
from sdc.train.run import run as train_head
from sdc.train.tensors import NORM_EPS

__all__ = [
    "GOALS",
    "NORM_EPS",
    "PRESETS",
    "ByteTables",
    "CodeTables",
    "Goal",
    "Model",
    "Recipe",
    "TrainSettings",
    "choose_goal",
    "fit_code_tables",
    "make_recipe",
    "model_metadata",
    "recorded_recipe",
    "train_head",
]
