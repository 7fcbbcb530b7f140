"""The stage `export`: model.safetensors -> the head in a format that other programs run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdc.arrays import evenly_spread, pack_signs
from sdc.errors import SdcError, UsageError, log, unknown_name_error
from sdc.files import atomic_write, check_same_settings, linked_file, writable
from sdc.train.export.formats import FORMATS, Engine, load_format, metadata
from sdc.train.model import Model

ROWS = 1000  # of each kind that an export is checked on, at most
SLACK = 8  # how many times PyTorch's largest rounding error another order of the same sums may have


@dataclass(frozen=True)
class ExportSettings:
    """What `sdc export` does; the defaults are the command's.

    Attributes:
        model: the hash head.
        format: one of `sdc.train.export.formats.FORMATS`.
        out: where the export goes.
        overwrite: replace an `out` that was made from another model.
    """

    model: Path = Path("model.safetensors")
    format: str = "onnx"
    out: Path = Path("model.onnx")
    overwrite: bool = False


def run(settings: ExportSettings) -> Path:
    """Writes the export, once it is found to give PyTorch's codes (see `check`).

    Raises:
        SdcError: the model is missing or damaged, a package is missing, or the export does not give PyTorch's codes.
        UsageError: an unknown format, codes that do not fill bytes, or an `out` made from another model.
    """
    if settings.format not in FORMATS:
        raise unknown_name_error("format", settings.format, FORMATS)
    model, out = Model.load(settings.model), Path(settings.out)
    if model.bits % 8:
        raise UsageError(f"{settings.model} makes codes of {model.bits} bits, which do not fill whole bytes")
    form = load_format(settings.format)
    if out.is_file() and not settings.overwrite:
        try:
            recorded = form.describe(out.read_bytes())
        except ValueError as error:
            raise SdcError(f"{out} is no whole {settings.format} export ({error}); --overwrite replaces it") from None
        check_same_settings(out, recorded, metadata(model))
        return out
    writable(out, settings.model)
    data = form.build(model)
    with atomic_write(out) as temporary:
        temporary.write_bytes(data)
        check(form.open(temporary.read_bytes()), model, linked_file(Path(settings.model)).parent, str(out))
    return out


def check(engine: Engine, model: Model, folder: Path, name: str) -> None:
    """Compares an export with PyTorch, on random rows and on rows of the features the model was trained on.

    A sum taken in another order rounds otherwise, so the float32 outputs of two engines differ a little, and the
    sign of an output that near to 0 is neither's to decide. What is asked of the export is therefore that each of its
    outputs is about as near to the float64 one as PyTorch's are (`SLACK` times their largest error), and that each
    code is exactly the packed signs of its own outputs. Its codes then are PyTorch's bit for bit, save for outputs so
    near to 0; these, and the bits that do differ, are counted and said. NumPy's outputs, which `sdc encode` takes, are
    held to the same, so that no step of a head can be missing in the export.

    Args:
        folder: the model's, from which the path of its features counts.
        name: the export's, for messages.

    Raises:
        SdcError: the export does not hold.
    """
    import torch

    from sdc.train.head import PackedHead

    single, double = PackedHead(model.tensors), PackedHead(model.tensors).double()
    for what, features in _samples(model, folder):
        with torch.no_grad():
            x = torch.from_numpy(features)
            codes, outputs = (value.numpy() for value in single(x))
            exact = double(x.double())[1].numpy()
        rounding = SLACK * np.abs(outputs - exact).max()
        parts = engine(features[:1]), engine(features[1:])  # one row is a batch as well
        exported_codes, exported = (np.concatenate(both) for both in zip(*parts, strict=True))
        error = np.max([np.abs(z - exact).max() for z in (exported, model.outputs(features))])
        if not error <= rounding:  # nor where it is NaN
            raise SdcError(
                f"{name} is not written: on {what} outputs are off by {error:.1e}, of which rounding explains "
                f"{rounding:.1e}; please report this with the model"
            )
        if not np.array_equal(exported_codes, pack_signs(exported)):
            raise SdcError(
                f"{name} is not written: on {what} its codes are not the signs of its outputs; please report this with "
                "the model"
            )
        differ = int(np.bitwise_count(exported_codes ^ codes).sum())
        near = int((np.abs(exact) <= rounding).sum()) if rounding else 0
        log.info(
            "%s: on %s, %d of %d bits differ from PyTorch's; outputs within rounding (%.1e) of 0: %d",
            name, what, differ, exported.size, rounding, near,
        )  # fmt: skip


def _samples(model: Model, folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Rows to check on, (n, d) float32, and what they are."""
    rng = np.random.default_rng(0)
    yield f"{ROWS} random rows", rng.standard_normal((ROWS, model.dimension), dtype=np.float32)
    recorded = model.metadata.get("features") or {}
    if not recorded.get("path"):
        return
    path = Path(os.path.normpath(folder / recorded["path"]))
    from sdc.extract.store import FeatureStore

    try:
        store = FeatureStore(path, verify=False)
        if store.fingerprint != recorded["fingerprint"]:
            raise SdcError(f"{path} holds others")
        if len(store) < ROWS // 10:
            raise SdcError(f"the {len(store)} rows of {path} are too few to measure rounding by")
    except SdcError as error:
        log.info("not checked on the features it was trained on: %s", error)
        return
    rows = evenly_spread(len(store), ROWS)
    yield f"{len(rows)} rows of {path}", store.take(rows).astype(np.float32)
