"""Where the files of a living index are: behind links, on other disks, more of them than a process may open."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from sdc.errors import SdcError
from sdc.retrieve.features import encoded_features
from sdc.retrieve.index.index import Index
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings
from sdc.retrieve.update import changes
from sdc.retrieve.update.settings import AddSettings, CompactSettings, RemoveSettings


@pytest.fixture
def link(shelf):
    """A link to a link to db.bin, from another folder."""
    (shelf.folder / "links").mkdir()
    (shelf.folder / "links" / "second.bin").symlink_to("../db.bin")
    link = shelf.folder / "links" / "current.bin"
    link.symlink_to("second.bin")
    return link


def test_an_index_has_its_changes_through_any_link(shelf, link, tools):
    shelf.add(["x"])
    opened = Index.open(link)
    assert tools.state_of(opened) == shelf.expected
    changes.add(AddSettings(link, shelf.store(["y", "z"], "y.h5")))
    assert not opened.current()
    changes.remove(RemoveSettings(link, ("x", "first/003")))
    rows = {name: row for row, name in enumerate(("y", "z"), shelf.next_row)}
    left = {name: entry for name, entry in shelf.expected.items() if name not in ("x", "first/003")}
    shelf.accept({**left, **{name: shelf.entry(name, row) for name, row in rows.items()}})
    for again in (False, True):
        shelf.check()
        assert tools.state_of(Index.open(link)) == shelf.expected
        store = encoded_features(Index.open(link), shelf.folder / "feats.h5", verify=True)
        np.testing.assert_array_equal(
            store.take(np.array([rows["z"], 7])), [*map(tools.features_of, ("z", "first/007"))]
        )
        if not again:
            changes.compact(CompactSettings(link))
    for what in ("model", "features"):
        assert Index.open(link).recorded(what) == Index.open(shelf.path).recorded(what)
    assert link.is_symlink()
    assert sorted(path.name for path in link.parent.iterdir()) == ["current.bin", "second.bin"]


def test_what_is_saved_to_a_link_replaces_the_target(shelf, link):
    shelf.add(["x"])
    Index.build(np.zeros((3, 2), np.uint8)).save(link)
    assert link.is_symlink()
    for path in (link, shelf.path):
        index = Index.open(path)
        assert (index.ntotal, index.changes) == (3, None)
    assert sorted(path.name for path in link.parent.iterdir()) == ["current.bin", "second.bin"]


def test_a_link_moved_during_compaction_takes_no_part_in_it(shelf, link, monkeypatch):
    shelf.add(["x"])
    other = Index.build(np.zeros((3, 2), np.uint8)).save(shelf.folder / "other.bin")
    held, merged = other.read_bytes(), Index.merged

    def led_elsewhere(index, **metadata):
        link.unlink()
        link.symlink_to(other)
        return merged(index, **metadata)

    monkeypatch.setattr(Index, "merged", led_elsewhere)
    changes.compact(CompactSettings(link))
    monkeypatch.undo()
    assert other.read_bytes() == held
    assert shelf.check().changes is None


def test_what_names_no_file_is_refused(shelf, monkeypatch):
    monkeypatch.chdir(shelf.folder)
    (shelf.folder / "circle.bin").symlink_to("circle.bin")
    for path, message in ((".", r"\. is a folder"), ("/", "/ is a folder"), ("circle.bin", "no index at circle.bin")):
        with pytest.raises(SdcError, match=message):
            Index.open(path)
        with pytest.raises(SdcError, match=message):
            changes.compact(CompactSettings(Path(path)))


def test_more_changes_than_a_process_may_have_files_open(shelf, tools):
    for number in range(30):
        shelf.add([f"x{number}"])
    shelf.remove(["x7"])

    def cramped():
        spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]  # the lowest that are free
        for each in spare:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 + spare[-1], resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        held = [shelf.check() for _ in range(3)]
        found = search(SearchSettings(shelf.path, ids=("x8", "x29"), k=1, rerank=40))
        assert [result["neighbors"][0]["id"] for result in found["results"]] == ["x8", "x29"]
        shelf.compact()
        assert len(held) == 3

    with tools.forked(cramped) as (child, _):
        assert os.waitpid(child, 0)[1] == 0
    assert shelf.check().changes is None


def test_a_folder_of_changes_that_may_not_be_written_is_named(shelf, monkeypatch):
    def refused(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(SdcError, match=r"cannot write in .*db\.bin\.changes: Read-only file system; what changes an"):
        changes.remove(RemoveSettings(shelf.path, ("first/000",)))
    monkeypatch.undo()
    shelf.check()


def test_a_folder_of_changes_on_another_disk_is_told_to_move(shelf, monkeypatch, tools):
    shelf.add(["x"])
    replace = os.replace

    def across(source, target):
        if str(target) == str(shelf.path):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(source, target)

    monkeypatch.setattr(os, "replace", across)
    with pytest.raises(SdcError, match=r"db\.bin\.changes is on another disk than .*: move the folder beside it"):
        shelf.compact()
    monkeypatch.undo()
    shelf.check()
    assert not tools.left_over(shelf)


def test_what_cannot_be_read_of_the_changes_is_named(shelf):
    shelf.add(["x"])
    shelf.remove(["x"])
    part = shelf.folder / "db.bin.changes" / "000002.removed.bin"
    part.unlink()
    part.mkdir()
    with pytest.raises(SdcError, match=r"cannot read .*000002\.removed\.bin: Is a directory"):
        Index.open(shelf.path)
