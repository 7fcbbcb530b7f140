"""Features held as dumps of `torch.save`, and landmark features that a ground truth is joined to."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdc.errors import SdcError, UsageError
from sdc.extract import ImportSettings, read_vectors
from sdc.extract import import_features as run
from sdc.extract.store import FeatureStore
from sdc.retrieve.index.index import Index

N, D = 33, 16


@pytest.fixture
def codes() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.manual_seed(0))


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., FeatureStore]:
    def bring(held: Any = None, name: str = "r50_delg.pth", **options: Any) -> FeatureStore:
        if held is not None:
            torch.save(held, tmp_path / name)
        return FeatureStore(run(ImportSettings(tmp_path / name, out=tmp_path / "feats.h5", **options)))

    return bring


def test_a_dump_of_codes_labels_and_id_is_read(imported: Callable[..., FeatureStore], codes: torch.Tensor) -> None:
    labels, numbers = torch.arange(N) % 4, torch.arange(N) * 2 + 100
    store = imported({"codes": codes, "labels": labels, "id": numbers})
    np.testing.assert_array_equal(store.features, codes.numpy())
    np.testing.assert_array_equal(store.labels, labels)
    assert store.ids() == [str(number) for number in numbers.tolist()]
    assert store.provenance["dataset"] == "r50_delg"
    assert store.provenance["protocol"] == {"name": "category", "at": 1000}


@pytest.mark.parametrize(
    ("dtype", "stored"), [(torch.float64, "float32"), (torch.float16, "float16"), (torch.bfloat16, "float32")]
)
def test_other_forms_of_dumps(
    imported: Callable[..., FeatureStore], codes: torch.Tensor, tmp_path: Path, dtype: torch.dtype, stored: str
) -> None:
    names = [f"image {number}" for number in range(N)]
    multi = (torch.arange(N * 3).reshape(N, 3) % 2).float()
    held = {
        "features": codes.to(dtype),
        "labels": multi,
        "id": names,
        "epoch": 3,
        "note": None,
        "seen": torch.tensor(1),
    }
    store = imported(held, "a.pt")
    assert store.features.dtype == stored
    np.testing.assert_array_equal(store.features, codes.to(dtype).float().numpy().astype(stored))
    np.testing.assert_array_equal(store.labels, multi)
    assert store.ids() == names
    torch.save(held, tmp_path / "old.pt", _use_new_zipfile_serialization=False)  # as before PyTorch 1.6
    for name in ("old.pt", "a.pt"):
        found, ids = read_vectors(tmp_path / name)
        np.testing.assert_array_equal(found, codes.to(dtype).float().numpy())
        assert ids == names


def test_a_bare_tensor_with_gradient_and_strides_is_read(
    imported: Callable[..., FeatureStore], codes: torch.Tensor
) -> None:
    store = imported(torch.nn.Parameter(codes).T.contiguous().T)
    np.testing.assert_array_equal(store.features, codes)
    assert store.labels is None


def test_nothing_else_in_a_dump_is_unpickled(
    imported: Callable[..., FeatureStore], codes: torch.Tensor, tmp_path: Path
) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    for held in ({"codes": codes, "labels": Attack()}, {"codes": codes.numpy()}):
        with pytest.raises(SdcError, match=r"r50_delg\.pth: it must hold tensors and plain values alone.*GLOBAL"):
            imported(held)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "feats.h5").exists()


def test_a_dump_that_is_cut_or_holds_no_vectors_is_refused(
    imported: Callable[..., FeatureStore], codes: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"found labels \(33,\) int64; expected one two-dimensional array"):
        imported({"labels": torch.arange(N), "weights": {"a": codes}})
    torch.save({"codes": codes}, tmp_path / "r50_delg.pth")
    whole = (tmp_path / "r50_delg.pth").read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"words"):
        (tmp_path / "r50_delg.pth").write_bytes(data)
        with pytest.raises(SdcError, match=r"cannot read .*r50_delg\.pth"):
            imported()


def test_a_ground_truth_goes_by_the_order_of_its_images(
    imported: Callable[..., FeatureStore], codes: torch.Tensor, landmarks: Callable[..., Any]
) -> None:
    made = landmarks()
    held = {"codes": codes, "labels": torch.zeros(N, dtype=torch.long), "id": torch.arange(N)}
    store = imported(held, groundtruth=made.folder / "gnd_roxford5k.pkl")
    assert store.ids() == [*made.gnd["imlist"], *made.gnd["qimlist"]]
    assert {name: rows.tolist() for name, rows in store.splits.items()} == {
        "train": [], "query": [30, 31, 32], "database": list(range(30)),
    }  # fmt: skip
    for level in ("easy", "hard", "junk"):
        for number, entry in enumerate(made.gnd["gnd"]):
            np.testing.assert_array_equal(store.groundtruth[level][number], sorted(entry[level]))
    assert store.provenance["protocol"] == {"name": "revisited"}
    assert store.provenance["settings"]["groundtruth"]["name"] == "gnd_roxford5k.pkl"
    assert store.provenance["settings"]["seed"] is None


def test_a_ground_truth_goes_by_names_where_there_are_some(
    imported: Callable[..., FeatureStore], codes: torch.Tensor, landmarks: Callable[..., Any]
) -> None:
    made = landmarks()
    names = np.array([*made.gnd["imlist"], *made.gnd["qimlist"]])
    order = np.random.default_rng(1).permutation(N)
    held = {"codes": codes[order], "id": [f"roxford5k/jpg/{name}.jpg" for name in names[order]]}
    store = imported(held, groundtruth=made.folder / "gnd_roxford5k.pkl")
    assert store.ids() == names[order].tolist()
    np.testing.assert_array_equal(store.features, codes[order])
    queries = store.ids(store.splits["query"])
    assert sorted(queries) == sorted(made.gnd["qimlist"])
    assert sorted(store.ids(store.splits["database"])) == sorted(made.gnd["imlist"])
    for number, query in enumerate(queries):
        entry = made.gnd["gnd"][made.gnd["qimlist"].index(query)]
        for level in ("easy", "hard", "junk"):
            found = store.ids(store.groundtruth[level][number])
            assert {*found} == {made.gnd["imlist"][place] for place in entry[level]}


def test_a_ground_truth_that_does_not_fit_is_refused(
    imported: Callable[..., FeatureStore], codes: torch.Tensor, landmarks: Callable[..., Any], tmp_path: Path
) -> None:
    made = landmarks()
    path = made.folder / "gnd_roxford5k.pkl"
    names = [*made.gnd["imlist"], *made.gnd["qimlist"]]
    for held, message in [
        ({"codes": codes[:32]}, r"found 32 rows, whose ids \(0, \.\.\.\).*expected 30 images and then 3 queries"),
        ({"codes": codes, "id": [*names[:-1], "other"]}, "2 names are in the ground truth or the ids alone, such as"),
        ({"codes": codes[:32], "id": names[:-1]}, "1 names are .* such as china_query"),
        ({"codes": codes, "id": [*names[:-1], names[0]]}, "1 names are .* such as china_query"),
    ]:
        with pytest.raises(SdcError, match=message):
            imported(held, groundtruth=path)
    with pytest.raises(UsageError, match="--groundtruth makes the splits: leave out --splits"):
        imported({"codes": codes}, groundtruth=path, splits=tmp_path / "splits.npz")
    with pytest.raises(SdcError, match=r"cannot read .*absent\.pkl: No such file"):
        imported({"codes": codes}, groundtruth=tmp_path / "absent.pkl")
    path.write_bytes(pickle.dumps({"imlist": [], "qimlist": []}))
    with pytest.raises(SdcError, match="has no gnd"):
        imported({"codes": codes}, groundtruth=path)


def test_from_dumps_to_neighbours(command: Any, landmarks: Callable[..., Any]) -> None:
    """Features of places: those of a query's own place are near it."""
    made = landmarks()
    names = [*made.gnd["imlist"], *made.gnd["qimlist"]]
    random = torch.manual_seed(0)
    centres = {name.split("_")[0]: torch.randn(D, generator=random) for name in names}
    rows = [centres[name.split("_")[0]] + 0.05 * torch.randn(D, generator=random) for name in names]
    torch.save({"codes": torch.stack(rows), "id": torch.arange(N)}, command.folder / "r50_delg.pth")
    command("import", "r50_delg.pth", "--groundtruth", made.folder / "gnd_roxford5k.pkl")
    command("train", "--method", "lsh", "--bits", 128, "--train-on", "database")
    command("encode")
    for result, entry in zip(command.json("search", "-k", 3)["results"], made.gnd["gnd"], strict=True):
        assert {hit["row"] for hit in result["neighbors"]} == {*entry["easy"], *entry["hard"]}
    queries = Index.open(command.folder / "db.bin").queries
    assert queries is not None
    assert queries.groundtruth["hard"][1].tolist() == sorted(made.gnd["gnd"][1]["hard"])
