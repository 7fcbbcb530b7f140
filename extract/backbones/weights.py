"""The weights of a backbone: from a file, from timm's hub, or random; and the hash that identifies them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdc.errors import SdcError, log
from sdc.extract.backbones.base import BackboneSpec, State

if TYPE_CHECKING:
    from torch import nn

PATIENCE = 5.0  # seconds within which the hub has to answer
COUNTER = "num_batches_tracked"  # in batch norms: counts training steps and changes no feature; often left out


def sha256(module: nn.Module) -> str:
    """SHA-256 over name, type, shape and bytes of each tensor, sorted by name: the same for any file format."""
    state = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not name.endswith(COUNTER):
            array = tensor.detach().cpu().contiguous().numpy()
            state.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            state.update(array.reshape(-1).view("u1"))
    return state.hexdigest()


def load_file(module: nn.Module, path: Path, spec: BackboneSpec, classifier: Iterable[str]) -> None:
    """Fills the module with a file's tensors.

    Args:
        path: .safetensors, or a state dict that torch saved (plain, or under "state_dict" or "model").
        classifier: first parts of the names of the classifier's tensors, which the module lacks and the file may
            have.

    Raises:
        SdcError: the file cannot be read, or its tensors are not those of the module; names the first that differ.
    """
    expected = module.state_dict()
    state = spec.convert(_read(path), list(expected))
    dropped = tuple(f"{name}." for name in classifier)
    state = {name: tensor for name, tensor in state.items() if not name.startswith(dropped)}
    missing = [name for name in expected if name not in state and not name.endswith(COUNTER)]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise SdcError(
            f"{path} does not hold the weights of {spec.model}: of {len(expected)} tensors {'; '.join(problems)}. "
            "Name the file that fits with --weights, or the --backbone that fits the file"
        )
    module.load_state_dict(state, strict=False)  # the differences that matter were refused above


def _read(path: Path) -> State:
    import torch
    from safetensors.torch import load_file as load_safetensors

    if not path.is_file():
        raise SdcError(f"--weights {path}: no such file, expected .safetensors, a torch state dict, or random:SEED")
    try:
        if path.suffix == ".safetensors":
            return dict(load_safetensors(path))
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SdcError(
            f"--weights {path} is damaged or holds more than tensors, and is not unpickled for safety: save its "
            "state dict alone, best as .safetensors"
        ) from error
    except Exception as error:  # whatever damaged bytes lead the readers to
        raise SdcError(f"--weights {path} cannot be read ({_line(error)}): fetch it again") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in loaded.values()):
        raise SdcError(f"--weights {path} holds {type(loaded).__name__} of other things, expected tensors by name")
    return dict(loaded)


def from_hub(spec: BackboneSpec) -> nn.Module:
    """The model with the pretrained weights of its tag, from the local cache or from timm's hub.

    Raises:
        SdcError: the hub cannot be reached or has no such weights; says which file to fetch.
    """
    import timm
    from huggingface_hub import constants, hf_hub_download

    config = timm.models.get_pretrained_cfg(spec.model)
    if config is None or not config.has_weights:
        raise SdcError(
            f"there are no pretrained weights of {spec.model}: name a file with --weights, or --weights random:0"
        )
    overlay = {}
    try:
        if config.hf_hub_id:
            # A file in the cache is used without asking the hub, which takes half a minute without a network.
            file = config.hf_hub_filename or "model.safetensors"
            overlay["file"] = hf_hub_download(config.hf_hub_id, file, local_files_only=True)
    except OSError:
        pass  # not in the cache
    try:
        if not overlay:
            _reach(constants.ENDPOINT if config.hf_hub_id else config.url)
            log.info("the weights of %s are not on this machine: downloading them", spec.model)
        return timm.create_model(  # type: ignore[no-any-return]
            spec.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **spec.options
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise SdcError(
            f"cannot get the weights of {spec.model} ({_line(error)}): fetch {_address(config)} elsewhere and give "
            "--weights FILE, or try --weights random:0"
        ) from error


def _reach(address: str) -> None:
    """Fails within seconds where the network would let us wait for minutes.

    Raises:
        OSError: nothing answers.
    """
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return  # an answer of whatever kind


def _address(config: Any) -> str:
    from huggingface_hub import hf_hub_url

    hub = hf_hub_url(config.hf_hub_id, config.hf_hub_filename or "model.safetensors") if config.hf_hub_id else ""
    return " or ".join(address for address in (hub, config.url) if address)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
