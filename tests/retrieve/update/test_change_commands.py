"""`sdc add`, `sdc remove` and `sdc compact` as a user calls them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from sdc.api import inspect
from sdc.cli import cli
from sdc.retrieve.index.index import Index


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=True)


def test_a_round_of_changes(shelf, tmp_path):
    at = ("--index", shelf.path)
    features = shelf.store(["x", "y"], "x.h5")
    done = invoke("add", *at, "--features", features)
    assert done.output.splitlines()[-1] == f"{shelf.path}: 2 added; 42 items, generation 1"
    done = invoke("add", *at, "--features", features, "--replace", "--no-verify", "--json")
    assert json.loads(done.stdout) == {
        "index": str(shelf.path), "added": 2, "replaced": 2, "rows": 42, "generation": 2
    }  # fmt: skip
    listed = tmp_path / "ids.txt"
    listed.write_text("first/001\n\nfirst/002\nx\n")
    done = invoke("remove", *at, "--ids", listed, "--id", "y", "--id", "nobody", "--ignore-missing")
    assert done.output.splitlines()[-1] == f"{shelf.path}: 4 removed, 1 unknown; 38 items, generation 3"
    found = inspect(shelf.path)
    assert {name: found[name] for name in ("rows", "count", "generation", "added", "removed", "whole")} == {
        "rows": 38, "count": 38, "generation": 3, "added": 4, "removed": 6, "whole": True
    }  # fmt: skip
    done = invoke("compact", *at, "--json")
    assert json.loads(done.stdout) == {
        "index": str(shelf.path), "rows": 38, "generation": 3, "added": 4, "removed": 6
    }  # fmt: skip
    found = inspect(shelf.path)
    assert {name: found[name] for name in ("rows", "count", "generation", "added", "removed")} == {
        "rows": 38, "count": 38, "generation": 3, "added": 0, "removed": 0
    }  # fmt: skip
    assert [source["first"] for source in found["sources"]] == [40, 42]


@pytest.mark.parametrize("data", [b"\xef\xbb\xbffirst/001\r\nfirst/002\r\n", b"first/001\nfirst/002"])
def test_files_of_ids_as_editors_write_them(shelf, tmp_path, data):
    (tmp_path / "ids.txt").write_bytes(data)
    assert invoke("remove", "--index", shelf.path, "--ids", tmp_path / "ids.txt").exit_code == 0
    shelf.accept(shelf.removed(["first/001", "first/002"])[1])
    shelf.check()


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 10**19 - 1, 10**30])
def test_numbers_that_no_row_can_have_are_unknown_ids(tmp_path, number):
    path = Index.build(np.zeros((3, 2), np.uint8)).save(tmp_path / "db.bin")
    done = invoke("remove", "--index", path, "--id", number)
    assert done.exception.exit_code == 2
    assert f"has no '{number}'" in str(done.exception)


def test_features_that_take_the_place_of_others_are_warned_of(shelf, caplog):
    at = ("--index", shelf.path, "--features", shelf.folder / "new.h5")
    shelf.store(["x"], "new.h5")
    assert invoke("add", *at).exit_code == 0
    assert invoke("add", *at, "--replace").exit_code == 0
    assert "held other features" not in caplog.text
    shelf.store(["y"], "new.h5")
    assert invoke("add", *at).exit_code == 0
    assert "new.h5 held other features when items of" in caplog.text
    caplog.clear()
    shelf.store(["z"], "feats.h5")
    assert invoke("add", "--index", shelf.path, "--features", shelf.folder / "feats.h5").exit_code == 0
    assert "feats.h5 held other features when items of" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["remove", "--id", "nobody"], 2),
        (["remove"], 2),
        (["remove", "--ids", "none.txt"], 1),
        (["add", "--features", "none.h5"], 1),
        (["compact", "--index", "none.bin"], 1),
    ],
)
def test_refusals_have_their_exit_codes(shelf, arguments, code, monkeypatch):
    monkeypatch.chdir(shelf.folder)
    done = invoke(*arguments)
    assert done.exception.exit_code == code
    shelf.check()


def test_damage_shows_in_inspect(shelf):
    shelf.add(["x"])
    (shelf.folder / "db.bin.changes" / "000001.added.bin").write_bytes(b"")
    done = invoke("inspect", shelf.path)
    assert done.exit_code == 1
    assert "000001.added.bin" in done.output


def test_what_has_outgrown_its_memory_is_told_what_to_do(make_shelf, tmp_path):
    shelf = make_shelf(tmp_path, index_type="auto", memory=84)
    shelf.add(["x", "y", "z"])
    done = invoke("compact", "--index", shelf.path)
    assert done.exception.exit_code == 2
    assert "43 codes of 16 bits take 86 bytes" in str(done.exception)
    assert "remove some of it, or encode all features anew with more --memory" in str(done.exception)
    shelf.check()
    shelf.remove(["first/001"])
    shelf.compact()
    assert shelf.check().changes is None


def test_as_a_process(shelf, command_in):
    sdc = command_in(shelf.folder)
    assert sdc.json("remove", "--id", "first/001")["rows"] == 39
    assert "has no 'first/001'" in sdc.error("remove", "--id", "first/001", code=2)
    (shelf.folder / "db.bin.changes" / "manifest.json").write_text("{}")
    assert "manifest.json is damaged" in sdc.error("compact", code=1)
