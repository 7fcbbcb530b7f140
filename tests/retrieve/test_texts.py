"""Texts beside the vectors: from a column through feats.h5 and db.bin, with its changes, into every answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from sdc.cli import cli
from sdc.errors import SdcError
from sdc.extract import ImportSettings, import_features
from sdc.extract.store import FeatureStore
from sdc.retrieve.index import Index

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N, D = 40, 16
X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
TEXTS = [f"Löwe {row}\nat rest" if row % 4 else "" for row in range(N)]


def save(path: Path, rows: slice, **columns: Any) -> Path:
    vectors = arrow.array(X[rows].tolist(), arrow.list_(arrow.float32()))
    ids = [f"img{row}" for row in range(N)][rows]
    parquet.write_table(arrow.table({"embedding": vectors, "id": ids, **columns}), path)
    return path


def run(*arguments: Any) -> Any:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def texts_of(index: Path) -> dict[str, str]:
    """The texts that a search for every item shows, by id."""
    shown: dict[str, str] = {}
    for result in json.loads(run("search", "--index", index, "--id", "img3", "-k", 100, "--json"))["results"]:
        shown |= {near["id"]: near.get("text") for near in result["neighbors"]}
    return shown


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Path:
    """A folder with all items but the last ten in an index."""
    folder: Path = tmp_path_factory.mktemp("texts")
    save(folder / "v.parquet", slice(0, 30), Text=[text or None for text in TEXTS[:30]])
    run("import", folder / "v.parquet", "--out", folder / "feats.h5")
    run("train", "--features", folder / "feats.h5", "--method", "itq", "--bits", 8, "--out", folder / "m.safetensors")
    run("encode", "--features", folder / "feats.h5", "--model", folder / "m.safetensors", "--out", folder / "db.bin")
    return folder


def test_a_column_of_texts_is_kept_and_shown(made: Path, tmp_path: Path) -> None:
    store = FeatureStore(made / "feats.h5")
    assert store.texts is not None
    assert list(store.texts) == TEXTS[:30]
    assert texts_of(made / "db.bin") == {f"img{row}": TEXTS[row] for row in range(30)}
    assert "img3 (0) Löwe 3 at rest  " in run("search", "--index", made / "db.bin", "--id", "img3", "-k", 30)
    again = FeatureStore(import_features(ImportSettings(made / "feats.h5", out=tmp_path / "again.h5")))
    assert list(again.texts or []) == TEXTS[:30]


def test_texts_stay_with_added_removed_and_merged_items(made: Path, tmp_path: Path) -> None:
    index = tmp_path / "db.bin"
    index.write_bytes((made / "db.bin").read_bytes())
    model = ("--model", made / "m.safetensors")
    run("import", save(tmp_path / "a.parquet", slice(30, 35), text=TEXTS[30:35]), "--out", tmp_path / "a.h5")
    run("import", save(tmp_path / "b.parquet", slice(35, N)), "--out", tmp_path / "b.h5")
    for added in ("a.h5", "b.h5"):
        run("add", "--index", index, "--features", tmp_path / added, *model)
    run("remove", "--index", index, "--id", "img7", "--id", "img31")
    expected = {f"img{row}": TEXTS[row] if row < 35 else "" for row in range(N) if row not in (7, 31)}
    for _ in range(2):
        opened = Index.open(index)
        assert texts_of(index) == expected
        assert opened.database.texts is not None
        assert opened.database.texts.take(np.arange(len(expected))) == list(expected.values())
        run("compact", "--index", index)


def test_the_service_shows_texts(made: Path) -> None:
    from sdc.serve import ServeSettings
    from sdc.serve.request_parsing import How
    from sdc.serve.snapshot import Snapshot

    snapshot = Snapshot.open(ServeSettings(index=made / "db.bin", model=made / "m.safetensors"))
    (result,) = snapshot.by_id("img3", How(k=2))["results"]
    assert result["neighbors"][0]["text"] == TEXTS[3]


def test_which_column_holds_texts_is_asked_or_known(tmp_path: Path) -> None:
    def texts(path: Path, **options: Any) -> list[str] | None:
        store = FeatureStore(import_features(ImportSettings(path, out=tmp_path / "o.h5", overwrite=True, **options)))
        return None if store.texts is None else list(store.texts)

    path = save(tmp_path / "v.parquet", slice(0, 3), caption=["a", "b", None], price=[1.5, 2.0, 3.0], text=["x"] * 3)
    assert texts(path) == ["x"] * 3
    assert texts(path, text_column="none") is None
    assert texts(path, text_column="caption") == ["a", "b", ""]
    assert texts(path, text_column="price") == ["1.5", "2.0", "3.0"]
    lists = save(tmp_path / "w.parquet", slice(0, 3), text=[["a"], ["b"], []])
    assert texts(lists) is None
    with pytest.raises(SdcError, match=r"text is of the type list<element: string>, which is not read"):
        texts(lists, text_column="text")


def test_codes_made_elsewhere_have_texts_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", codes=np.packbits(X > 0, axis=1), text=TEXTS, id=[f"img{row}" for row in range(N)])
    run("import", "--codes", tmp_path / "c.npz", "--column", "codes", "--out", tmp_path / "db.bin")
    assert texts_of(tmp_path / "db.bin")["img5"] == TEXTS[5]
