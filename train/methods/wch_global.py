"""WCH on the features alone: a departure from Yu et al., ACCV 2022, for features without patch tokens.

The paper's point is to compare images patch by patch. Here the cosine of two rows' features, one of the first view and
one of the second, stands for the similarity of their patches; all else is as in `sdc.train.methods.wch`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sdc.train.methods.base import PUBLISHED
from sdc.train.methods.wch import WCH
from sdc.train.recipe import Recipe


class WCHGlobal(WCH):
    @classmethod
    def extras(cls, recipe: Recipe) -> tuple[str, ...]:
        return ()

    def similarities(self, features: Tensor, tokens: Tensor | None) -> Tensor:
        first, second = F.normalize(features, dim=-1).unbind(1)
        return first @ second.T


METHOD = WCHGlobal
SETTINGS = {**PUBLISHED, "head": "mlp", "hidden": 1024, "weight_decay": 0.0}
