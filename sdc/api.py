"""The Python API on arrays in memory, over the same code as the stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdc.errors import SdcError, UsageError
from sdc.files import checksum, require_file
from sdc.settings import checked_value

if TYPE_CHECKING:
    import torch

    from sdc.extract.store import Classes
    from sdc.train import Model


class Hasher:
    """Turns embeddings into binary codes.

    Args:
        bits: K, the length of a code; a multiple of 8.
        method: one of `sdc.train.methods.METHODS`; without a method, a goal or a preset the goal is `neighbors`.
        goal: `neighbors`: codes that keep each item's nearest neighbours; `kinds`: codes that tell kinds of items
        apart. preset: see `sdc.train.PRESETS`.
        device: of PyTorch, for training; None takes CUDA where there is one.
        settings: any other field of `sdc.train.Recipe`, e.g. `epochs=20`.

    Raises:
        UsageError: a setting is unknown or out of its range.

    Example:
        >>> codes = sdc.Hasher(bits=64).fit(embeddings).encode(embeddings)    # (N, 8) uint8
    """

    def __init__(
        self,
        bits: int = 64,
        method: str | None = None,
        *,
        goal: str | None = None,
        preset: str = "default",
        device: str | None = None,
        **settings: Any,
    ) -> None:
        from sdc.train import GOALS, choose_goal, make_recipe

        for name, value in {"method": method, "goal": goal, "preset": preset, "device": device}.items():
            checked_value(name, value, str if name == "preset" else str | None)
        given = [name for name, value in settings.items() if value is not None]
        self.goal = choose_goal(goal, method, preset, given, labelled=False)
        chosen = {"method": method, **({} if self.goal is None else GOALS[self.goal.name]), **settings}
        self.recipe = make_recipe(preset, bits=bits, **chosen)
        self._preset = preset
        self.device = device
        self._model: Model | None = None

    def fit(self, embeddings: np.ndarray | torch.Tensor) -> Hasher:
        """Trains on embeddings (N, d), NumPy or torch, of any float type.

        Raises:
            SdcError: NaN or Inf among the values, too few rows, or training diverged.
            UsageError: the embeddings are not (N, d) floats.
        """
        from sdc.train import Model, fit_code_tables, model_metadata
        from sdc.train.loop import fit

        x = _matrix(embeddings)
        tensors, summary = fit(x, np.arange(len(x)), self.recipe, device=self.device)
        content = checksum(np.ascontiguousarray(x))
        settings = {**self.recipe.record(), "features": content}
        origin = {"source": "memory"}
        described = model_metadata(
            self.recipe, settings, None, content, origin, summary, preset=self._preset, goal=self.goal
        )
        head = Model(tensors, described)
        self._model = Model(tensors, described, fit_code_tables(head.outputs, x, np.arange(len(x)), self.recipe))
        return self

    @property
    def model(self) -> Model:
        """The trained head. Raises UsageError before `fit`."""
        if self._model is None:
            raise UsageError("this Hasher is not trained: call fit(embeddings), or Hasher.load(path)")
        return self._model

    def outputs(self, embeddings: np.ndarray | torch.Tensor) -> np.ndarray:
        """Continuous outputs (N, K) float32, whose signs are the code."""
        return self.model.outputs(_matrix(embeddings))

    def encode(self, embeddings: np.ndarray | torch.Tensor, *, query: bool = False) -> np.ndarray:
        """Packed codes (N, bits // 8) uint8; bit j is in byte j // 8, least significant first.

        Bit j is [output_j > 0], unless the codes are refined (`search_by`), which moves some bits.

        Args:
            query: for codes that are compared with those of a database: they depart less from the outputs' signs.
        """
        x = _matrix(embeddings)
        return self.model.encode(x, query=query)

    def save(self, path: Path | str) -> Path:
        """Writes the head as model.safetensors, for `load` and for the commands."""
        return self.model.save(Path(path))

    @classmethod
    def load(cls, path: Path | str) -> Hasher:
        """A trained Hasher from model.safetensors. Raises SdcError where it is missing or damaged."""
        from sdc.train import Model, recorded_recipe

        model = Model.load(path)
        settings = {
            name: value
            for name, value in model.metadata["settings"].items()
            if name not in ("features", "train_on", "imbalance")
        }
        hasher = cls.__new__(cls)  # the recipe is the model's, which no preset and no published settings fill in
        hasher.recipe, hasher._model = recorded_recipe(settings), model
        hasher._preset, hasher.device, hasher.goal = model.metadata.get("preset", "default"), None, None
        return hasher


def _matrix(embeddings: np.ndarray | torch.Tensor) -> np.ndarray:
    """The embeddings as an (N, d) NumPy array of finite floats."""
    if not isinstance(embeddings, np.ndarray) and hasattr(embeddings, "detach"):
        tensor = embeddings.detach().cpu()
        x: np.ndarray = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    else:
        x = np.asarray(embeddings)
    if x.ndim != 2 or x.dtype.kind != "f":
        raise UsageError(f"embeddings must be a float matrix (N, d), found {x.dtype} of shape {x.shape}")
    if not len(x):
        raise SdcError("there are no embeddings: found 0 rows")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        some = ", ".join(map(str, bad[:5]))
        raise SdcError(f"NaN or Inf in {len(bad)} of {len(x)} embeddings (rows {some}{', …' if len(bad) > 5 else ''})")
    return x


def inspect(path: Path) -> dict[str, Any]:
    """What a file of ours holds, where it came from and whether it is whole.

    Returns:
        `kind` (features, model or index), `rows`, `whole`, `fingerprint` and what the kind has beside these;
        a damaged file gives `whole: False` and the `error`.

    Raises:
        SdcError: there is no such file.
    """
    path = require_file(Path(path), "file", "sdc extract")
    with open(path, "rb") as file:
        head = file.read(16)
    if head.startswith(b"\x89HDF"):
        kind, describe = "features", _inspect_features
    elif head[8:9] == b"{" and not head.startswith(b"IB"):  # an index of 984 bits has this byte there too
        kind, describe = "model", _inspect_model
    else:
        kind, describe = "index", _inspect_index
    try:
        return {"kind": kind, **describe(path), "whole": True}
    except SdcError as error:
        return {"kind": kind, "rows": None, "fingerprint": None, "whole": False, "error": str(error)}


def _inspect_features(path: Path) -> dict[str, Any]:
    from sdc.extract.store import FeatureStore

    store = FeatureStore(path)
    return {
        "rows": len(store),
        "dimension": store.dimension,
        "dtype": str(store.features.dtype),
        "views": 1 + len(store.views),
        "tokens": None if store.tokens is None else list(store.tokens.shape[1:]),
        "splits": {name: len(rows) for name, rows in store.splits.items()},
        "labels": None if store.labels is None else list(store.labels.shape),
        "labels_coarse": None if store.labels_coarse is None else list(store.labels_coarse.shape),
        **_named(store.classes),
        **({"texts": True} if store.texts is not None else {}),
        "groundtruth": {name: len(lists.values) for name, lists in store.groundtruth.items()},
        "skipped": len(store.skipped),
        "fingerprint": store.fingerprint,
        "provenance": store.provenance,
    }


def _named(classes: Classes) -> dict[str, Any]:
    """The names of classes, where they have any."""
    from sdc.extract.store import classes_to_json

    return {"classes": classes_to_json(classes)} if classes else {}


def _inspect_model(path: Path) -> dict[str, Any]:
    from sdc.train import Model

    model = Model.load(path)
    training = model.metadata["training"]
    settings = {
        name: training.get(name) if value is None else value  # what a rule gave, where none was given
        for name, value in model.metadata["settings"].items()
    }
    figures = None if model.tables is None else model.tables.figures()
    if figures is not None and settings.get("search_by"):
        settings["price"] = figures["price"]
    return {
        "rows": training["rows"],
        "bits": model.bits,
        "dimension": model.dimension,
        "fingerprint": model.fingerprint,
        **{key: value for key, value in model.metadata.items() if key != "training"},
        "settings": settings,
        **({"tables": figures} if figures is not None else {}),
        "epochs": training["epochs"],
        "loss": training["loss"],
    }


def _inspect_index(path: Path) -> dict[str, Any]:
    from sdc.retrieve.index import Index

    index = Index.open(path)
    return {
        "rows": len(index),
        "bits": index.bits,
        "generation": index.generation,
        "added": index.changes.added if index.changes else 0,
        "removed": index.changes.removed if index.changes else 0,
        **_named(index.items.classes),
        "fingerprint": index.fingerprint,
        **index.metadata,
    }
