"""What shells, terminals and disks do to files: streams, links, names that are no UTF-8, narrow encodings."""

from __future__ import annotations

import json
import os
import shutil
import tempfile

import h5py
import numpy as np
import pytest
import torch
import warm

from sdc.errors import UsageError
from sdc.extract import ImportSettings, import_features
from sdc.extract.readers import read_tables
from sdc.extract.store import FeatureStore
from sdc.files import json_text
from sdc.retrieve.index import Index

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N = 300
STRANGE = os.fsdecode(b"caf\xe9")  # a name in Latin-1, as old disks and archives have them


@pytest.fixture
def named(made, tmp_path, command_in):
    """`sdc` beside a chain of files, and vectors in v.npy."""
    shutil.copytree(made, tmp_path / "chain")
    np.save(tmp_path / "chain" / "v.npy", np.random.default_rng(0).standard_normal((N, 24), np.float32))
    return command_in(tmp_path / "chain")


def stream(content):
    """The path of a pipe that holds `content`, as `<(...)` gives one."""
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    return f"/dev/fd/{reader}"


def printed(folder, *arguments, **variables):
    """What `sdc` prints, as bytes."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as messages:
        done = warm.run(
            ["-m", "sdc", *arguments], cwd=folder, stdout=out, stderr=messages, env={**os.environ, **variables}
        )
        for file in (out, messages):
            file.seek(0)
        assert done.returncode == 0, messages.read()
        return out.read()


@pytest.fixture
def vectors_file(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(30, 8, dtype=np.float32))
    return tmp_path / "v.npy"


def test_ids_and_labels_come_from_streams(vectors_file, tmp_path, caplog):
    def made(ids=range(30)):
        lines = "".join(f"img{number}\n" for number in ids).encode()
        labels = "".join(f"{number % 3}\n" for number in range(30)).encode()
        given = ImportSettings(vectors_file, ids=stream(lines), labels=stream(labels), out=tmp_path / "f.h5")
        return FeatureStore(import_features(given))

    store = made()
    assert store.ids() == [f"img{row}" for row in range(30)]
    assert store.labels.tolist() == [row % 3 for row in range(30)]
    caplog.set_level("INFO")
    made()  # another stream of the same content
    assert "nothing to do" in caplog.text
    with pytest.raises(UsageError, match="made with other settings"):
        made(range(1, 31))


def test_errors_about_a_stream_name_it(vectors_file, tmp_path):
    path = stream(b"a\nb\n")
    with pytest.raises(Exception, match=f"^{path}: found 2 ids, expected 30"):
        import_features(ImportSettings(vectors_file, ids=path, out=tmp_path / "f.h5"))


def test_an_import_through_a_link_renews_the_target(vectors_file, tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "feats.h5").symlink_to("big/feats.h5")
    for rows in (30, 20):
        np.save(vectors_file, np.eye(rows, 8, dtype=np.float32))
        import_features(ImportSettings(vectors_file, out=tmp_path / "feats.h5", overwrite=True))
        assert (tmp_path / "feats.h5").is_symlink()
        assert len(FeatureStore(tmp_path / "big" / "feats.h5")) == rows


def test_an_index_behind_a_link_finds_its_files(named):
    (named.folder / "far").mkdir()
    (named.folder / "linked.bin").symlink_to("far/db.bin")
    named("encode", "--out", "linked.bin")
    for name in ("linked.bin", "far/db.bin"):
        found = named.json("search", "--index", name, "--id", "7", "--rerank", "2", "-k", "1")
        assert found["results"][0]["neighbors"][0]["id"] == "7"


def test_an_output_that_is_named_as_a_folder_is_refused(named):
    for arguments in (("import", "v.npy", "--out"), ("encode", "--out"), ("export", "--torch"), ("diagnose", "--out")):
        refused = named(*arguments, "newdir/", code=2)
        assert "newdir/ is the name of a folder" in refused.stderr
    assert not (named.folder / "newdir").exists()


def test_names_that_are_no_utf8_work_throughout(named):
    for name in ("feats.h5", "model.safetensors", "v.npy"):
        (named.folder / name).rename(named.folder / f"{STRANGE}-{name}")
    features, model, vectors = (f"{STRANGE}-{name}" for name in ("feats.h5", "model.safetensors", "v.npy"))
    index = f"{STRANGE}.bin"
    for kind in ("flat", "ivf"):
        given = ("--features", features, "--model", model, "--overwrite", "--index-type", kind)
        assert printed(named.folder, "encode", *given, "--out", index).startswith(b"caf\xe9.bin: ")
        search = ("search", "--index", index, "--id", "7", "--rerank", "2", "-k", "1", "--json")
        shown = json.loads(printed(named.folder, *search))
        assert shown["index"] == index
        assert shown["results"][0]["neighbors"][0]["id"] == "7"
    (named.folder / "ids.txt").write_text("".join(f"new{row}\n" for row in range(N)))
    printed(named.folder, "import", vectors, "--out", f"{STRANGE}.h5", "--ids", "ids.txt", "--labels", "labels.npy")
    printed(named.folder, "add", "--index", index, "--features", f"{STRANGE}.h5")
    printed(named.folder, "compact", "--index", index)
    assert Index.open(named.folder / index).ntotal == 2 * N


def test_readers_open_names_that_are_no_utf8(tmp_path):
    x = np.eye(5, 4, dtype=np.float32)
    path = tmp_path / STRANGE
    torch.save(torch.from_numpy(x), path.with_suffix(".pt"))
    with path.with_suffix(".parquet").open("wb") as file:
        parquet.write_table(pyarrow.table({"embedding": x.tolist()}), file)
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["features"] = x
    for ending in (".pt", ".parquet", ".h5"):
        (table,) = read_tables(path.with_suffix(ending))
        np.testing.assert_array_equal(table.read(), x)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_ids_are_shown_in_any_encoding(tmp_path, encoding):
    names = [f"日本{row}é.jpg" for row in range(9)]
    Index.build(np.arange(9, dtype=np.uint8)[:, None], ids=names).save(tmp_path / "db.bin")
    search = ("search", "--id", "日本7é.jpg", "-k", "1")
    as_json = printed(tmp_path, *search, "--json", PYTHONIOENCODING=encoding).decode(encoding)
    assert json.loads(as_json)["results"][0]["query"] == "日本7é.jpg"
    as_text = printed(tmp_path, *search, PYTHONIOENCODING=encoding).decode(encoding)
    assert as_text.startswith(r"\u65e5\u672c7é.jpg: ")


def test_ids_are_utf8_in_any_locale(tmp_path):
    Index.build(np.arange(9, dtype=np.uint8)[:, None], ids=[f"日本{row}" for row in range(9)]).save(tmp_path / "db.bin")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    shown = json.loads(printed(tmp_path, "search", "--id", "日本7", "-k", "1", "--json", **plain))
    assert shown["results"][0]["query"] == "日本7"


def test_help_is_shown_in_any_encoding(tmp_path):
    shown = printed(tmp_path, "--help", PYTHONIOENCODING="cp1252").decode("cp1252")
    assert "images - extract -> feats.h5" in shown


def test_text_gives_strange_names_back_as_they_are(named):
    assert printed(named.folder, "encode", "--out", f"{STRANGE}.bin").startswith(b"caf\xe9.bin: ")


def test_json_text_is_unicode_that_reads_back():
    value = {"日本": [STRANGE, 1.5, None]}
    text = json_text(value)
    assert text.encode().decode() == text == '{"日本": ["caf\\udce9", 1.5, null]}'
    assert json.loads(text) == value
