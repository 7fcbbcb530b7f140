"""Patch tokens: the features that a vision transformer has of each patch of an image, beside those of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdc.errors import UsageError
from sdc.extract.backbones.base import BackboneSpec
from sdc.extract.backbones.registry import BACKBONES, backbone_spec

if TYPE_CHECKING:
    import torch


def forward_with_tokens(module: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and patch tokens in one pass through one of timm's vision transformers.

    The tokens are those behind the last norm, without the class and register tokens that stand before them. Where
    a model pools first and norms then (timm's `fc_norm`), that norm is taken for each token too.

    Args:
        module: a model of a spec that `has_tokens`.
        images: (B, 3, S, S).

    Returns:
        (B, d) what the module itself gives, and (B, T, w); T patches, row by row from the upper left.
    """
    sequence = module.forward_features(images)
    tokens = sequence[:, module.num_prefix_tokens :]
    if getattr(module, "fc_norm", None) is not None:
        tokens = module.fc_norm(tokens)
    return module.forward_head(sequence), tokens


def require_tokens(name: str) -> None:
    """Refuses a backbone that has no patch tokens, before its weights are fetched.

    Raises:
        UsageError: it has none; says which have.
    """
    if not has_tokens(backbone_spec(name)):
        ours = ", ".join(other for other in BACKBONES if has_tokens(backbone_spec(other)))
        raise UsageError(
            f"--tokens: {name} has no patch tokens, only vision transformers have: {ours}, or one of timm's such as "
            "vit_small_patch16_224, beit_base_patch16_224, eva02_base_patch14_224"
        )


def has_tokens(spec: BackboneSpec) -> bool:
    """Whether `forward_with_tokens` takes the backbone; found out without its weights."""
    import timm
    import torch

    size = timm.models.get_pretrained_cfg(spec.model).input_size[-1]
    with torch.device("meta"), torch.inference_mode():  # shapes alone: neither memory nor time
        module = timm.create_model(spec.model, num_classes=0, **spec.options).eval()
        if not hasattr(module, "num_prefix_tokens"):
            return False
        return module.forward_features(torch.empty(1, 3, size, size)).ndim == 3  # type: ignore[no-any-return]
