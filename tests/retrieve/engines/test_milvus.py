"""What Milvus alone may be like, as a server or in a file."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
import sys

import pytest

from sdc.errors import SdcError
from sdc.retrieve.engines.push import PushSettings, run
from sdc.retrieve.engines.search import search
from sdc.retrieve.search_settings import SearchSettings


def test_a_server_is_reached_by_ipv6(new_url, make_index):
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    index, url = make_index(count=50), new_url("milvus").replace("127.0.0.1", "[::1]")
    assert run(PushSettings(url, index.path))["pushed"] == 50
    name = str(index.database.rows[0])
    assert search(SearchSettings(url, ids=(name,), k=1))["results"][0]["neighbors"][0]["id"] == name


@pytest.mark.slow
def test_a_server_that_asks_for_a_password_gets_the_token(guarded_milvus_server, make_index, monkeypatch):
    index, url = make_index(count=50), f"milvus://{guarded_milvus_server}/c"
    for token in ("", "root:wrong"):
        monkeypatch.setenv("MILVUS_TOKEN", token)
        with pytest.raises(SdcError, match="or it refuses us: give its MILVUS_TOKEN=USER:PASSWORD in the environment"):
            run(PushSettings(url, index.path))
    monkeypatch.setenv("MILVUS_TOKEN", "root:Milvus")
    assert run(PushSettings(url, index.path))["pushed"] == 50


def test_a_file_of_something_else_is_left_alone(make_index, tmp_path):
    index = make_index(count=50)
    other = tmp_path / "other.db"
    other.write_text("hello")
    for to, message in (
        (other, "is no file of the embedded Milvus"),
        (tmp_path, "is no regular file"),
        (tmp_path / "none" / "a.db", "does not exist"),
    ):
        with pytest.raises(SdcError, match=message):
            run(PushSettings(f"milvus:{to}", index.path))
    assert other.read_text() == "hello"


def test_the_database_of_another_application_is_left_alone(make_index, tmp_path):
    index, file = make_index(count=50), tmp_path / "wine list.d" / "wines.db"
    file.parent.mkdir()
    with contextlib.closing(sqlite3.connect(file)) as opened:
        opened.execute("CREATE TABLE wines (name)")
    before = file.read_bytes()
    for collection in ("", "#wines"):
        with pytest.raises(SdcError, match="is no file of the embedded Milvus: name another"):
            run(PushSettings(f"milvus:{file}{collection}", index.path, overwrite=True))
    assert file.read_bytes() == before


def test_an_empty_file_becomes_one_of_the_embedded_engine(make_index, tmp_path):
    (tmp_path / "new.db").touch()
    assert run(PushSettings(f"milvus:{tmp_path}/new.db", make_index(count=50).path))["pushed"] == 50


HOLDER = """
import sys
from sdc.retrieve.engines import connect, parse

engine = connect(parse(sys.argv[1]), create=True)
print("open", flush=True)
sys.stdin.read()
engine.close()
"""


def test_a_file_that_another_process_has_open_is_refused(make_index, new_url):
    index, url = make_index(count=50), new_url("embedded")
    command = [sys.executable, "-c", HOLDER, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(SdcError, match="another process may have it open"):
            run(PushSettings(url, index.path))
        process.stdin.close()
    assert run(PushSettings(url, index.path))["pushed"] == 50
