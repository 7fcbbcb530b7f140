"""A backbone, and the spec that each file in this folder has of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

State = dict[str, "torch.Tensor"]
Colors = tuple[float, float, float]
IMAGENET_MEAN: Colors = (0.485, 0.456, 0.406)
IMAGENET_STD: Colors = (0.229, 0.224, 0.225)


def _unchanged(state: State, names: Sequence[str]) -> State:
    return state


@dataclass(frozen=True)
class BackboneSpec:
    """How a backbone is made with timm.

    Attributes:
        model: timm's name with the tag of the weights, such as "resnet50.tv_in1k".
        options: further arguments of `timm.create_model`; the classifier is left out in any case, so that the
            model's output is its features.
        convert: turns a state dict of another usual layout into timm's, given the names of the model's tensors in
            order; leaves others as they are.
        mean, std: of each colour, what the input is normalised with, where it is not what timm records of the weights.
        packaged: finds the weights' file where a Python package ships them; by default they come from timm's hub.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    convert: Callable[[State, Sequence[str]], State] = _unchanged
    mean: Colors | None = None
    std: Colors | None = None
    packaged: Callable[[], Path] | None = None


@dataclass(frozen=True)
class Backbone:
    """A network with its weights.

    Attributes:
        name: as it was asked for.
        module: (B, 3, image_size, image_size) float32, normalised -> (B, dimension).
        dimension: d, the number of features.
        image_size: the side of its input in pixels.
        mean, std: of each colour, what its input is normalised with.
        weights: where the weights came from: a tag, "file:NAME" or "random:SEED".
        weights_sha256: of the tensors, see `sdc.extract.backbones.weights.sha256`.
    """

    name: str
    module: torch.nn.Module
    dimension: int
    image_size: int
    mean: Colors
    std: Colors
    weights: str
    weights_sha256: str
