"""model.safetensors: a trained hash head, read and applied with NumPy alone.

A head is `Linear` or `Linear–GELU–Linear`, to which a second `Linear` of the features may be added (`residual.weight`),
then optionally `BatchNorm1d`; closed-form methods (ITQ, LSH, …) are one Linear, or only a bias where the features are
kept as they are. Tensors carry the names of
`HashHead.state_dict()`: `hidden.weight` (H, d), `hidden.bias` (H,), `output.weight` (K, d or H),
`residual.weight` (K, d), `output.bias` (K,), `norm.running_mean`, `norm.running_var`, `norm.weight`, `norm.bias` (K,).
Spectral hashing has one more, `cosine.phase` (K,): where it is there, the outputs are cos(z + phase) of what precedes,
z. Where `unit.epsilon` (1,) is there, features are divided by their length before all else. Models whose codes can be
scored by a query in float have byte tables, see `sdc.train.byte_tables`: `tables.decoder.vectors` (K / 8, 256, d)
int16 and `tables.decoder.mean` (d,), and `tables.encoder.*` likewise where codes are refined.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sdc.arrays import pack_signs
from sdc.errors import SdcError, UsageError
from sdc.files import atomic_write, checksum, fingerprint, require_file
from sdc.train.byte_tables import MARGIN_STEP, CodeTables
from sdc.train.tensors import NORM_EPS, SCHEMA, read_tensors

# Outputs closer than this to where a code changes are computed in double precision: the last digits of a sum of 32-bit
# floats depend on its order. Of outputs of the size of 1, and of the length of what an output adds up.
UNSURE, UNSURE_OF_SUM = 3e-5, 2e-6
_BLOCK = 4096  # rows of features projected at once: bounds the hidden activations


class Model:
    """A hash head: features (N, d) -> continuous outputs (N, K); the code is the outputs' signs.

    Args:
        tensors: float32 arrays under the names above.
        metadata: `method`, `settings`, `features` ({path, fingerprint, provenance} of the training set), ….
        tables: what its codes decode to, and how they are refined; None where codes are signs and nothing else.

    Raises:
        SdcError: the tensors do not fit together.
    """

    def __init__(
        self, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any], tables: CodeTables | None = None
    ) -> None:
        self.tensors = {name: np.ascontiguousarray(tensors[name], dtype=np.float32) for name in sorted(tensors)}
        self.metadata = dict(metadata)
        self.bits, self.dimension = self._sizes()
        self.tables = tables
        if tables is not None and tables.decoder.vectors.shape[::2] != (self.bits // 8, self.dimension):
            raise SdcError(f"not a hash head: byte tables of {tables.decoder.vectors.shape} for {self.bits} bits")
        # Where the training set lay and who trained is no part of what the head is.
        made_of = {key: self.metadata.get(key) for key in ("method", "settings")}
        arrays = {**self.tensors, **({} if tables is None else tables.arrays())}
        content = {name: [list(t.shape), checksum(t)] for name, t in arrays.items()}
        figures = {} if tables is None else {"tables": tables.figures()}
        self.fingerprint = fingerprint({**made_of, **figures, "tensors": content})

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
        if "residual.weight" in t:
            expected["residual.weight"] = (bits, dimension)
        if "cosine.phase" in t:
            expected["cosine.phase"] = (bits,)
        if "unit.epsilon" in t:
            expected["unit.epsilon"] = (1,)
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
        return Model({**self.tensors, "norm.running_mean": mean}, self.metadata, self.tables)

    def encode(
        self, features: np.ndarray, *, refine: bool = True, query: bool = False, outputs: np.ndarray | None = None
    ) -> np.ndarray:
        """Packed codes; equal features get equal codes, in whatever block they come, where codes are refined.

        Args:
            features: (N, d), any float type.
            refine: find the codes that decode best, where the model has tables for that; else they are signs.
            query: for codes that are compared with those of a database: see `CodeTables.encode`.
            outputs: the features' outputs, where they are known.

        Returns:
            (N, K // 8) uint8; bit j in byte j // 8, least significant first.

        Raises:
            UsageError: as `outputs`, or the bits are no multiple of 8.
        """
        if self.bits % 8:
            raise UsageError(f"codes of {self.bits} bits do not fill whole bytes: bits must be a multiple of 8")
        outputs = self.outputs(features) if outputs is None else outputs
        tables = self.tables
        if tables is None or not refine or not tables.refines(query=query):
            return pack_signs(outputs)
        margins = self._reproducible(outputs, features, tables.deviation) / np.float32(tables.deviation)
        return tables.encode(features, margins, query=query)

    def _reproducible(self, outputs: np.ndarray, features: np.ndarray, deviation: float) -> np.ndarray:
        """The outputs; in double precision in rows where another order of a sum could turn a bit or a margin.

        A matrix product of 32-bit floats gives a row other last digits in another block. That counts where an output is
        nearly 0, or nearly between two steps of the margins.
        """
        step = deviation * MARGIN_STEP
        steps = outputs / np.float32(step)
        scaled = None if "unit.epsilon" in self.tensors else features
        slack = np.float32(_rounding(self._reach, scaled, deviation) / step)
        unsure = (np.abs(np.abs(steps - np.floor(steps)) - 0.5) < slack) | (np.abs(steps) < slack)
        rows = np.flatnonzero(unsure.any(axis=1))
        if len(rows):
            outputs = outputs.copy()
            outputs[rows] = self._output(features[rows].astype(np.float64))
        return outputs

    @cached_property
    def _reach(self) -> tuple[float, float]:
        return _longest_sum(self.tensors)

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
        if "unit.epsilon" in t:
            x = x / np.maximum(np.sqrt(np.square(x).sum(axis=1, keepdims=True)), t["unit.epsilon"])
        inputs = x
        if "hidden.weight" in t:
            x = _gelu(x @ t["hidden.weight"].T + t["hidden.bias"])
        projected: np.ndarray = (x @ t["output.weight"].T if "output.weight" in t else x) + t["output.bias"]
        if "residual.weight" in t:
            projected += inputs @ t["residual.weight"].T
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

        tables = {} if self.tables is None else {"tables": self.tables.figures()}
        metadata, arrays = {**self.metadata, **tables}, dict(self.tensors)
        if self.tables is not None:
            arrays |= self.tables.arrays()
        described = json.dumps(metadata, sort_keys=True)
        sealed = {"schema": SCHEMA, "fingerprint": self.fingerprint, "checksum": checksum(described.encode())}
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(save(arrays, metadata={"sdc": json.dumps({**sealed, **metadata})}))
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> Model:
        """Reads and verifies model.safetensors.

        Raises:
            SdcError: there is no such file, it is no model of ours, or it is damaged.
        """
        tensors, metadata, recorded = read_tensors(require_file(Path(path), "model", "sdc train"), "model")
        sealed = metadata.pop("checksum", "")
        described = checksum(json.dumps(metadata, sort_keys=True).encode())
        figures = metadata.pop("tables", None)
        try:
            tables = None if figures is None else CodeTables.restored(tensors, figures)
            model = cls({name: t for name, t in tensors.items() if not name.startswith("tables.")}, metadata, tables)
        except SdcError as error:
            raise SdcError(f"{path}: {error}") from None
        if model.fingerprint != recorded or described != sealed:
            raise SdcError(f"{path} is damaged: its checksums do not fit; train it again or fetch a good copy")
        return model


def _longest_sum(tensors: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """The lengths a and b for which no vector that an output adds up is longer than a · ‖features‖ + b."""
    t, shifts = tensors, np.abs(tensors["output.bias"])
    widths = np.linalg.norm(t["output.weight"], axis=1) if "output.weight" in t else np.ones_like(shifts)
    if "hidden.weight" in t:
        widths = np.linalg.norm(t["output.weight"] * np.linalg.norm(t["hidden.weight"], axis=1), axis=1)
        shifts = shifts + np.linalg.norm(t["output.weight"] * t["hidden.bias"], axis=1)
    if "residual.weight" in t:
        widths = widths + np.linalg.norm(t["residual.weight"], axis=1)
    if "norm.running_mean" in t:
        gain = np.abs(t["norm.weight"]) / np.sqrt(t["norm.running_var"] + np.float32(NORM_EPS))
        widths, shifts = gain * widths, gain * (shifts + np.abs(t["norm.running_mean"])) + np.abs(t["norm.bias"])
    return float(widths.max()), float(shifts.max())


def _rounding(reach: tuple[float, float], features: np.ndarray | None, deviation: float) -> Any:
    """How far the order of sums may move outputs, (n, 1) or a number.

    Args:
        reach: as `_longest_sum` gives it.
        features: (n, d), or None where they are divided by their lengths.
        deviation: of the outputs.
    """
    length: Any = 1.0
    if features is not None:
        length = np.sqrt(np.einsum("nd,nd->n", features, features, dtype=np.float64))[:, None]
    return np.maximum(UNSURE_OF_SUM * (reach[0] * length + reach[1]), UNSURE * max(1.0, deviation))


def _gelu(x: np.ndarray) -> np.ndarray:
    """x·Φ(x), the exact GELU (torch.nn.GELU's default), in place."""
    from scipy.special import ndtr

    np.multiply(x, ndtr(x), out=x)
    return x
