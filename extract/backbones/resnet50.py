"""ResNet-50 (He et al. 2016), torchvision's first weights: the 2048 features of the global average pool."""

from __future__ import annotations

from sdc.extract.backbones.base import BackboneSpec

SPEC = BackboneSpec("resnet50.tv_in1k", {"global_pool": "avg"})
