"""What PostgreSQL alone may be like."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdc.errors import SdcError
from sdc.retrieve.engines import connect, parse
from sdc.retrieve.engines.push import PushSettings, batch_of, record_of, run
from sdc.retrieve.engines.search import search
from sdc.retrieve.index.index import Index
from sdc.retrieve.search import search as search_here
from sdc.retrieve.search_settings import SearchSettings


def test_postgresql_takes_ids_of_any_length(new_url, tmp_path):
    url, names = new_url("pgvector"), ["a", "é" * 35_000]
    path = Index.build(np.arange(16, dtype=np.uint8).reshape(2, 8), ids=names).save(tmp_path / "db.bin")
    run(PushSettings(url, path))
    asked = SearchSettings(path, ids=(names[1],))
    assert search(replace(asked, index=url)) == {**search_here(asked), "index": url}


def test_postgresql_says_which_user_or_database_it_lacks(new_url, make_index):
    url, index = new_url("pgvector"), make_index(count=50)
    with pytest.raises(SdcError, match='role "nobody" does not exist: give the user in the URL'):
        run(PushSettings(url.replace("postgres@", "nobody@"), index.path))
    with pytest.raises(SdcError, match='database "none" does not exist: make it first'):
        run(PushSettings(url.replace("/postgres/", "/none/"), index.path))


def test_postgresql_refuses_a_wrong_password(new_url, postgres_run, make_index, monkeypatch):
    url, index = new_url("pgvector"), make_index(count=50)
    (rules,) = postgres_run("SHOW hba_file")
    postgres_run("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'right'")
    before = Path(rules).read_text()
    loaded = postgres_run("SELECT pg_conf_load_time()")
    Path(rules).write_text("local all guarded scram-sha-256\n" + before)
    postgres_run("SELECT pg_reload_conf()")
    try:
        while postgres_run("SELECT pg_conf_load_time()") == loaded:
            time.sleep(0.01)
        monkeypatch.setenv("PGPASSWORD", "wrong")
        with pytest.raises(SdcError, match=r"password authentication failed .*: give the user in the URL and the pass"):
            run(PushSettings(url.replace("postgres@", "guarded@"), index.path))
        monkeypatch.setenv("PGPASSWORD", "right")
        assert run(PushSettings(url.replace("postgres@", "guarded@"), index.path))["pushed"] == 50
    finally:
        Path(rules).write_text(before)
        postgres_run("SELECT pg_reload_conf()")


@pytest.fixture
def bare_url(new_url, postgres_run):
    """In a database of its own, without the extension."""
    url = new_url("pgvector")
    name = url.split("/")[4].partition("?")[0]
    postgres_run(f"CREATE DATABASE {name}")
    yield url.replace("/postgres/", f"/{name}/")
    postgres_run(f"DROP DATABASE {name} WITH (FORCE)")


def test_postgresql_without_the_extension_says_so(bare_url, postgres_run, make_index, monkeypatch):
    index = make_index(count=50)
    postgres_run("CREATE ROLE lowly LOGIN")
    with pytest.raises(SdcError, match=r"refuses us \(permission denied .*\): have the rights granted, or the exten"):
        run(PushSettings(bare_url.replace("postgres@", "lowly@"), index.path))
    with monkeypatch.context() as patched:
        patched.setenv("PGOPTIONS", "-c extension_control_path=/nowhere")
        with pytest.raises(SdcError, match="pgvector is not installed in this PostgreSQL"):
            run(PushSettings(bare_url, index.path))
    run(PushSettings(bare_url, index.path))
    name = bare_url.split("/")[3]
    postgres_run("DROP EXTENSION vector CASCADE", name)
    with pytest.raises(SdcError, match=r"pgvector is missing or too old .*: CREATE EXTENSION vector"):
        search(SearchSettings(bare_url, ids=(index.database.names(np.arange(1))[0],)))


@pytest.mark.parametrize("index_type", ["flat", "hnsw"])
def test_the_extension_may_be_in_a_schema_of_its_own(index_type, bare_url, postgres_run, make_index):
    index, name = make_index(count=50), bare_url.split("/")[3]
    postgres_run('CREATE SCHEMA "Its Own"', name)
    postgres_run('CREATE EXTENSION vector SCHEMA "Its Own"', name)
    assert run(PushSettings(bare_url, index.path, index_type))["checked"]["recall"] == 1


def test_a_second_push_at_the_same_time_is_told(new_url, make_index):
    url, index = new_url("pgvector"), make_index(count=50)
    batch = batch_of(index.database, np.arange(50))
    with contextlib.closing(connect(parse(url), create=True)) as engine:
        engine.create(record_of(index, "flat"))
        engine.insert(batch)
        with pytest.raises(SdcError, match=r"another push is under way there .*: let one of them finish"):
            engine.insert(batch)
        assert engine.count() == 50


@pytest.mark.parametrize("what", ["VIEW {} AS SELECT 1 AS x", "SEQUENCE {}", "TABLE {} (code bit(64))"])
def test_whatever_has_the_name_of_the_table_is_left_alone(what, new_url, postgres_run, make_index):
    url, index = new_url("pgvector"), make_index(count=50)
    postgres_run(f"CREATE {what}".format(url.split("/")[4].partition("?")[0]))
    with pytest.raises(SdcError, match=r"exists, but `sdc push` did not make it \(its columns are "):
        run(PushSettings(url, index.path, overwrite=True))
