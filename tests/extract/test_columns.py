"""Columns of tables: what people bring in Parquet, Feather and Arrow files is taken, or named with a reason."""

from __future__ import annotations

import datetime
import decimal
import json
import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError, UsageError
from sdc.extract import ImportSettings, import_features, read_vectors
from sdc.extract.readers import open_source, table
from sdc.extract.store import FeatureStore

pd = pytest.importorskip("pandas")
arrow = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")

N, D = 24, 5
X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
IDS = [f"Straße {row}" for row in range(N)]
KINDS = ["cat" if row % 2 else "dog" for row in range(N)]
NUMBERS = [0 if row % 2 else 1 for row in range(N)]  # cat, dog


def lists(values: np.ndarray = X) -> arrow.Array:
    return arrow.FixedSizeListArray.from_arrays(arrow.array(values.ravel()), values.shape[1])


def save_stream(table: arrow.Table, path: Path) -> None:
    with arrow.ipc.new_stream(path, table.schema) as file:
        file.write_table(table, max_chunksize=7)


SAVE: dict[str, Callable[[arrow.Table, Path], Any]] = {
    "t.parquet": lambda table, path: parquet.write_table(table, path, row_group_size=7),
    "t.feather": lambda table, path: feather.write_feather(table, path, chunksize=7),
    "t.arrow": save_stream,
}


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., FeatureStore]:
    """Imports columns, or what lies at a path, into a store."""

    def bring(what: dict[str, Any] | Path | list[Path], file: str = "t.parquet", **options: Any) -> FeatureStore:
        if isinstance(what, dict):
            SAVE[file](arrow.table(what), tmp_path / file)
            what = tmp_path / file
        return FeatureStore(import_features(ImportSettings(what, out=tmp_path / "o.h5", overwrite=True, **options)))

    return bring


Take = Callable[..., FeatureStore]


def test_categorical_labels_of_pandas_are_taken(take: Take, tmp_path: Path) -> None:
    frame = pd.DataFrame({"ids": IDS, "labels": pd.Categorical(KINDS), "embedding": list(X)})
    frame.to_parquet(tmp_path / "cat.parquet")
    store = take(tmp_path / "cat.parquet")
    assert store.ids() == IDS
    assert store.labels.tolist() == NUMBERS
    assert store.classes == {"labels": {0: "cat", 1: "dog"}}
    np.save(tmp_path / "v.npy", X)
    assert take(tmp_path / "v.npy", labels=tmp_path / "cat.parquet").labels.tolist() == NUMBERS


