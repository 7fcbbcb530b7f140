from __future__ import annotations

import logging
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdc.errors import SdcError, UsageError
from sdc.extract.store import IdArray, PackedIds
from sdc.retrieve.bits import pack
from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.index import Index


def test_codes_are_the_signs_of_the_outputs_split_by_split(scene):
    index, store, model = scene.index, scene.store, scene.model
    for part, split in ((index.database, "database"), (index.queries, "query")):
        rows = store.splits[split]
        assert (part.rows == rows).all()
        assert (part.codes == pack(model.outputs(store.take(rows)))).all()
        assert part.names() == store.ids(rows)
        assert (part.labels == store.labels[rows]).all()


def test_the_origin_is_recorded_with_movable_paths(scene, tmp_path_factory):
    metadata = scene.index.metadata
    assert metadata["model"]["fingerprint"] == scene.model.fingerprint
    assert metadata["model"]["method"] == "lsh"
    assert metadata["features"]["fingerprint"] == scene.store.fingerprint
    assert metadata["features"]["provenance"] == scene.store.provenance
    assert metadata["settings"] == {"index_type": "flat"}
    moved = tmp_path_factory.mktemp("moved") / "all"
    shutil.copytree(scene.folder, moved)
    assert Index.open(moved / "db.bin").recorded("model") == (moved / "model.safetensors", scene.model.fingerprint)


def test_one_by_one_gives_the_codes_of_a_batch(scene):
    features, model = scene.store.features, scene.model
    batch = pack(model.outputs(features))
    for row in range(0, len(features), 7):
        assert (pack(model.outputs(features[row : row + 1])) == batch[row]).all()


def test_many_blocks_are_one_encoding(scene, monkeypatch):
    monkeypatch.setattr("sdc.retrieve.encode._BLOCK", 7)
    in_blocks = Index.open(scene.encode(out="blocks.bin"))
    assert (in_blocks.database.codes == scene.index.database.codes).all()
    assert (in_blocks.queries.codes == scene.index.queries.codes).all()


def test_no_queries_is_fine(make_scene):
    scene = make_scene(queries=0)
    assert scene.index.queries is None
    assert len(scene.index) == 400


def test_multi_hot_labels_and_no_labels(make_scene):
    scene = make_scene(labels="multi")
    assert (scene.index.database.labels == scene.store.labels).all()
    scene.write_features("bare.h5", labels=None)
    assert Index.open(scene.encode("bare.h5", out="bare.bin")).database.labels is None


def test_encoding_again_is_kept_and_other_inputs_are_refused(scene, caplog):
    before = (scene.folder / "db.bin").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "sdc"):
        scene.encode()
    assert "nothing to do" in caplog.text
    scene.write_model("other.safetensors", seed=1)
    with pytest.raises(UsageError, match=r"db\.bin exists.*model: found .*--overwrite"):
        scene.encode(model="other.safetensors")
    scene.write_features("other.h5", seed=1)
    with pytest.raises(UsageError, match=r"features: found"):
        scene.encode(features="other.h5")
    assert (scene.folder / "db.bin").stat().st_mtime_ns == before
    scene.encode(model="other.safetensors", overwrite=True)
    assert scene.index.metadata["model"]["fingerprint"] != scene.model.fingerprint


def test_a_damaged_output_is_not_taken_for_a_finished_one(scene):
    path = scene.folder / "db.bin"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SdcError, match=r"damaged or truncated.*--overwrite replaces it"):
        scene.encode()
    scene.encode(overwrite=True)
    assert scene.index.vouched


def test_features_of_another_dimension_are_refused(scene):
    scene.write_features("wide.h5", dimension=32)
    with pytest.raises(UsageError, match=r"wide\.h5 has features of 32 dimensions.*trained on 24"):
        scene.encode(features="wide.h5", out="wide.bin")
    assert not (scene.folder / "wide.bin").exists()


def test_features_other_than_the_models_are_encoded_and_said(scene, caplog):
    with caplog.at_level(logging.INFO, "sdc"):
        scene.encode(out="again.bin")
    assert "was trained on other features (others)" in caplog.text
    assert scene.index.metadata["model"]["trained_on"] == "others"


def test_an_empty_database_is_refused(scene):
    scene.write_features("empty.h5", database="none")
    with pytest.raises(SdcError, match=r"empty\.h5 has no rows in its database split"):
        scene.encode(features="empty.h5", out="empty.bin")


@pytest.mark.parametrize("name", ["features", "model"])
def test_a_missing_input_is_named(scene, name):
    with pytest.raises(SdcError, match="gone"):
        scene.encode(**{name: "gone"}, out="x.bin")


def test_an_unknown_index_type_names_the_known(scene):
    with pytest.raises(UsageError, match="unknown index type 'flt': did you mean 'flat'"):
        scene.encode(index_type="flt")


def test_a_folder_that_is_not_there_is_named(scene):
    with pytest.raises(SdcError, match=r"the folder .*nowhere does not exist"):
        scene.encode(out="nowhere/db.bin")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(scene):
    (scene.folder / "locked").mkdir(mode=0o500)
    with pytest.raises(SdcError, match="no permission"):
        scene.encode(out="locked/db.bin")


def test_codes_of_bits_that_fill_no_byte_are_refused(scene):
    scene.write_model("odd.safetensors", bits=12)
    with pytest.raises(UsageError, match="codes of 12 bits"):
        scene.encode(model="odd.safetensors", out="odd.bin")
    written = {path.name for path in scene.folder.iterdir()}
    assert written == {"feats.h5", "model.safetensors", "odd.safetensors", "db.bin"}


@given(st.data())
def test_ids_of_a_store_are_kept_without_python_strings(data):
    """As given, in any rows; left out where each is its row in digits, which is what no id means."""
    names = data.draw(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)))
    rows = np.array(data.draw(st.lists(st.integers(0, max(len(names) - 1, 0)), max_size=len(names))), np.int64)
    encoded = [name.encode() for name in names]
    expected = [names[row] for row in rows]
    for column in (IdArray(np.array(encoded, "S36")), PackedIds.of(encoded)):
        found = Ids.of_rows(column, rows)
        assert (found is None) == (expected == [str(row) for row in rows])
        assert found is None or found.take(np.arange(len(rows))) == expected


def test_ids_beyond_one_block_keep_their_places():
    rows = np.arange(600_000)
    digits = rows.astype("S6")
    assert Ids.of_rows(IdArray(digits), rows) is None
    digits[555_555] = b"\xc3\xbc"
    found = Ids.of_rows(IdArray(digits), rows[::-1])
    assert found is not None
    assert found.take(np.array([0, 599_999 - 555_555, 599_999])) == ["599999", "ü", "0"]
