"""`sdc add`, `sdc remove` and `sdc compact` as a user calls them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from sdc.api import inspect
from sdc.cli import cli


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


def test_as_a_process(shelf, command_in):
    sdc = command_in(shelf.folder)
    assert sdc.json("remove", "--id", "first/001")["rows"] == 39
    assert "has no 'first/001'" in sdc.error("remove", "--id", "first/001", code=2)
    (shelf.folder / "db.bin.changes" / "manifest.json").write_text("{}")
    assert "manifest.json is damaged" in sdc.error("compact", code=1)
