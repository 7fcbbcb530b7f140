"""VGG16 (Simonyan and Zisserman 2015): the 4096 outputs of fc7, after its ReLU and without dropout."""

from __future__ import annotations

from collections.abc import Sequence

from sdc.extract.backbones.base import BackboneSpec, State

# torchvision's names for the two hidden layers. There they are linear on the flattened 512 x 7 x 7 map, in timm
# convolutions over it: the same weights in another shape.
LINEAR = {"classifier.0": ("pre_logits.fc1", (-1, 512, 7, 7)), "classifier.3": ("pre_logits.fc2", (-1, 4096, 1, 1))}


def convert(state: State, names: Sequence[str]) -> State:
    """Accepts torchvision's layout as well."""
    if "classifier.0.weight" not in state:
        return state
    converted = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    for theirs, (ours, shape) in LINEAR.items():
        converted[f"{ours}.weight"] = state[f"{theirs}.weight"].reshape(shape)
        converted[f"{ours}.bias"] = state[f"{theirs}.bias"]
    return converted


SPEC = BackboneSpec("vgg16.tv_in1k", convert=convert)