def test_labels_are_never_taken_from_a_column_of_ids(take: Take, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", X)
    meta = tmp_path / "meta.parquet"
    pd.DataFrame({"ids": np.arange(N) + 1000, "labels": pd.Categorical(KINDS)}).to_parquet(meta)
    assert take(tmp_path / "v.npy", labels=meta).labels.tolist() == NUMBERS
    parquet.write_table(arrow.table({"ids": np.arange(N)}), meta)
    with pytest.raises(UsageError, match=r"found ids \(24,\) int64; expected a single array, or one called labels"):
        take(tmp_path / "v.npy", labels=meta)
    parquet.write_table(arrow.table({"ids": np.arange(N), "labels": arrow.array([{"a": 1}] * N)}), meta)
    with pytest.raises(SdcError, match=r"meta.parquet: labels is of the type struct<a: int64>, which is not read"):
        take(tmp_path / "v.npy", labels=meta)
    parquet.write_table(arrow.table({"labels": KINDS, "text": IDS}), meta)
    with pytest.raises(UsageError, match="or one called ids; --id-column says which"):
        take(tmp_path / "v.npy", ids=meta)
    assert take(tmp_path / "v.npy", ids=meta, id_column="text").ids() == IDS


@pytest.mark.parametrize("names", [("id", "label"), ("IDs", "Labels"), ("ID", "LABEL"), ("ids", "labels")])
def test_usual_names_are_found_in_any_case(take: Take, names: tuple[str, str], caplog: Any) -> None:
    with caplog.at_level(logging.INFO):
        store = take({"Embedding": lists(), names[0]: IDS, names[1]: KINDS, "tags": arrow.array([["a"]] * N)})
    assert store.ids() == IDS
    assert store.labels.tolist() == NUMBERS
    assert f"ids from {names[0]} (24,) text, labels from {names[1]} (24,) text" in caplog.text
    assert "not taken: tags (24,) list<element: string>" in caplog.text


def test_columns_are_chosen_by_name(take: Take) -> None:
    columns = {"a": lists(), "b": lists(-X), "id": [7] * N, "label": np.full(N, 0.5), "name": IDS, "kind": KINDS}
    with pytest.raises(UsageError, match=r"found a .*; b .*; expected .*; --column says which"):
        take(columns)
    with pytest.raises(SdcError, match=r"expected each once; --id-column none leaves id out"):
        take(columns, column="a", label_column="none")
    with pytest.raises(SdcError, match=r"whole numbers.*; --label-column none leaves label out"):
        take(columns, column="a", id_column="none")
    store = take(columns, column="B", id_column="name", label_column="kind")
    np.testing.assert_array_equal(store.features, -X)
    assert store.ids() == IDS
    assert store.labels.tolist() == NUMBERS
    assert {name: store.provenance["settings"][name] for name in ("column", "id_column", "label_column")} == {
        "column": "B", "id_column": "name", "label_column": "kind",
    }  # fmt: skip
    plain = take(columns, column="a", id_column="none", label_column="none")
    assert plain.ids()[:2] == ["0", "1"]
    assert plain.labels is None
    with pytest.raises(UsageError, match=r"no column 'names' for --id-column; found a \(24, 5\) float32; b"):
        take(columns, column="a", id_column="names")
    with pytest.raises(UsageError, match=r"kind \(24,\) text is no two-dimensional array of numbers"):
        take(columns, column="kind")


ENCODED: dict[str, tuple[arrow.Array, list[str] | None]] = {
    "dictionary": (arrow.array(IDS).dictionary_encode(), IDS),
    "string view": (arrow.array(IDS, arrow.string_view()), IDS),
    "large string": (arrow.array(IDS, arrow.large_string()), IDS),
    "binary": (arrow.array([name.encode() for name in IDS]), IDS),
    "binary view": (arrow.array([name.encode() for name in IDS], arrow.binary_view()), IDS),
    "whole decimal": (arrow.array([decimal.Decimal(row) for row in range(N)], arrow.decimal128(9, 0)), None),
    "decimal": (
        arrow.array([decimal.Decimal(row) / 4 for row in range(N)], arrow.decimal128(9, 2)),
        [f"{row / 4:.2f}" for row in range(N)],
    ),
    "timestamp": (
        arrow.array([datetime.datetime(2024, 5, 6, 7, 8, row) for row in range(N)]),
        [f"2024-05-06 07:08:{row:02}" for row in range(N)],
    ),
    "date": (
        arrow.array([datetime.date(2024, 5, 1 + row) for row in range(N)]),
        [f"2024-05-{1 + row:02}" for row in range(N)],
    ),
    "uuid": (
        arrow.array([uuid.UUID(int=row).bytes for row in range(N)], arrow.uuid()),
        [str(uuid.UUID(int=row)) for row in range(N)],
    ),
    "uint64": (arrow.array([2**63 + row for row in range(N)], arrow.uint64()), [str(2**63 + row) for row in range(N)]),
}  # fmt: skip


@pytest.mark.parametrize("file", SAVE)
@pytest.mark.parametrize("name", ENCODED)
def test_ids_of_every_type_come_as_they_are(take: Take, name: str, file: str) -> None:
    values, expected = ENCODED[name]
    assert take({"e": lists(), "id": values}, file).ids() == (expected or [str(row) for row in range(N)])


TEXTS = [arrow.string(), arrow.string_view(), arrow.binary(), arrow.dictionary(arrow.int32(), arrow.string())]


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=9), min_size=1, unique=True),
    st.sampled_from(sorted(SAVE)),
    st.sampled_from(TEXTS),
)
def test_any_ids_survive_any_container(tmp_path_factory: Any, ids: list[str], file: str, kind: Any) -> None:
    path = tmp_path_factory.mktemp("any") / file
    SAVE[file](arrow.table({"vector": [[1.0, 2.0]] * len(ids), "id": arrow.array(ids).cast(kind)}), path)
    assert read_vectors(path)[1] == ids


