"""Containers of arrays: what npz, HDF5, safetensors and torch.save hold is read, or named with a reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch

from sdc.errors import LONGEST, SdcError, UsageError
from sdc.extract import ImportSettings, import_features
from sdc.extract.store import FeatureStore

N, D = 24, 5
X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
IDS = [f"db/{row:02}ß.jpg" for row in range(N)]
KINDS = np.arange(N) % 3

Take = Callable[..., FeatureStore]


@pytest.fixture
def take(tmp_path: Path) -> Take:
    def bring(file: str, **options: Any) -> FeatureStore:
        return FeatureStore(
            import_features(ImportSettings(tmp_path / file, out=tmp_path / "o.h5", overwrite=True, **options))
        )

    return bring


def test_an_object_array_is_named_beside_good_ones(take: Take, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", embeddings=X, ids=np.array(IDS, object), notes=np.array([{}], object))
    with pytest.raises(SdcError, match=r"v.npz: ids holds Python objects.*astype\(str\).*--id-column none") as caught:
        take("v.npz")
    assert "is it whole" not in str(caught.value)
    np.testing.assert_array_equal(take("v.npz", id_column="none").features, X)
    (tmp_path / "ids.txt").write_text("\n".join(IDS), encoding="utf-8")
    assert take("v.npz", ids=tmp_path / "ids.txt").ids() == IDS
    np.savez(tmp_path / "w.npz", embeddings=X.astype(object))
    with pytest.raises(SdcError, match=r"w.npz: embeddings holds Python objects, which are never unpickled"):
        take("w.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_columns_first_in_npz_is_read(take: Take, tmp_path: Path, save: Any) -> None:
    save(tmp_path / "v.npz", embeddings=np.asfortranarray(X), labels=np.asfortranarray(np.eye(3, dtype=int)[KINDS]))
    store = take("v.npz")
    np.testing.assert_array_equal(store.features, X)
    np.testing.assert_array_equal(store.labels, np.eye(3)[KINDS])


@pytest.mark.parametrize("kind", ["fixed", "ascii", "variable", "padded"])
def test_texts_in_hdf5_are_utf8_of_any_length(take: Take, tmp_path: Path, kind: str) -> None:
    encoded = [name.encode() for name in IDS]
    types = {"ascii": h5py.string_dtype("ascii"), "variable": h5py.string_dtype(), "padded": "S40"}
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["features"] = X
        file.create_dataset("ids", data=np.array(encoded, object if kind in ("ascii", "variable") else None),
                            dtype=types.get(kind))  # fmt: skip
    assert take("v.h5").ids() == IDS


def test_ids_that_a_store_packs_are_read_again(take: Take, tmp_path: Path) -> None:
    names = ["long" * 500, *IDS[1:]]
    (tmp_path / "ids.txt").write_text("\n".join(names), encoding="utf-8")
    np.save(tmp_path / "v.npy", X)
    take("v.npy", ids=tmp_path / "ids.txt").path.rename(tmp_path / "packed.h5")
    assert take("packed.h5").ids() == names
    with h5py.File(tmp_path / "v.h5", "w") as file:  # ragged lists of numbers are none
        file["features"], file["values"], file["values_offsets"] = X, X[0], np.arange(N)
    np.testing.assert_array_equal(take("v.h5").features, X)


def test_texts_that_are_not_utf8_are_refused(take: Take, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["features"], file["ids"] = X, np.array([f"Straße{row}".encode("latin-1") for row in range(N)])
    with pytest.raises(SdcError, match=r"ids: b'Stra\\xdfe0' in row 0 is not UTF-8 text"):
        take("v.h5")


def group_a_row(path: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(path, "w") as file:
        for name, row, kind in zip(IDS, X, KINDS, strict=True):
            file.create_dataset(f"{name}/global_descriptor", data=row.reshape(shape))
            file.create_dataset(f"{name}/label", data=kind)
            file.create_dataset(f"{name}/keypoints", data=np.ones((3 + kind, 2)))


@pytest.mark.parametrize("shape", [(D,), (1, D)])
def test_a_group_a_row_is_read_as_rows(take: Take, tmp_path: Path, shape: tuple[int, ...]) -> None:
    group_a_row(tmp_path / "v.h5", shape)
    store = take("v.h5")
    np.testing.assert_array_equal(store.features, X)
    assert store.ids() == IDS
    np.testing.assert_array_equal(store.labels, KINDS)


def save_hdf5(held: dict[str, np.ndarray], path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, value in held.items():
            file[name] = value


SAVE: dict[str, Callable[[dict[str, np.ndarray], Path], Any]] = {
    "v.h5": save_hdf5,
    "v.npz": lambda held, path: np.savez(path, **held),
    "v.safetensors": lambda held, path: safetensors.numpy.save_file(held, path),
    "v.pt": lambda held, path: torch.save({name: torch.from_numpy(value) for name, value in held.items()}, path),
}


@pytest.mark.parametrize("file", SAVE)
def test_an_array_a_row_is_read_as_rows(take: Take, tmp_path: Path, file: str) -> None:
    SAVE[file](dict(zip(IDS, X, strict=True)), tmp_path / file)
    store = take(file)
    np.testing.assert_array_equal(store.features, X)
    assert store.ids() == IDS


@pytest.mark.parametrize("file", SAVE)
def test_rows_of_different_lengths_are_not_joined(take: Take, tmp_path: Path, file: str) -> None:
    SAVE[file]({name: row[: 2 + place % 2].copy() for place, (name, row) in enumerate(zip(IDS, X, strict=True))},
               tmp_path / file)  # fmt: skip
    with pytest.raises(UsageError, match=r"found .* and \d+ more; expected one two-dimensional array of floats"):
        take(file)


def test_two_named_arrays_are_no_rows(take: Take, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", features=X[:1], vectors=X[1:2])
    with pytest.raises(UsageError, match=r"found features \(1, 5\) float32; vectors .*--column says which"):
        take("v.npz")
    np.testing.assert_array_equal(take("v.npz", column="vectors").features, X[1:2])


def test_groups_of_splits_keep_to_themselves(take: Take, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        for split, rows in (("train", slice(0, 20)), ("test", slice(0, 4))):
            file[f"{split}/features"], file[f"{split}/labels"] = X[rows], KINDS[rows]
    with pytest.raises(UsageError, match=r"test/features .*; .*train/features .*--column says which"):
        take("v.h5")
    store = take("v.h5", column="train/features")
    np.testing.assert_array_equal(store.features, X[:20])
    np.testing.assert_array_equal(store.labels, KINDS[:20])


def test_thousands_of_arrays_make_no_long_error(take: Take, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        for row in range(300):
            file.create_dataset(f"a_folder_of_some_length/{row:05}.jpg/keypoints", data=np.ones((row % 7, 2)))
    with pytest.raises(UsageError, match=r"00000.jpg/keypoints \(0, 2\) float64; .* and 29\d more; expected") as caught:
        take("v.h5")
    assert len(str(caught.value)) <= LONGEST


@pytest.mark.parametrize(("number", "name"), [(32015, "zstd"), (32001, "blosc"), (32008, "bitshuffle"), (411, "41")])
def test_a_missing_filter_is_named(take: Take, tmp_path: Path, number: int, name: str) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        filters = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        filters.set_chunk((N, D))
        filters.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((N, D))
        h5py.h5d.create(file.id, b"features", h5py.h5t.NATIVE_FLOAT, space, filters).write_direct_chunk((0, 0), b"x")
    with pytest.raises(SdcError, match=rf"features is compressed with a filter that .*{name}.*hdf5plugin") as caught:
        take("v.h5")
    assert "is it whole" not in str(caught.value)


def test_what_cannot_be_read_is_named(take: Take, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["features"], file["ids"] = X, np.zeros(N, [("a", "i4"), ("b", "i4")])
        file["labels"] = h5py.Empty("f4")
    with pytest.raises(SdcError, match=r"ids holds records: save plain numbers or text, or leave it out with --id-col"):
        take("v.h5")
    with pytest.raises(SdcError, match=r"labels is an empty dataset, or leave it out with --label-column none"):
        take("v.h5", id_column="none")
    torch.save({"codes": torch.from_numpy(X), "id": [None] * N}, tmp_path / "v.pt")
    with pytest.raises(SdcError, match=r"id is a list of NoneType: save a tensor, numbers or texts, or leave it out"):
        take("v.pt")
    torch.save({"codes": torch.from_numpy(X).to_sparse()}, tmp_path / "v.pt")
    with pytest.raises(SdcError, match=r"codes is sparse or quantized, which is not read"):
        take("v.pt")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (KINDS.tolist(), KINDS),
        ((KINDS * 1.0).tolist(), KINDS),
        ([b"a", b"b", b"c"] * 8, KINDS),
        ([True, False] * 12, np.tile([1, 0], 12)),
    ],
)
def test_lists_of_torch_are_columns(take: Take, tmp_path: Path, labels: Any, expected: Any) -> None:
    torch.save({"codes": list(torch.from_numpy(X)), "labels": labels, "id": IDS}, tmp_path / "v.pt")
    store = take("v.pt")
    np.testing.assert_array_equal(store.features, X)
    np.testing.assert_array_equal(store.labels, expected)
    assert store.ids() == IDS
