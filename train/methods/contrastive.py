"""NT-Xent, the contrastive loss of SimCLR (Chen et al., ICML 2020, equation 1), for methods with two views."""

from __future__ import annotations