VECTORS: dict[str, arrow.Array] = {
    "fixed shape tensor": arrow.FixedShapeTensorArray.from_numpy_ndarray(X),
    "fixed size list": lists(),
    "list": arrow.array(X.tolist(), arrow.list_(arrow.float32())),
    "large list": arrow.array(X.tolist(), arrow.large_list(arrow.float32())),
    "list of decimals": arrow.array(
        [[decimal.Decimal(f"{value:.9f}") for value in row.tolist()] for row in X], arrow.list_(arrow.decimal128(20, 9))
    ),
}


@pytest.mark.parametrize("file", SAVE)
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_every_type_are_read(take: Take, name: str, file: str) -> None:
    np.testing.assert_allclose(take({"t": VECTORS[name]}, file).features, X, rtol=0, atol=1e-9)


def test_a_list_view_in_several_batches_is_read(take: Take) -> None:
    values = arrow.array(X.tolist(), arrow.list_view(arrow.float32()))
    np.testing.assert_array_equal(take({"t": values}, "t.arrow").features, X)


@pytest.mark.parametrize("file", SAVE)
@pytest.mark.parametrize("name", ["{}", "dim_{}", "f{:03}", "embedding-{}", "x.{}"])
@pytest.mark.parametrize("first", [0, 1])
def test_one_column_a_dimension(take: Take, name: str, file: str, first: int) -> None:
    columns = {name.format(first + column): X[:, column] for column in (4, 0, 3, 1, 2)}  # not in order
    store = take({"id": IDS, "label": KINDS, "size": np.ones(N), **columns}, file)
    np.testing.assert_array_equal(store.features, X)
    assert store.ids() == IDS
    assert store.labels.tolist() == NUMBERS


def test_one_of_several_numbered_groups_is_chosen(take: Take) -> None:
    columns = {f"{stem}{number}": X[:, number] for stem in "ab" for number in range(D)}
    with pytest.raises(UsageError, match=r"found a\* \(24, 5\) float32; b\* .*--column says which"):
        take(columns)
    np.testing.assert_array_equal(take(columns, column="a").features, X)
    with pytest.raises(UsageError, match=r"found year_2019 \(24,\) float32; year_2021"):
        take({"year_2019": X[:, 0], "year_2021": X[:, 1]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[], *X[1:].tolist()], "column embedding holds 0 values in row 0 and 5 in row 1, expected the same number"),
        ([*X[:23].tolist(), [1.0]], "column embedding holds 1 values in row 23 and 5 in row 0, expected the same"),
        ([None, *X[1:].tolist()], "column embedding has no value in row 0$"),
        ([*X[:20].tolist(), None, None, *X[22:].tolist()], "column embedding has no value in row 20( and 1 more)?$"),
        ([*X[:20].tolist(), [1, 2, 3, None, 5], *X[21:].tolist()], "column embedding holds empty values in row 20$"),
        ([[]] * N, r"holds no values: found embedding \(24, 0\) float64, expected at least one row"),
    ],
)
def test_ragged_and_null_lists_are_named_by_row(take: Take, values: list[Any], message: str) -> None:
    with pytest.raises(SdcError, match=message) as caught:
        take({"embedding": arrow.array(values, arrow.list_(arrow.float64()))})
    assert "is it whole" not in str(caught.value)


