"""A damaged, truncated or missing file of the changes is refused; none gives wrong answers."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from sdc.errors import SdcError
from sdc.files import fingerprint
from sdc.retrieve.index.index import Index
from sdc.retrieve.update import changes
from sdc.retrieve.update.settings import AddSettings

FILES = ("manifest.json", "000001.added.bin", "000002.removed.bin")


@pytest.fixture
def changed(shelf):
    shelf.add(["x", "y", "z"])
    shelf.remove(["x", "first/003"])
    return shelf


@pytest.mark.parametrize("name", FILES)
def test_every_damaged_variant_is_refused(changed, name, tools):
    path = changed.folder / "db.bin.changes" / name
    good, chance = path.read_bytes(), random.Random(0)
    for number in range(60):
        data = bytearray(good)
        if number % 3:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            del data[chance.randrange(len(data)) :]
        path.write_bytes(data)
        with pytest.raises(SdcError) as caught:
            Index.open(changed.path)
        assert "\n" not in str(caught.value)
        assert "db.bin.changes" in str(caught.value)
    path.unlink()
    if name == "manifest.json":
        assert Index.open(changed.path).ntotal == 40  # the folder's files are nothing without it
    else:
        with pytest.raises(SdcError, match=f"{name} is missing, but the manifest beside it names it"):
            Index.open(changed.path)
    path.write_bytes(good)
    changed.check()


@pytest.mark.parametrize("name", FILES)
def test_the_changes_are_verified_where_the_index_is_not(changed, name):
    path = changed.folder / "db.bin.changes" / name
    good, chance = path.read_bytes(), random.Random(1)
    for _ in range(60):
        data = bytearray(good)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with pytest.raises(SdcError):
            Index.open(changed.path, verify=False)


def test_a_writer_refuses_what_is_damaged_and_removes_nothing(changed):
    folder = changed.folder / "db.bin.changes"
    (folder / "000001.added.bin").write_bytes(b"nonsense")
    names = sorted(path.name for path in folder.iterdir())
    with pytest.raises(SdcError):
        changed.remove(["y"])
    with pytest.raises(SdcError):
        changed.compact()
    assert sorted(path.name for path in folder.iterdir()) == names


def test_another_file_under_the_name_of_a_part_is_refused(changed):
    folder = changed.folder / "db.bin.changes"
    changed.add(["u", "v", "w"])
    shutil.copy(folder / "000003.added.bin", folder / "000001.added.bin")
    with pytest.raises(SdcError, match="is not the file that the manifest beside it names"):
        Index.open(changed.path)


def forged(changed, edit):
    path = changed.folder / "db.bin.changes" / "manifest.json"
    held = json.loads(path.read_text())
    held.pop("checksum")
    edit(held)
    path.write_text(json.dumps({**held, "checksum": fingerprint(held)}))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda held: held.update(schema=2), r"has schema 2, this sdc reads 1: upgrade"),
        (lambda held: held.update(base="0123456789abcdef"), r"changes of another db.bin \(0123456789abcdef\)"),
        (lambda held: held.pop("base"), "is damaged"),
        (lambda held: held.update(changes=3), "is damaged"),
        (lambda held: held["changes"][0]["added"].update(count=2), "not the file that the manifest"),
        (lambda held: held["changes"][0]["added"].update(extra=2), "is damaged"),
        (lambda held: held["changes"][1]["removed"].update(count=1), "is damaged: its checksum"),
        (lambda held: held["changes"][0].update(added=None), "removes rows that the index never had"),
        (lambda held: held["changes"][0].update(generation="../../x"), "is damaged: a number is none"),
        (lambda held: held["changes"][0].update(generation=2), "is damaged: its changes are not in order"),
        (lambda held: held.update(generation=3), "is damaged: its changes are not in order"),
        (lambda held: held.update(changes=[]), "is damaged: its changes are not in order"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(changed, edit, message):
    forged(changed, edit)
    with pytest.raises(SdcError, match=message) as caught:
        Index.open(changed.path)
    assert "\n" not in str(caught.value)


def test_another_db_bin_beside_changes_is_refused_until_encoded(changed):
    db = changed.path.read_bytes()
    changed.path.unlink()
    changed.path.write_bytes((changed.folder / "db.bin.changes" / "000001.added.bin").read_bytes())
    with pytest.raises(SdcError, match=r"holds changes of another db.bin .* by removing .*db.bin.changes"):
        Index.open(changed.path)
    with pytest.raises(SdcError, match=r"another db\.bin"):
        changes.add(AddSettings(changed.path, changed.folder / "feats.h5"))
    changed.path.write_bytes(db)
    changed.check()


@pytest.mark.parametrize("damage", ["manifest", "part", "other"])
def test_encoding_anew_repairs_any_of_it(changed, damage, caplog):
    folder = changed.folder / "db.bin.changes"
    if damage == "manifest":
        (folder / "manifest.json").write_text("{")
    elif damage == "part":
        (folder / "000001.added.bin").unlink()
    else:
        forged(changed, lambda held: held.update(base="0123456789abcdef"))
    changed.encode(overwrite=True)
    assert Index.open(changed.path).ntotal == 40
    assert not folder.exists()
    changed.next_row, changed.expected = (
        40,
        {name: entry for name, entry in changed.expected.items() if name.startswith("first")}
        | {"first/003": changed.entry("first/003", 3)},
    )
    changed.add(["x"])
    changed.check()
