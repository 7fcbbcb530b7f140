"""model.safetensors: a trained hash head, read and applied with NumPy alone.

A head is `Linear` or `Linear–GELU–Linear`, then optionally `BatchNorm1d`; closed-form methods (ITQ, LSH, …)
are one Linear, or only a bias where the features are kept as they are. Tensors carry the names of
`HashHead.state_dict()`: `hidden.weight` (H, d), `hidden.bias` (H,), `output.weight` (K, d or H),
`output.bias` (K,), `norm.running_mean`, `norm.running_var`, `norm.weight`, `norm.bias` (K,). Spectral hashing has
one more, `cosine.phase` (K,): where it is there, the outputs are cos(z + phase) of what precedes, z.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.files import atomic_write, checksum, fingerprint, require_file

SCHEMA = 1
NORM_EPS = 1e-5  # torch.nn.BatchNorm1d's default
_BLOCK = 4096  # rows of features projected at once: bounds the hidden activations


class Model:
    """A hash head: features (N, d) -> continuous outputs (N, K); the code is the outputs' signs.

    Args:
        tensors: float32 arrays under the names above.
        metadata: `method`, `settings`, `features` ({path, fingerprint, provenance} of the training set), ….

    Raises:
        SdcError: the tensors do not fit together.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
        self.tensors = {name: np.ascontiguousarray(tensors[name], dtype=np.float32) for name in sorted(tensors)}
        self.metadata = dict(metadata)
        self.bits, self.dimension = self._sizes()
        # Where the training set lay and who trained is no part of what the head is.
        made_of = {key: self.metadata.get(key) for key in ("method", "settings")}
        content = {name: [list(t.shape), checksum(t)] for name, t in self.tensors.items()}
        self.fingerprint = fingerprint({**made_of, "tensors": content})

    def _sizes(self) -> tuple[int, int]:
        """K and d, once the tensors are known to fit together."""
        t = self.tensors
        if "output.bias" not in t or t["output.bias"].ndim != 1 or not t["output.bias"].size:
            raise SdcError("not a hash head: it has no vector output.bias")
        bits = width = dimension = len(t["output.bias"])
        expected: dict[str, tuple[int, ...]] = {name: (bits,) for name in t if name.startswith("norm.")}
        if expected:
            expected |= {f"norm.{name}": (bits,) for name in ("running_mean", "running_var", "weight", "bias")}
        if "output.weight" in t:
            width = dimension = t["output.weight"].shape[-1]
            expected |= {"output.weight": (bits, width)}
        if "hidden.weight" in t:
            dimension = t["hidden.weight"].shape[-1]
            expected |= {"hidden.weight": (width, dimension), "hidden.bias": (width,)}
        if "cosine.phase" in t:
            expected["cosine.phase"] = (bits,)
        strange = set(t) - {"output.bias", *expected}
        if strange:  # to leave out a step of the head would give other codes
            raise SdcError(
                f"a hash head with tensors unknown to this sdc, {', '.join(sorted(strange))}: upgrade sdc-hash"
            )
        for name, shape in expected.items():
            if name not in t or t[name].shape != shape:
                actual = t[name].shape if name in t else "nothing"
                raise SdcError(f"not a hash head: {name} should be {shape}, found {actual}")
        return bits, dimension

    def outputs(self, features: np.ndarray) -> np.ndarray:
        """Continuous outputs before the sign.

        Args:
            features: (N, d), any float type.

        Returns:
            (N, K) float32.

        Raises:
            UsageError: the features are not (N, d) for the d this head was trained on.
        """
        return self._applied(self._output, features)

    @property
    def normalizes(self) -> bool:
        """Whether the head ends with a batch norm."""
        return "norm.running_mean" in self.tensors

    def projections(self, features: np.ndarray) -> np.ndarray:
        """The input (N, K) float32 of the batch norm; arguments and errors as those of `outputs`."""
        return self._applied(self._project, features)

    def recentered(self, mean: np.ndarray) -> Model:
        """The same head with another mean (K,) of the projections in its batch norm, and so another fingerprint.

        Raises:
            SdcError: the head has no batch norm, or the mean is not (K,).
        """
        return Model({**self.tensors, "norm.running_mean": mean}, self.metadata)

    def _applied(self, step: Callable[[np.ndarray], np.ndarray], features: np.ndarray) -> np.ndarray:
        if features.ndim != 2 or features.shape[1] != self.dimension:
            shape = " × ".join(map(str, features.shape))
            raise UsageError(f"this head takes features of {self.dimension} dimensions, found an array of {shape}")
        out = np.empty((len(features), self.bits), np.float32)
        for start in range(0, len(features), _BLOCK):
            rows = slice(start, start + _BLOCK)
            out[rows] = step(features[rows].astype(np.float32, copy=False))
        return out

    def _project(self, x: np.ndarray) -> np.ndarray:
        t = self.tensors
        if "hidden.weight" in t:
            x = _gelu(x @ t["hidden.weight"].T + t["hidden.bias"])
        projected: np.ndarray = (x @ t["output.weight"].T if "output.weight" in t else x) + t["output.bias"]
        return projected

    def _output(self, x: np.ndarray) -> np.ndarray:
        t, x = self.tensors, self._project(x)
        if self.normalizes:
            x = (x - t["norm.running_mean"]) / np.sqrt(t["norm.running_var"] + np.float32(NORM_EPS))
            x = x * t["norm.weight"] + t["norm.bias"]
        return np.cos(x + t["cosine.phase"]) if "cosine.phase" in t else x

    def save(self, path: Path) -> Path:
        """Writes model.safetensors, whole or not at all."""
        from safetensors.numpy import save

        described = json.dumps(self.metadata, sort_keys=True)
        sealed = {"schema": SCHEMA, "fingerprint": self.fingerprint, "checksum": checksum(described.encode())}
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(save(self.tensors, metadata={"sdc": json.dumps({**sealed, **self.metadata})}))
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> Model:
        """Reads and verifies model.safetensors.

        Raises:
            SdcError: there is no such file, it is no model of ours, or it is damaged.
        """
        tensors, metadata, recorded = read_tensors(require_file(Path(path), "model", "sdc train"), "model")
        described = metadata.pop("checksum", "")
        try:
            model = cls(tensors, metadata)
        except SdcError as error:
            raise SdcError(f"{path}: {error}") from None
        if model.fingerprint != recorded or described != checksum(json.dumps(metadata, sort_keys=True).encode()):
            raise SdcError(f"{path} is damaged: its checksums do not fit; train it again or fetch a good copy")
        return model


def read_tensors(path: Path, what: str) -> tuple[dict[str, np.ndarray], dict[str, Any], str]:
    """The tensors, metadata and recorded fingerprint of a safetensors file of ours.

    Raises:
        SdcError: it is no safetensors file, not ours, or of a newer schema.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("sdc", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise SdcError(f"{path} is not a readable {what} ({error}); it is damaged or not made by `sdc train`") from None
    if not isinstance(header, dict) or "schema" not in header:
        raise SdcError(f"{path} is a safetensors file, but not a {what} made by `sdc train`")
    if header["schema"] != SCHEMA:
        raise SdcError(f"{path} has {what} schema {header['schema']}, this sdc reads {SCHEMA}: upgrade sdc-hash")
    del header["schema"]
    return tensors, header, str(header.pop("fingerprint", ""))


def _gelu(x: np.ndarray) -> np.ndarray:
    """x·Φ(x), the exact GELU (torch.nn.GELU's default), in place."""
    from scipy.special import ndtr

    np.multiply(x, ndtr(x), out=x)
    return x
