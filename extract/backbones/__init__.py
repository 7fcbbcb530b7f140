"""Networks with their weights, which turn an image into features."""

from sdc.extract.backbones.base import Backbone, BackboneSpec
from sdc.extract.backbones.registry import BACKBONES, backbone_spec, load_backbone
from sdc.extract.backbones.tokens import forward_with_tokens, require_tokens

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneSpec",
    "backbone_spec",
    "forward_with_tokens",
    "load_backbone",
    "require_tokens",
]