def test_a_column_without_values_is_named(take: Take) -> None:
    with pytest.raises(SdcError, match=r"labels: no value in 1 row \(3\), .*--label-column none leaves label"):
        take({"e": lists(), "label": [*KINDS[:3], None, *KINDS[4:]]})
    with pytest.raises(SdcError, match=r"ids: no value in 1 row \(1\), .*--id-column none leaves id out"):
        take({"e": lists(), "id": ["a", None, *IDS[2:]]})
    with pytest.raises(SdcError, match=r"column id has no value in row 1 and 1 more; --id-column none leaves id out"):
        take({"e": lists(), "id": [0, None, None, *range(3, N)]})
    with pytest.raises(SdcError, match=r"label is of the type null, which is not read, or leave it out with --label-c"):
        take({"e": lists(), "label": arrow.nulls(N)})


def test_embeddings_as_text_or_bytes_are_named(take: Take) -> None:
    for values, kind in (([row.tobytes() for row in X], "bytes"), ([str(row.tolist()) for row in X], "text")):
        with pytest.raises(UsageError, match=rf"embedding holds {kind}, .*save it as lists of numbers"):
            take({"embedding": values, "id": IDS})


def test_lists_of_labels_can_be_left_out(take: Take) -> None:
    columns = {"e": lists(), "label": [[1, 2], *[[1]] * (N - 1)]}
    with pytest.raises(SdcError, match=r"1 values in row 1 and 2 in row 0.*--label-column none leaves label"):
        take(columns)
    assert take(columns, label_column="none").labels is None


def test_old_feather_and_pointers_are_called_so(take: Take, tmp_path: Path) -> None:
    (tmp_path / "v.feather").write_bytes(b"FEA1" + bytes(100) + b"FEA1")
    with pytest.raises(SdcError, match=r"version 1 of Feather, which is not read: save it with version=2$"):
        take(tmp_path / "v.feather")
    for ending in ("parquet", "npy", "h5", "safetensors"):
        pointer = tmp_path / f"pointer.{ending}"
        pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        with pytest.raises(SdcError, match=r"it is a pointer of Git LFS, not the file: `git lfs pull`$"):
            take(pointer)


def test_two_columns_of_one_name_are_refused(take: Take, tmp_path: Path) -> None:
    save_stream(arrow.Table.from_arrays([lists(), *[arrow.array(IDS)] * 2], ["e", "id", "id"]), tmp_path / "t.arrow")
    with pytest.raises(SdcError, match=r"id is the name of 2 columns, .*or leave it out with --id-column none"):
        take(tmp_path / "t.arrow")
    assert take(tmp_path / "t.arrow", id_column="none").ids()[0] == "0"


def shards(folder: Path, *parts: tuple[str, int, int], **columns: Any) -> Path:
    folder.mkdir()
    whole = arrow.table({"vector": lists(), "id": IDS, "label": KINDS, **columns})
    for name, start, stop in parts:
        SAVE[f"t{Path(name).suffix}"](whole.slice(start, stop - start), folder / name)
    return folder


@pytest.mark.parametrize("ending", ["parquet", "feather", "arrow"])
def test_shards_are_read_in_natural_order(take: Take, tmp_path: Path, ending: str) -> None:
    parts = [(f"p-{number}.{ending}", *span) for number, span in ((1, (0, 7)), (2, (7, 9)), (10, (9, 9)), (11, (9, N)))]
    folder = shards(tmp_path / "part", *parts)
    (folder / "_SUCCESS").touch()
    (folder / "README.md").touch()
    names = sorted(folder.glob("p-*"))
    for given_ in (folder, folder / "p-*", names):
        store = take(given_)
        np.testing.assert_array_equal(store.features, X)
        assert store.ids() == IDS
        assert store.labels.tolist() == NUMBERS
        assert store.provenance["dataset"] == "part"
        assert store.provenance["settings"]["vectors"]["files"] == 4
    assert take([folder / f"p-11.{ending}", folder / f"p-1.{ending}"]).ids() == IDS[9:] + IDS[:7]
    assert read_vectors(folder)[1] == IDS


def test_a_shard_that_changed_is_noticed(take: Take, tmp_path: Path) -> None:
    folder = shards(tmp_path / "part", ("a.parquet", 0, 9), ("b.parquet", 9, N))
    take(folder)
    (folder / "b.parquet").rename(folder / "c.parquet")
    with pytest.raises(UsageError, match=r"settings.vectors.names: found"):
        import_features(ImportSettings(folder, out=tmp_path / "o.h5"))


