"""DeiT-B/16 without distillation (Touvron et al. 2021): the 768 features of the CLS token, after the last norm."""

from __future__ import annotations

from sdc.extract.backbones.base import BackboneSpec

SPEC = BackboneSpec("deit_base_patch16_224.fb_in1k", {"global_pool": "token"})
