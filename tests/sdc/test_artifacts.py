"""The ground: atomic files, fingerprints, settings that differ, progress."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from sdc import artifacts
from sdc.artifacts import Progress, SdcError, UsageError, checksum, differing, fingerprint, replacing, required, settle


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    script = (
        "import sys, time; from pathlib import Path; from sdc.artifacts import replacing\n"
        "with replacing(Path(sys.argv[1])) as t:\n"
        "    t.write_text('half'); print('half', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert path.read_text() == "old"


def test_refusals_of_the_system_are_one_line(tmp_path):
    with pytest.raises(SdcError, match="does not exist"), replacing(tmp_path / "none" / "a"):
        pass
    with pytest.raises(UsageError, match="is a folder"), replacing(tmp_path):
        pass
    for number, message in ((28, "disk is full"), (13, "no permission"), (30, "no permission")):
        with pytest.raises(SdcError, match=message), replacing(tmp_path / "a"):
            raise OSError(number, os.strerror(number))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(SdcError, match="disk is full"), replacing(path) as temporary:
        temporary.touch()
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
    assert os.listdir(tmp_path) == []


def test_required_says_how_to_make_what_is_missing(tmp_path):
    with pytest.raises(SdcError, match="make one with `sdc extract`"):
        required(tmp_path / "feats.h5", "features file", "sdc extract")
    with pytest.raises(SdcError, match="is a folder"):
        required(tmp_path, "features file", "sdc extract")


def test_fingerprints_depend_on_content_not_on_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
    assert checksum(b"") == "2d06800538d394c2"  # XXH3-64 of nothing, from the algorithm's own test vectors


def test_differing_settings_are_named_by_path():
    found, wanted = {"a": 1, "n": {"x": 1, "y": 2}}, {"a": 1, "n": {"x": 1, "y": 3}, "z": None}
    assert differing(found, wanted) == ["n.y: found 2, wanted 3"]
    with pytest.raises(UsageError, match=r"n\.y: found 2, wanted 3.*--overwrite"):
        settle("out", found, wanted)
    settle("out", found, found)


def test_an_unknown_name_is_answered_with_the_nearest():
    assert "did you mean 'resnet50'? known: resnet50, vgg16" in str(
        artifacts.unknown("backbone", "resnt50", ["vgg16", "resnet50"])
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
        now[0] = 12.0
        progress.advance(28)
    assert caplog.messages == [
        "extract: 22 of 100 images, 2 a second, 39 s left, loss 1.5",
        "extract: 50 images in 12.0 s (4.167 a second)",
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
        patch.setattr(artifacts.time, "monotonic", lambda: now[0])
        progress = Progress("extract", 100, "images")
    with progress:
        progress._start -= 5
        progress.advance(40)
    assert "extract" in screen.getvalue()
    assert "40/100" in screen.getvalue()
