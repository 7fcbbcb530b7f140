"""Readers beside a writer, and writers beside each other."""

from __future__ import annotations

import os
import threading
import time

import pytest

from sdc.artifacts import SdcError
from sdc.retrieve.index import Index
from sdc.retrieve.living import changes, folder
from sdc.retrieve.living.settings import RemoveSettings


def test_readers_see_acknowledged_states_alone_and_never_go_back(shelf, tools, tmp_path):
    seen_by = [tmp_path / f"seen{number}" for number in range(2)]

    def read(out):
        def loop():
            with open(out, "w") as file:
                stopped = False
                while not stopped:
                    stopped = (tmp_path / "stop").exists()
                    index = Index.open(shelf.path)
                    state = tools.state_of(index)
                    file.write(f"{index.generation} {hash_of(state)} {index.current()}\n")
                    file.flush()

        return loop

    states = {0: hash_of(shelf.expected)}
    with tools.forked(read(seen_by[0])) as (one, _), tools.forked(read(seen_by[1])) as (two, _):
        for number in range(14):
            shelf.add([f"{number}/{each}" for each in range(20)])
            states[len(states)] = hash_of(shelf.expected)
            shelf.add([f"{number}/1", f"{number}/x"], number + 1, replace=True)
            states[len(states)] = hash_of(shelf.expected)
            shelf.remove([f"{number}/{each}" for each in range(9)])
            states[len(states)] = hash_of(shelf.expected)
            if number % 2:
                shelf.compact()
        (tmp_path / "stop").touch()
        for child in (one, two):
            assert os.waitpid(child, 0)[1] == 0
    for out in seen_by:
        lines = [line.split() for line in out.read_text().splitlines()]
        assert all(states[int(generation)] == found for generation, found, _ in lines)
        generations = [int(generation) for generation, *_ in lines]
        assert generations == sorted(generations)
        assert len(set(generations)) > 10
        assert lines[-1][2] == "True"


def hash_of(state):
    from sdc.artifacts import fingerprint

    return fingerprint({name: [row, code.hex(), label] for name, (row, code, label) in state.items()})


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


def test_who_waits_says_so(shelf, caplog):
    caplog.set_level("INFO")
    change, after = shelf.removed(["first/001"])
    thread = threading.Thread(target=change)
    with folder.locked(shelf.path):
        thread.start()
        deadline = time.monotonic() + 10
        while "is being changed by another process: waiting for it" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert Index.open(shelf.path).ntotal == 40  # who reads does not wait
    thread.join()
    shelf.accept(after)
    shelf.check()


def test_a_folder_that_goes_while_somebody_waits_for_it(shelf):
    """The one who waits for the lock of a removed folder makes a new one."""
    change, after = shelf.removed(["first/001"])
    thread = threading.Thread(target=change)
    with folder.locked(shelf.path):
        thread.start()
        time.sleep(0.1)
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


def test_reading_starts_again_where_compaction_removes_what_is_read(shelf, monkeypatch):
    shelf.add(["x"])
    from sdc.retrieve.living import live

    read, compacted = live._read_added, []

    def compact_first(*args, **options):
        if not compacted:
            compacted.append(shelf.compact)
            shelf.compact()
        return read(*args, **options)

    monkeypatch.setattr(live, "_read_added", compact_first)
    index = Index.open(shelf.path)
    monkeypatch.undo()
    assert index.changes is None
    assert index.current()
    shelf.check()