def test_shards_that_do_not_fit_together_are_named(take: Take, tmp_path: Path) -> None:
    folder = shards(tmp_path / "part", ("a.parquet", 0, 9))
    SAVE["t.parquet"](arrow.table({"vector": lists(X[:, :3]), "id": IDS}), folder / "b.parquet")
    with pytest.raises(SdcError, match=r"vector is \(24, 3\) in .*b.parquet and \(9, 5\) in .*a.parquet"):
        take(folder)
    SAVE["t.parquet"](arrow.table({"vector": lists(), "id": IDS}), folder / "b.parquet")
    with pytest.raises(SdcError, match=r"label is not there in .*b.parquet and is in .*a.parquet, or leave it out"):
        take(folder)
    assert take(folder, label_column="none", id_column="none").features.shape == (N + 9, D)
    (folder / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(SdcError, match=r"cannot read .*b.parquet: .*is it whole"):
        take(folder)
    np.save(folder / "c.npy", X)
    with pytest.raises(UsageError, match=r"files of several kinds \(1 .npy, 2 .parquet\): name those meant, as by"):
        take(folder)
    with pytest.raises(UsageError, match=r"is a folder, expected file of vectors, or a folder of files that end in"):
        take(tmp_path)
    with pytest.raises(SdcError, match=r"no file of vectors at .*\*.npz: the pattern matches no file"):
        take(tmp_path / "*.npz")


def test_pieces_of_npy_are_joined(take: Take, tmp_path: Path) -> None:
    (tmp_path / "emb").mkdir()
    for number, (start, stop) in enumerate([(0, 9), (9, 9), (9, N)]):
        np.save(tmp_path / "emb" / f"emb_{number}.npy", X[start:stop].astype(np.float16 if number else np.float32))
    store = take(tmp_path / "emb")
    np.testing.assert_allclose(store.features, X, atol=1e-2)
    assert store.features.dtype == np.float32


def test_a_folder_of_hugging_face_is_read(take: Take, tmp_path: Path) -> None:
    data = shards(tmp_path / "data", ("data-00000-of-00002.arrow", 9, N), ("data-00001-of-00002.arrow", 0, 9))
    order = ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]
    (data / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in order]}))
    assert take(data).ids() == IDS
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(UsageError, match=r"is a folder of splits, train, test: name one of them, as .*/train"):
        take(tmp_path)


@pytest.mark.parametrize("file", ["t.parquet", "t.arrow"])
def test_names_of_classes_of_hugging_face_are_kept(take: Take, tmp_path: Path, file: str) -> None:
    numbers = [row % 3 - 1 for row in range(N)]  # -1 is no label
    features = {"label": {"names": ["dog", "cat"], "_type": "ClassLabel"}, "e": [{"dtype": "float32"}]}
    known = {"huggingface": json.dumps({"info": {"features": features}})}
    SAVE[file](arrow.table({"e": lists(), "label": numbers}).replace_schema_metadata(known), tmp_path / file)
    store = take(tmp_path / file)
    assert store.labels.tolist() == numbers
    assert store.classes == {"labels": {0: "dog", 1: "cat"}}
    np.save(tmp_path / "v.npy", X)
    assert take(tmp_path / "v.npy", labels=tmp_path / file).classes == store.classes


@pytest.mark.parametrize("file", SAVE)
def test_shards_are_streamed_in_small_blocks(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "BLOCK_BYTES", 4 * 8 * D)
    ending = Path(file).suffix
    folder = shards(tmp_path / "part", (f"a{ending}", 0, 9), (f"b{ending}", 9, N))
    vectors = next(each for each in open_source(folder, "vectors").tables if each.name == "vector")
    blocks = [*vectors.blocks()]
    assert max(map(len, blocks)) <= 4
    np.testing.assert_array_equal(np.concatenate(blocks), X)
