"""ViT-B/16 (Dosovitskiy et al. 2021): the 768 features of the CLS token, after the last norm.

The weights are those of Steiner et al. 2022 ("How to train your ViT?"): ImageNet-21k, fine-tuned on ImageNet-1k. The
authors' code takes timm's default for this architecture, which they were in 2022; later it became
`augreg2_in21k_ft_in1k`, which are others. They were trained with mean and std 0.5, but the paper normalises the input
of every backbone alike, with ImageNet's, and so does this one. By timm's own name,
`--backbone vit_base_patch16_224.augreg_in21k_ft_in1k`, the same weights get their own mean and std.
"""

from __future__ import annotations

from sdc.extract.backbones.base import IMAGENET_MEAN, IMAGENET_STD, BackboneSpec

SPEC = BackboneSpec(
    "vit_base_patch16_224.augreg_in21k_ft_in1k", {"global_pool": "token"}, mean=IMAGENET_MEAN, std=IMAGENET_STD
)
