"""How the learning rate changes while a head is trained."""

from __future__ import annotations

import math

WARM_UP, START = 0.1, 0.04  # the share of the run that the rate rises, and from where


def one_cycle(share: float) -> float:
    """The learning rate over its greatest value, when this share of the run is over (Smith and Topin 2018)."""
    if share < WARM_UP:
        return START + (1 - START) * (1 - math.cos(math.pi * share / WARM_UP)) / 2
    return (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))) / 2
