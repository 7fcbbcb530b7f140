"""Whenever a writer is killed, the index opens with exactly what was acknowledged, or with the whole change in hand."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from functools import partial

import pytest
import steps

from sdc.errors import SdcError
from sdc.retrieve.index.index import Index

CALLS = ("replace", "fsync", "unlink", "mkdir", "rmdir", "open")  # of os: all by which the files change
KINDS = ("add", "replace", "remove", "compact", "overwrite")


def prepared(shelf, kind):
    """A change of some kind to an index that has had others, and the state that follows."""
    shelf.add(["a", "b", "c"])
    shelf.remove(["b", "first/002"])
    if kind == "overwrite":
        first = {name: shelf.entry(name, row) for row, name in enumerate(f"first/{each:03}" for each in range(40))}
        return lambda: shelf.encode(overwrite=True), first
    return {
        "add": lambda: shelf.added(["d", "e"]),
        "replace": lambda: shelf.added(["a", "first/001", "f"], 1, True),
        "remove": lambda: shelf.removed(["a", "first/001"]),
        "compact": shelf.compacted,
    }[kind]()


def intercepted(monkeypatch, at, what, calls=CALLS):
    """From now on `what` is called before the call of os number `at` of these; returns a list that counts them."""
    seen = []

    def wrap(name):
        real = getattr(os, name)

        def call(*args, **options):
            seen.append(name)
            if len(seen) - 1 == at:
                what()
            return real(*args, **options)

        monkeypatch.setattr(os, name, call)

    for name in calls:
        wrap(name)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_killed_before_any_call_that_changes_a_file(shelf, kind, tools, monkeypatch):
    change, after = prepared(shelf, kind)
    before, kept = shelf.expected, shelf.folder.parent / "kept"
    shutil.copytree(shelf.folder, kept)
    outcomes, at = [], 0
    while True:

        def killed(at=at):
            intercepted(monkeypatch, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
            change()

        with tools.forked(killed) as (child, _):
            _, status = os.waitpid(child, 0)
        state = tools.state_of(Index.open(shelf.path))
        assert state in (before, after)
        outcomes.append(state == after and after != before)
        shelf.accept(state)
        if state == before:  # and it can be done after all
            change()
            shelf.accept(after)
        else:
            shelf.remove([max(after)])  # the next writer tidies up
        shelf.check()
        assert not tools.left_over(shelf)
        assert kind == "overwrite" or not [path for path in shelf.folder.iterdir() if path.name.startswith(".")]
        shutil.rmtree(shelf.folder)
        shutil.copytree(kept, shelf.folder)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        at += 1
    assert at > 8
    assert outcomes == sorted(outcomes)  # nothing before the rename that counts, all after it
    assert kind == "compact" or {*outcomes} == {False, True}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_refused_by_the_system_at_any_call(shelf, kind, code, tools, monkeypatch):
    change, after = prepared(shelf, kind)
    before, kept = shelf.expected, shelf.folder.parent / "kept"
    shutil.copytree(shelf.folder, kept)
    for at in range(100):

        def refuse():
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patched:
            seen = intercepted(patched, at, refuse)
            try:
                change()
            except (SdcError, OSError):
                failed = True
            else:
                failed = False
        state = tools.state_of(Index.open(shelf.path))
        assert state in (before, after)
        if not failed:
            assert state == after
        if len(seen) <= at:
            break
        change_again = state == before and before != after
        if change_again:
            change()
            assert tools.state_of(Index.open(shelf.path)) == after
        shutil.rmtree(shelf.folder)
        shutil.copytree(kept, shelf.folder)
    assert 8 < at < 99


@pytest.mark.parametrize("kind", ["add", "replace", "compact", "overwrite"])
def test_no_room_for_a_file(shelf, kind, tools):
    change, _ = prepared(shelf, kind)

    def cramped():
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        with pytest.raises(SdcError, match="cannot write"):
            change()

    with tools.forked(cramped) as (child, _):
        assert os.waitpid(child, 0)[1] == 0
    shelf.check()
    assert not tools.left_over(shelf)
    assert not [path for path in shelf.folder.iterdir() if path.name.startswith(".")]


def draw(shelf, chance, number):
    held = sorted(shelf.expected)
    kind = chance.choice(["add", "replace", "remove", "compact"])
    if kind == "add":
        return shelf.added([f"{number}/{each}" for each in range(chance.randint(1, 30))])
    some = chance.sample(held, min(len(held) // 2, chance.randint(1, 20)))
    if kind == "replace":
        return shelf.added([*some, f"{number}/x"], number + 1, True)
    return shelf.removed(some) if kind == "remove" else shelf.compacted()


def killed(change, step, lines, writing):
    """Does a change, killed at its line `step` if it has so many; else writes down how many it has.

    With `writing` its lines count from the first call that changes a file: most lines are run before it.
    """
    with pytest.MonkeyPatch.context() as patch, steps.killed_at(step, paused=writing) as counted:
        if writing:
            intercepted(patch, 0, counted.resume, ("replace", "fsync", "unlink"))
        change()
    lines.write_text(str(counted.done))


def killed_at_random(make_shelf, tools, folder, count, seed):
    """Kills so many writers, beside a reader; returns how many of them had begun to write.

    The reader may find no other state than the one that is found after each change, which was acknowledged, or whole
    in hand: nothing is lost, and nothing is mixed.
    """
    shelf, chance = make_shelf(folder, 200), random.Random(seed)
    lengths = {True: 100.0, False: 1000.0}  # lines of a change since its first write, and of all of it
    kills, halfway, number = 0, 0, 0
    states = {0: tools.hash_of(shelf.expected)}
    with tools.forked(tools.reader(shelf.path, folder / "seen", folder / "stop")) as (reader, _):
        while kills < count:
            number += 1
            change, after = draw(shelf, chance, number)
            before, writing = shelf.expected, chance.random() < 0.8
            step = 1 + int(chance.uniform(0, 1.2) * lengths[writing])
            work = partial(killed, change, step, folder / "lines", writing)
            with tools.forked(work) as (child, pipe):
                _, status = os.waitpid(child, 0)
                acknowledged = os.read(pipe, 4) == b"done"
            if os.WIFSIGNALED(status):
                kills += 1
                lengths[writing] *= 1.05  # else a guess far too low would kill each writer in its first lines
            else:
                lengths[writing] = 0.8 * lengths[writing] + 0.2 * int((folder / "lines").read_text())
            index = Index.open(shelf.path)
            state = tools.state_of(index)
            assert state == after or (state == before and not acknowledged), f"seed {seed}, change {number}"
            assert states.setdefault(index.generation, tools.hash_of(state)) == tools.hash_of(state)
            halfway += not acknowledged and bool(tools.left_over(shelf))
            shelf.accept(state)
            tidied(shelf, tools, number)
            states[Index.open(shelf.path).generation] = tools.hash_of(shelf.expected)
        (folder / "stop").touch()
        assert os.waitpid(reader, 0)[1] == 0
    tools.seen(folder / "seen", states, count // 10)
    return halfway


def tidied(shelf, tools, number):
    """Now and then the next writer tidies up, or there must be more items again."""
    if number % 10 == 0:
        shelf.check()
    if number % 7 == 0:
        shelf.add([f"tidy/{number}"])
        assert not tools.left_over(shelf)
    elif len(shelf.expected) < 60:
        shelf.add([f"more/{number}/{each}" for each in range(100)])


def test_killed_at_random(make_shelf, tools, tmp_path):
    assert killed_at_random(make_shelf, tools, tmp_path, 20, 0) > 0


@pytest.mark.slow
def test_killed_at_random_two_hundred_times(make_shelf, tools, tmp_path):
    assert killed_at_random(make_shelf, tools, tmp_path, 200, 1) > 20  # were in the middle of it
