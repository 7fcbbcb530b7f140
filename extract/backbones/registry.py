"""The backbones by name. A new one is a module with a `SPEC` and a line in `BACKBONES`; any other timm model works by
its name, with the features it pools before its classifier."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdc.errors import UsageError
from sdc.extract.backbones.base import Backbone, BackboneSpec
from sdc.extract.backbones.weights import from_hub, load_file, sha256

if TYPE_CHECKING:
    import torch
    from torch import nn

BACKBONES: dict[str, str] = {
    "deit_base": "sdc.extract.backbones.deit_base",
    "efficientnet_lite0": "sdc.extract.backbones.efficientnet_lite0",
    "resnet50": "sdc.extract.backbones.resnet50",
    "vgg16": "sdc.extract.backbones.vgg16",
    "vit_base": "sdc.extract.backbones.vit_base",
}


def load_backbone(
    name: str, weights: str | None = None, image_size: int | None = None, *, any_shape: bool = False
) -> Backbone:
    """Makes a backbone, with its weights, on the CPU.

    Args:
        name: one of `BACKBONES`, or any name of timm's, with or without a tag.
        weights: a file, "random:SEED", or None for the pretrained ones.
        image_size: the side of its input in pixels; by default what the weights were trained at.
        any_shape: it is to take inputs of different shapes. Vision transformers then interpolate their position
            embeddings for each, and pad it to whole patches.

    Raises:
        UsageError: an unknown name, a size or shapes that the backbone does not take, a seed that is none.
        SdcError: the weights cannot be had or do not fit.
    """
    import timm

    spec = backbone_spec(name)
    config = timm.models.get_pretrained_cfg(spec.model)
    if any_shape and config.fixed_input_size:
        spec = replace(spec, options={**spec.options, "dynamic_img_size": True, "dynamic_img_pad": True})
    try:
        module, tag = _with_weights(spec, config, weights)
    except TypeError as error:
        if not any_shape:
            raise
        raise _squares_alone(name, error) from error
    digest = sha256(module)
    size = image_size or config.input_size[-1]
    dimension = _any_shape(name, module.eval(), config) if any_shape else _resized(name, module.eval(), config, size)
    mean, std = spec.mean or tuple(config.mean), spec.std or tuple(config.std)
    return Backbone(name, module, dimension, size, mean, std, tag, digest)


def backbone_spec(name: str) -> BackboneSpec:
    """How the backbone of this name is made: its own `SPEC`, or that of the timm model of this name.

    Raises:
        UsageError: neither a backbone of ours nor a timm model has this name.
    """
    import timm

    if name in BACKBONES:
        spec: BackboneSpec = importlib.import_module(BACKBONES[name]).SPEC
        return spec
    try:
        known = timm.is_model(name) and timm.models.get_pretrained_cfg(name, allow_unregistered=False) is not None
    except RuntimeError:  # the model is there, the tag is not
        known = False
    if known:
        return BackboneSpec(name)
    architecture = name.split(".")[0]
    names = [*BACKBONES, *(timm.list_pretrained(f"{architecture}.*") or timm.list_models())]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"unknown backbone {name!r}: {hint}known: {', '.join(BACKBONES)}, and every model of timm")


def _with_weights(spec: BackboneSpec, config: Any, weights: str | None) -> tuple[nn.Module, str]:
    """The model and the tag of its weights."""
    import timm
    import torch

    if weights is None and spec.packaged is None:
        return from_hub(spec), f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    kind, _, text = (weights or "").partition(":")
    seed = 0
    if kind == "random":
        if not text.isdecimal() or int(text) >= 2**63:
            raise UsageError(f"--weights {weights}: expected random:SEED with a whole number, such as random:0")
        seed = int(text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = timm.create_model(spec.model, num_classes=0, **spec.options)
    if kind == "random":
        return module, f"random:{seed}"
    path = Path(weights) if weights else spec.packaged()  # type: ignore[misc]  # None was answered above
    classifier = config.classifier or ()
    load_file(module, path, spec, [classifier] if isinstance(classifier, str) else classifier)
    return module, f"file:{path.name}" if weights else path.stem


def _any_shape(name: str, module: nn.Module, config: Any) -> int:
    """How many features the module makes of an image that is no square.

    Raises:
        UsageError: it takes none.
    """
    import torch

    height, width = config.input_size[-2], config.input_size[-1] * 3 // 2
    try:
        with torch.inference_mode():
            return _dimension(name, module(torch.zeros(1, 3, height, width)))
    except (AttributeError, AssertionError, RuntimeError, ValueError) as error:
        raise _squares_alone(name, error) from error


def _squares_alone(name: str, error: Exception) -> UsageError:
    return UsageError(
        f"{name} takes squares alone ({' '.join(str(error).split())[:120]}), but the images of landmark sets keep "
        "their shape: choose another backbone, such as resnet50"
    )


def _resized(name: str, module: nn.Module, config: Any, size: int) -> int:
    """Sets the module to images of this size; returns how many features it makes of one.

    Raises:
        UsageError: it does not take them.
    """
    import torch

    native = config.input_size[-1]
    try:
        if size != native and config.fixed_input_size:
            # After the weights are in: position embeddings are interpolated from theirs.
            module.set_input_size(img_size=(size, size))  # type: ignore[operator]
        with torch.inference_mode():
            return _dimension(name, module(torch.zeros(1, 3, size, size)))
    except (AttributeError, AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"{name} does not take images of {size} x {size} pixels ({' '.join(str(error).split())[:120]}): "
            f"its own size is {native}, choose another --image-size"
        ) from error


def _dimension(name: str, features: torch.Tensor) -> int:
    if features.ndim != 2:
        shape = tuple(features.shape[1:])
        raise UsageError(f"{name} gives features of shape {shape} an image, expected one row of them")
    return int(features.shape[1])
