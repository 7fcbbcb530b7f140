"""The ground: atomic files, fingerprints, settings that differ, progress."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xxhash

from sdc import errors
from sdc.devices import torch_device
from sdc.errors import SdcError, UsageError
from sdc.files import (
    ChunkChecksums,
    atomic_write,
    check_same_settings,
    checksum,
    differing,
    fingerprint,
    require_file,
    writable,
)
from sdc.progress import Progress


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    script = (
        "import signal, sys; from pathlib import Path; from sdc.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as t:\n"
        "    t.write_text('half'); print('half', flush=True); signal.pause()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.read_text() == "old"


def test_refusals_of_the_system_are_one_line(tmp_path):
    with pytest.raises(SdcError, match="does not exist"), atomic_write(tmp_path / "none" / "a"):
        pass
    with pytest.raises(UsageError, match="is a folder"), atomic_write(tmp_path):
        pass
    for number, message in ((28, "disk is full"), (13, "no permission"), (30, "no permission")):
        with pytest.raises(SdcError, match=message), atomic_write(tmp_path / "a"):
            raise OSError(number, os.strerror(number))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(SdcError, match="disk is full"), atomic_write(path) as temporary:
        temporary.touch()
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
    assert os.listdir(tmp_path) == []


def test_an_output_replaces_neither_a_pipe_nor_its_source(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no regular file"), atomic_write(tmp_path / "pipe"):
        pass
    with pytest.raises(UsageError, match="is a folder"):
        writable(type(tmp_path)())  # ".", which has no name
    (tmp_path / "feats.h5").write_text("features")
    os.symlink("feats.h5", tmp_path / "link")
    with pytest.raises(UsageError, match="is read here and would be replaced"):
        writable(tmp_path / "link", tmp_path / "pipe", tmp_path / "feats.h5")
    with pytest.raises(SdcError, match="does not exist"):
        writable(tmp_path / "feats.h5" / "below")
    writable(tmp_path / "feats.h5", tmp_path / "pipe")


@pytest.mark.parametrize("there", [True, False])
def test_an_output_is_written_through_links(tmp_path, there):
    (tmp_path / "big").mkdir()
    if there:
        (tmp_path / "big" / "feats.h5").write_text("old")
    os.symlink("big/feats.h5", tmp_path / "second")
    os.symlink("second", tmp_path / "feats.h5")
    with atomic_write(tmp_path / "feats.h5") as temporary:
        assert temporary.parent == tmp_path / "big"
        temporary.write_text("new")
    assert (tmp_path / "big" / "feats.h5").read_text() == "new"
    assert (tmp_path / "feats.h5").is_symlink()
    assert os.listdir(tmp_path / "big") == ["feats.h5"]


def test_a_link_to_itself_is_no_output(tmp_path):
    os.symlink("link", tmp_path / "link")
    with pytest.raises(UsageError, match="link that leads to itself"), atomic_write(tmp_path / "link"):
        pass


def test_required_says_how_to_make_what_is_missing(tmp_path):
    with pytest.raises(SdcError, match="make one with `sdc extract`"):
        require_file(tmp_path / "feats.h5", "features file", "sdc extract")
    with pytest.raises(SdcError, match="is a folder"):
        require_file(tmp_path, "features file", "sdc extract")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SdcError, match="no regular file, expected features file"):  # to open it would wait for ever
        require_file(tmp_path / "pipe", "features file", "sdc extract")


@pytest.mark.parametrize("name", ["nonsense", "meta", "cuda:99"])
def test_a_device_that_cannot_be_used_is_refused(name):
    with pytest.raises(UsageError, match=f"--device {name}: cannot be used here"):
        torch_device(name)


def test_fingerprints_depend_on_content_not_on_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
    assert checksum(b"") == "2d06800538d394c2"  # XXH3-64 of nothing, from the algorithm's own test vectors


def test_differing_settings_are_named_by_path():
    found, wanted = {"a": 1, "n": {"x": 1, "y": 2}}, {"a": 1, "n": {"x": 1, "y": 3}, "z": None}
    assert differing(found, wanted) == ["n.y: found 2, wanted 3"]
    with pytest.raises(UsageError, match=r"n\.y: found 2, wanted 3.*--overwrite"):
        check_same_settings("out", found, wanted)
    check_same_settings("out", found, found)


def test_an_unknown_name_is_answered_with_the_nearest():
    assert "did you mean 'resnet50'? known: resnet50, vgg16" in str(
        errors.unknown_name_error("backbone", "resnt50", ["vgg16", "resnet50"])
    )


def test_progress_is_silent_at_first_then_logs(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "sdc"), Progress("extract", 100, "images") as progress:
        progress.advance(10)
        assert not caplog.messages
        now[0] = 11.0
        progress.advance(12, "loss 1.5")
        now[0] = 22.0
        progress.advance(28)
    assert caplog.messages == [
        "extract: 22 of 100 images, 2 a second, 39 s left, loss 1.5",
        "extract: 50 of 100 images, 2.273 a second, 22 s left, loss 1.5",  # the last note stays
        "extract: 50 images in 22.0 s (2.273 a second)",
    ]


def test_what_was_done_before_does_not_count_as_fast(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "sdc"), Progress("train", 100, "steps", already=60) as progress:
        now[0] = 10.0
        progress.advance(20)
    assert caplog.messages == [
        "train: 80 of 100 steps, 2 a second, 10 s left",
        "train: 20 steps in 10.0 s (2 a second)",
    ]


def test_progress_draws_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    now = [0.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        progress = Progress("extract", 100, "images")
    with progress:
        progress._start -= 5
        progress.advance(40)
    assert "extract" in screen.getvalue()
    assert "40/100" in screen.getvalue()


@pytest.mark.parametrize("piece", [1, 7, 16, 50, 1000])
@pytest.mark.parametrize("length", [0, 15, 16, 100])
def test_chunks_do_not_depend_on_the_pieces(length: int, piece: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, length, np.uint8).tobytes()
    checksums = ChunkChecksums(16)
    for start in range(0, length, piece):
        checksums.update(data[start : start + piece])
    assert checksums.finish() == [xxhash.xxh3_64_intdigest(data[start : start + 16]) for start in range(0, length, 16)]


def test_arrays_are_taken_as_their_bytes() -> None:
    checksums = ChunkChecksums(8)
    checksums.update(np.empty((0, 3)))
    checksums.update(np.arange(6, dtype="<i4").reshape(2, 3))
    data = np.arange(6, dtype="<i4").tobytes()
    assert checksums.finish() == [xxhash.xxh3_64_intdigest(data[start : start + 8]) for start in range(0, 24, 8)]
