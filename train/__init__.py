"""Training hash heads: models, recipes and the stage `train`."""

from sdc.train.model import NORM_EPS, Model
from sdc.train.presets import PRESETS, make_recipe, recorded_recipe
from sdc.train.recipe import Recipe
from sdc.train.run import TrainSettings, model_metadata
from sdc.train.run import run as train_head

__all__ = [
    "NORM_EPS",
    "PRESETS",
    "Model",
    "Recipe",
    "TrainSettings",
    "make_recipe",
    "model_metadata",
    "recorded_recipe",
    "train_head",
]
