"""Readers beside a writer, and writers beside each other."""

from __future__ import annotations

import os
import threading
import time

import pytest

from sdc.errors import SdcError
from sdc.retrieve.index.delta import folder
from sdc.retrieve.index.index import Index
from sdc.retrieve.update import changes
from sdc.retrieve.update.settings import RemoveSettings


def test_readers_see_acknowledged_states_in_their_order(shelf, tools, tmp_path):
    outs, stop = [tmp_path / f"seen{number}" for number in range(2)], tmp_path / "stop"
    states = {0: tools.hash_of(shelf.expected)}

    def note():
        states[len(states)] = tools.hash_of(shelf.expected)

    one, two = (tools.forked(tools.reader(shelf.path, out, stop)) for out in outs)
    with one as (first, _), two as (second, _):
        for number in range(14):
            shelf.add([f"{number}/{each}" for each in range(20)])
            note()
            shelf.add([f"{number}/1", f"{number}/x"], number + 1, replace=True)
            note()
            shelf.remove([f"{number}/{each}" for each in range(9)])
            note()
            if number % 2:
                shelf.compact()
        stop.touch()
        for child in (first, second):
            assert os.waitpid(child, 0)[1] == 0
    for out in outs:
        tools.seen(out, states, 11)


def test_writers_take_turns(shelf, tools):
    work = [[shelf.added([f"{who}/{number}/{each}" for each in range(3)])[0] for number in range(6)] for who in "ab"]

    def all_of(changes_of_one):
        return lambda: [change() for change in changes_of_one]

    with tools.forked(all_of(work[0])) as (one, _), tools.forked(all_of(work[1])) as (two, _):
        for child in (one, two):
            assert os.waitpid(child, 0)[1] == 0
    index = Index.open(shelf.path)
    assert (index.generation, index.ntotal) == (12, 40 + 36)
    state = tools.state_of(index)
    assert {name: entry[1:] for name, entry in state.items() if "/" in name} == {
        name: shelf.entry(name, 0)[1:] for name in state
    }
    assert not tools.left_over(shelf)


def wait_for_message(caplog, message):
    deadline = time.monotonic() + 120
    while message not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_who_waits_says_so(shelf, caplog):
    caplog.set_level("INFO")
    change, after = shelf.removed(["first/001"])
    thread = threading.Thread(target=change)
    with folder.locked(shelf.path):
        thread.start()
        wait_for_message(caplog, "is being changed by another process: waiting for it")
        assert Index.open(shelf.path).ntotal == 40  # who reads does not wait
    thread.join()
    shelf.accept(after)
    shelf.check()


def test_a_folder_that_goes_while_somebody_waits_for_it(shelf, caplog):
    """The one who waits for the lock of a removed folder makes a new one."""
    caplog.set_level("INFO")
    change, after = shelf.removed(["first/001"])
    thread = threading.Thread(target=change)
    with folder.locked(shelf.path):
        thread.start()
        wait_for_message(caplog, "waiting for it")
    thread.join()
    shelf.accept(after)
    shelf.check()


def test_what_is_no_folder_is_refused_in_its_place(shelf):
    there = shelf.folder / "db.bin.changes"
    there.write_text("a file")
    with pytest.raises(SdcError, match=r"cannot read .*manifest\.json: Not a directory"):
        changes.remove(RemoveSettings(shelf.path, ("first/001",)))
    there.unlink()
    there.symlink_to("nowhere")
    with pytest.raises(SdcError, match=r"db\.bin\.changes is no folder"):
        changes.remove(RemoveSettings(shelf.path, ("first/001",)))
    there.unlink()
    shelf.check()


def test_reading_starts_again_when_compaction_removes_files(shelf, monkeypatch):
    shelf.add(["x"])
    from sdc.retrieve.index.delta import segments

    read, compacted = segments._read_added, []

    def compact_first(*args, **options):
        if not compacted:
            compacted.append(shelf.compact)
            shelf.compact()
        return read(*args, **options)

    monkeypatch.setattr(segments, "_read_added", compact_first)
    index = Index.open(shelf.path)
    monkeypatch.undo()
    assert index.changes is None
    assert index.current()
    shelf.check()
