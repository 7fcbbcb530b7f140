"""What add, remove and compact leave is what a plain dictionary holds after the same changes."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError, UsageError
from sdc.retrieve.index.delta import manifest
from sdc.retrieve.index.index import Index
from sdc.retrieve.update import changes
from sdc.retrieve.update.settings import AddSettings, CompactSettings, RemoveSettings

STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "replace", "remove", "remove", "compact"]), st.integers(0, 2**16)),
    min_size=1,
    max_size=7,
)


def step(shelf, kind, seed, number):
    """One change that fits, drawn from a seed."""
    chance = random.Random(seed)
    held = sorted(shelf.expected)
    if kind == "add":
        shelf.add([f"new/{number}/{each}" for each in range(chance.randint(1, 9))])
    elif kind == "replace":
        fresh = [f"other/{number}/{each}" for each in range(chance.randint(0, 3))]
        shelf.add(chance.sample(held, chance.randint(1, min(8, len(held)))) + fresh, number + 1, replace=True)
    elif kind == "remove":
        some = chance.sample(held, min(len(held) - 1, chance.choice([1, 3, 20])))
        if some:
            shelf.remove(some)
    else:
        shelf.compact()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_any_series_of_changes_leaves_what_a_dictionary_holds(make_shelf, tools, steps):
    with tempfile.TemporaryDirectory() as folder:
        shelf = make_shelf(Path(folder), 30)
        for number, (kind, seed) in enumerate(steps):
            step(shelf, kind, seed, number)
            index = shelf.check()
            assert not tools.left_over(shelf)
        shelf.compact()
        assert shelf.check().changes is None
        assert index.ntotal == len(shelf.expected)
        assert not (shelf.folder / "db.bin.changes").exists()


def test_every_item_of_the_base_may_be_replaced_and_removed(shelf):
    base = sorted(shelf.expected)
    shelf.add(base[:-1], version=1, replace=True)
    shelf.check()
    shelf.add(["one"])
    shelf.remove(base)
    index = shelf.check()
    assert index.ntotal == 1
    shelf.compact()
    shelf.check()
    shelf.add(base, version=2)
    shelf.check()


def test_an_opened_index_stays_as_it_was(shelf, tools):
    old, before = Index.open(shelf.path), dict(shelf.expected)
    shelf.add(["x", "y"])
    middle = Index.open(shelf.path)
    assert (old.current(), middle.current()) == (False, True)
    between = dict(shelf.expected)
    shelf.remove(["x", "first/001"])
    shelf.compact()
    for index, state in ((old, before), (middle, between)):
        assert not index.current()
        tools.check_searches(index, state)
        assert tools.state_of(index) == state


def test_generation_and_fingerprint_follow_the_changes(shelf):
    seen = [Index.open(shelf.path)]
    shelf.add(["x"])
    seen.append(Index.open(shelf.path))
    shelf.remove(["x"])
    seen.append(Index.open(shelf.path))
    shelf.compact()
    seen.append(Index.open(shelf.path))
    assert [index.generation for index in seen] == [0, 1, 2, 2]
    assert len({index.fingerprint for index in seen}) == 4
    assert Index.open(shelf.path).fingerprint == seen[-1].fingerprint
    shelf.add(["y"])
    assert Index.open(shelf.path).generation == 3
    assert shelf.expected["y"][0] == 41  # no row number comes twice


def test_what_the_changes_say(shelf):
    found = changes.add(AddSettings(shelf.path, shelf.store(["a", "first/000"], "m.h5", 1), replace=True))
    assert found == {"index": str(shelf.path), "added": 2, "replaced": 1, "rows": 41, "generation": 1}
    found = changes.remove(RemoveSettings(shelf.path, ("a", "a")))
    assert found == {"index": str(shelf.path), "removed": 1, "missing": 0, "rows": 40, "generation": 2}
    found = changes.remove(RemoveSettings(shelf.path, ("a",), ignore_missing=True))
    assert found == {"index": str(shelf.path), "removed": 0, "missing": 1, "rows": 40, "generation": 2}
    found = changes.compact(CompactSettings(shelf.path))
    assert found == {"index": str(shelf.path), "rows": 40, "generation": 2, "added": 2, "removed": 2}
    found = changes.compact(CompactSettings(shelf.path))
    assert found == {"index": str(shelf.path), "rows": 40, "generation": 2, "added": 0, "removed": 0}


def test_compaction_is_advised_when_much_has_changed(shelf, caplog):
    caplog.set_level("INFO")
    shelf.add(["a"])
    assert "sdc compact" not in caplog.text
    shelf.remove([f"first/{number:03}" for number in range(8)])
    assert "9 items were added or removed since" in caplog.text
    assert "(22 % of its items, in 2 changes)" in caplog.text


def test_without_changes_nothing_is_beside_the_index(shelf):
    with pytest.raises(UsageError, match="has no 'nobody'"):
        shelf.removed(["nobody"])[0]()
    shelf.compact()
    assert not (shelf.folder / "db.bin.changes").exists()


REFUSED = [
    (lambda shelf: shelf.removed(["first/0001"])[0](), r"has no 'first/0001' \(1 of 1 .*did you mean 'first/001'"),
    (lambda shelf: shelf.removed(["x", "first/000", "y", "z", "w"])[0](), r"'x', 'y', 'z', … \(4 of 5 ids are unk"),
    (lambda shelf: shelf.removed([])[0](), "no id to remove"),
    (lambda shelf: shelf.removed(sorted(shelf.expected))[0](), "these are all 40 items"),
    (lambda shelf: shelf.added(["x", "first/003"])[0](), r"1 of the 2 ids of .*\('first/003'\): --replace"),
    (lambda shelf: changes.add(AddSettings(shelf.path, other_labels(shelf))), "has no labels, .* has single"),
    (lambda shelf: changes.add(AddSettings(shelf.path, other_dimension(shelf))), "7 dimensions, the model .* takes 12"),
    (lambda shelf: changes.add(AddSettings(shelf.path, shelf.path)), "is not an HDF5 file, expected a feature store"),
    (lambda shelf: changes.add(AddSettings(shelf.path, shelf.folder / "none.h5")), "no feature store at"),
    (lambda shelf: changes.compact(CompactSettings(shelf.folder / "none.bin")), "no index at"),
]


def other_labels(shelf):
    return plain_store(shelf, 12)


def other_dimension(shelf):
    return plain_store(shelf, 7)


def plain_store(shelf, dimension):
    from sdc.extract.store import Listing, write_features

    listing = Listing(["p", "q"], {"database": np.arange(2)})
    blocks = [np.ones((2, dimension), np.float32)]
    return write_features(shelf.folder / "plain.h5", listing, {"source": "import"}, dimension, np.float32, blocks)


@pytest.mark.parametrize(("change", "message"), REFUSED)
@pytest.mark.parametrize("changed", [False, True])
def test_what_does_not_fit_is_refused_and_changes_nothing(shelf, change, message, changed, tools):
    if changed:
        shelf.add(["was/added"])
        shelf.remove(["was/added"])
    before = Index.open(shelf.path).fingerprint
    with pytest.raises(SdcError, match=message):
        change(shelf)
    assert shelf.check().fingerprint == before
    assert not tools.left_over(shelf)


def test_another_model_is_refused(shelf):
    from sdc.train.model import Model

    other = Model({**shelf.model.tensors, "output.bias": np.zeros(16, np.float32)}, shelf.model.metadata)
    path = other.save(shelf.folder / "other.safetensors")
    with pytest.raises(UsageError, match="was encoded by the model"):
        changes.add(AddSettings(shelf.path, shelf.store(["x"], "x.h5"), model=path))
    (shelf.folder / "model.safetensors").rename(shelf.folder / "moved.safetensors")
    with pytest.raises(SdcError, match="say where it is with --model"):
        changes.add(AddSettings(shelf.path, shelf.store(["x"], "x.h5")))
    changes.add(AddSettings(shelf.path, shelf.store(["x"], "x.h5"), model=shelf.folder / "moved.safetensors"))


def test_an_index_of_plain_faiss_is_only_read(tmp_path):
    import faiss

    plain = faiss.IndexBinaryFlat(16)
    plain.add(np.zeros((3, 2), np.uint8))
    faiss.write_index_binary(plain, str(tmp_path / "db.bin"))
    with pytest.raises(UsageError, match="written by plain FAISS and is only read"):
        changes.remove(RemoveSettings(tmp_path / "db.bin", ("0",)))
    assert [path.name for path in tmp_path.iterdir()] == ["db.bin"]


def test_both_levels_of_multi_hot_labels_go_along(tmp_path):
    from sdc.extract.store import Listing, write_features
    from sdc.retrieve.encode import EncodeSettings, run
    from sdc.train.model import Model

    rng = np.random.default_rng(0)
    tensors = {"output.weight": rng.standard_normal((16, 6)), "output.bias": np.zeros(16)}
    Model(tensors, {"method": "lsh", "settings": {"bits": 16}, "features": {"fingerprint": "-"}}).save(
        tmp_path / "model.safetensors"
    )

    def write(name, count, width=5):
        fine, coarse = (rng.integers(0, 2, (count, each), dtype=np.uint8) for each in (width, 3))
        ids = [f"{name}{number}" for number in range(count)]
        listing = Listing(ids, {"database": np.arange(count)}, labels=fine, labels_coarse=coarse)
        features = [rng.standard_normal((count, 6)).astype(np.float32)]
        return write_features(tmp_path / name, listing, {"source": "import"}, 6, np.float32, features), fine, coarse

    (first, *old), (second, *new), (third, *_) = write("a.h5", 20), write("b.h5", 7), write("c.h5", 7, 4)
    path = run(EncodeSettings(first, tmp_path / "model.safetensors", out=tmp_path / "db.bin"))
    with pytest.raises(UsageError, match=r"has 4 wide multi-hot labels, .* has 5 wide multi-hot"):
        changes.add(AddSettings(path, third))
    changes.add(AddSettings(path, second))
    changes.remove(RemoveSettings(path, ("a.h53", "b.h56")))
    for again in (False, True):
        database = Index.open(path).database
        for held, before, after in zip((database.labels, database.labels_coarse), old, new, strict=True):
            np.testing.assert_array_equal(held, np.concatenate([np.delete(before, 3, axis=0), after[:6]]))
        if not again:
            changes.compact(CompactSettings(path))


@pytest.mark.parametrize("lists", [None, 1])
def test_an_ivf_index_is_searched_with_changes_and_rebuilt(make_shelf, tmp_path, lists):
    shelf = make_shelf(tmp_path, 300, index_type="ivf")
    assert Index.open(shelf.path).approximate
    shelf.add([f"new/{number}" for number in range(30)])
    shelf.remove([f"first/{number:03}" for number in range(0, 200, 2)])
    index = Index.open(shelf.path, nprobe=lists)
    assert index.approximate
    everywhere = Index.open(shelf.path, nprobe=10**6)
    exact = index.merged()
    queries = index.database.codes
    for a, b in zip(
        everywhere.search(queries, 10), Index.build(queries, rows=index.database.rows).search(queries, 10), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for found in (index.search(queries, 10), exact.search(queries, 10)):
        assert (found[0][:, 0] == 0).all()
        assert set(found[1].ravel().tolist()) <= set(index.database.rows.tolist())
    assert "removed codes are left out; 30 added codes" in index.explain(5, 10)
    shelf.compact()
    compacted = Index.open(shelf.path)
    assert compacted.approximate
    assert compacted.metadata["settings"]["index_type"] == "ivf"
    assert compacted.ntotal == 230


def test_search_does_not_put_the_database_together(shelf, monkeypatch):
    shelf.add(["x", "y"])
    shelf.remove(["first/004"])
    index = Index.open(shelf.path)
    monkeypatch.setattr("sdc.retrieve.index.records.Records.joined", None)  # what would do it
    codes = index.codes(np.array([0, 41]))
    _, rows = index.search(codes, 3)
    assert index.ids(rows[:, 0]) == ["first/000", "y"]
    assert len(index) == 41
    assert index.explain(1, 3)


def test_a_changed_index_is_saved_whole_and_a_new_one_is_clean(shelf, tools):
    shelf.add(["x"])
    index = Index.open(shelf.path)
    index.save(shelf.folder / "copy.bin")
    copy = Index.open(shelf.folder / "copy.bin")
    assert copy.changes is None
    assert tools.state_of(copy) == shelf.expected
    index.save(shelf.path)
    shelf.check()
    assert not (shelf.folder / "db.bin.changes").exists()


def test_encoding_anew_drops_the_changes_and_says_so(shelf, caplog):
    caplog.set_level("INFO")
    shelf.add(["x"])
    caplog.clear()
    shelf.encode()
    assert "has items added or removed since it was encoded (generation 1)" in caplog.text
    shelf.check()
    shelf.encode(overwrite=True)
    assert "is replaced, and with it its changes: 1 added, 0 removed" in caplog.text
    del shelf.expected["x"]
    shelf.check()
    assert not (shelf.folder / "db.bin.changes").exists()
    caplog.clear()
    shelf.encode()
    assert "since" not in caplog.text
    shelf.add(["y"])
    shelf.compact()
    shelf.encode()
    assert "since it was encoded (generation 2)" in caplog.text


def test_the_golden_folder_reads_and_is_written_the_same(tmp_path):
    golden = Path(__file__).with_name("golden")
    shutil.copytree(golden, tmp_path / "golden")
    index = Index.open(tmp_path / "golden" / "db.bin")
    assert index.generation == 2
    assert index.database.names() == ["0", "1", "3", "4", "5", "x", "y"]
    assert index.database.rows.tolist() == [0, 1, 3, 4, 5, 6, 8]
    np.testing.assert_array_equal(index.database.codes[:, 0], [0, 1, 3, 4, 5, 100, 102])
    changes.compact(CompactSettings(tmp_path / "golden" / "db.bin"))
    assert Index.open(tmp_path / "golden" / "db.bin").database.names() == ["0", "1", "3", "4", "5", "x", "y"]
    held, _ = manifest.read_manifest(golden / "db.bin.changes")
    (tmp_path / "again").mkdir()
    held.write(tmp_path / "again")
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (
        golden / "db.bin.changes" / "manifest.json"
    ).read_bytes()
    assert json.loads((tmp_path / "again" / "manifest.json").read_text())["schema"] == 1


def test_an_addition_reads_the_index_once(shelf, monkeypatch):
    from sdc.retrieve.index import file_format

    change, after = shelf.added(["x", "y"])
    read, paths = file_format.read, []
    monkeypatch.setattr(file_format, "read", lambda path, **how: paths.append(path.name) or read(path, **how))
    change()
    assert paths == ["db.bin"]
    monkeypatch.undo()
    shelf.accept(after)
    shelf.check()
