from __future__ import annotations

import contextlib
import shutil
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
import warm
from hypothesis import given
from hypothesis import strategies as st

from sdc.errors import SdcError, UsageError
from sdc.retrieve.engines import Record, connect, parse
from sdc.retrieve.engines import push as pushing
from sdc.retrieve.engines.push import PushSettings, batch_of, batches, record_of, run
from sdc.retrieve.engines.search import search
from sdc.retrieve.index.ids import Ids
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.records import Records
from sdc.retrieve.search import search as search_here
from sdc.retrieve.search_settings import SearchSettings


def opened(url):
    return contextlib.closing(connect(parse(url), create=True))


def rows_there(url):
    """All rows of a small collection, with those that are there twice."""
    with opened(url) as engine:
        assert engine.record() is not None
        return engine.count(), sorted(engine.present(0, 16383).tolist())


def test_a_push_is_checked_and_a_second_one_finds_it_done(url, make_index):
    index = make_index()
    settings = PushSettings(url, index.path, batch=400)
    first = run(settings)
    assert first == {
        "index": str(index.path), "to": url, "count": 1500, "bits": 64, "index_type": "flat",
        "pushed": 1500, "already": 0, "seconds": first["seconds"],
        "checked": {"queries": 100, "k": 10, "recall": 1.0},
    }  # fmt: skip
    assert rows_there(url) == (1500, index.database.rows.tolist())
    again = run(settings)
    assert (again["pushed"], again["already"]) == (0, 1500)
    allowed = run(replace(settings, overwrite=True))  # what is whole need not be replaced
    assert (allowed["pushed"], allowed["already"]) == (0, 1500)
    assert rows_there(url)[0] == 1500


KILLED = """
import os, signal, sys
from sdc.retrieve.engines import milvus, pgvector
from sdc.retrieve.engines.push import PushSettings, run

inserted = []
for kind in (milvus.Milvus, pgvector.Pgvector):
    def insert(self, batch, own=kind.insert):
        own(self, batch)
        inserted.append(batch)
        if len(inserted) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    kind.insert = insert
run(PushSettings(sys.argv[1], sys.argv[2], batch=200))
"""


def test_a_killed_push_goes_on_without_duplicates(url, make_index):
    index = make_index()
    done = warm.run(["-c", KILLED, url, index.path])
    assert done.returncode == -signal.SIGKILL
    found = run(PushSettings(url, index.path, batch=333))
    assert (found["already"], found["pushed"]) == (600, 900)
    assert rows_there(url) == (1500, index.database.rows.tolist())


def test_a_batch_that_arrived_in_part_is_completed(url, make_index):
    index = make_index()
    with opened(url) as engine:
        engine.create(record_of(index, "flat"))
        for part in (np.arange(500), np.array([501, 507, 660, 899])):
            engine.insert(batch_of(index.database, part))
    with pytest.raises(SdcError, match="has 504 of the 1500 codes of its index: finish it with `sdc push --to"):
        search(SearchSettings(url, ids=(index.database.names(np.arange(1))[0],)))
    found = run(PushSettings(url, index.path, batch=128))
    assert (found["already"], found["pushed"]) == (504, 996)
    assert rows_there(url) == (1500, index.database.rows.tolist())


def test_a_push_that_was_cut_off_before_the_first_code_goes_on(url, make_index):
    index = make_index(count=300)
    with opened(url) as engine:
        engine.create(record_of(index, "flat"))
    assert run(PushSettings(url, index.path))["pushed"] == 300


def test_another_index_is_refused_by_name_unless_replacing(url, make_index):
    index, other = make_index(count=300), make_index("other.bin", count=200, bits=128, seed=1)
    run(PushSettings(url, index.path))
    with pytest.raises(UsageError, match="bits: found 64, wanted 128; count: found 300, wanted 200") as caught:
        run(PushSettings(url, other.path))
    for each in (index, other):
        assert f"{record_of(each, 'flat').fingerprint[:8]}…" in str(caught.value)
    assert rows_there(url)[0] == 300
    assert run(PushSettings(url, other.path, overwrite=True))["pushed"] == 200
    assert rows_there(url) == (200, other.database.rows.tolist())


def test_what_we_did_not_make_is_never_touched(url, make_index):
    index = make_index(count=100)
    record = record_of(index, "flat")
    stranger = type("Stranger", (Record,), {"text": lambda self: "the wine list"})(**vars(record))
    with opened(url) as engine:
        engine.create(stranger)
    for overwrite in (False, True):
        with pytest.raises(SdcError, match=r"`sdc push` did not make it .*code .*64.*remove it yourself"):
            run(PushSettings(url, index.path, overwrite=overwrite))


def test_codes_that_were_changed_behind_our_back_are_noticed(url, make_index):
    index = make_index(count=300)
    database = index.database
    swapped = Records(np.roll(database.codes, 1, axis=0), database.rows, database.ids, database.labels)
    with opened(url) as engine:
        engine.create(record_of(index, "flat"))
        engine.insert(batch_of(swapped, np.arange(300)))
    with pytest.raises(SdcError, match="that are not the index's: push with --overwrite"):
        run(PushSettings(url, index.path))
    assert run(PushSettings(url, index.path, overwrite=True))["pushed"] == 300
    assert run(PushSettings(url, index.path))["already"] == 300


def test_a_code_too_many_is_noticed(url, make_index):
    index = make_index(count=300)
    run(PushSettings(url, index.path))
    batch = batch_of(index.database, np.arange(1))
    with opened(url) as engine:
        engine.record()
        engine.insert(batch._replace(rows=np.array([10**6])))
    with pytest.raises(SdcError, match=r"has 301 codes, but .* has 300: something else has changed it; --overwrite"):
        run(PushSettings(url, index.path))
    with pytest.raises(SdcError, match="has 301 codes, but 300 were pushed: push it anew with --overwrite"):
        search(SearchSettings(url, ids=(index.database.names(np.arange(1))[0],)))
    found = run(PushSettings(url, index.path, overwrite=True))
    assert (found["pushed"], found["already"]) == (300, 0)
    assert rows_there(url) == (300, index.database.rows.tolist())


def test_a_changed_index_is_pushed_as_it_is_now(new_url, made, tmp_path, command_in):
    url, command = new_url("embedded"), command_in(tmp_path)
    for name in ("db.bin", "model.safetensors", "feats.h5"):
        shutil.copy(made / name, tmp_path / name)
    command("push", "--to", url)
    np.save(tmp_path / "v.npy", np.load(made / "vectors.npy")[:20] + 0.1)
    (tmp_path / "ids.txt").write_text("".join(f"new{number}\n" for number in range(20)))
    np.save(tmp_path / "l.npy", np.load(made / "labels.npy")[:20])
    command("import", "v.npy", "--ids", "ids.txt", "--labels", "l.npy", "--out", "more.h5")
    command("add", "--features", "more.h5")
    command("remove", "--id", "new7", "--id", "3")
    line = command.error("push", "--to", url, code=2)
    assert "holds an earlier or later state of db.bin (count: found 300, wanted 318; fingerprint: " in line
    assert "--overwrite to replace it" in line
    assert command.json("push", "--to", url, "--overwrite")["count"] == 318
    index = Index.open(tmp_path / "db.bin")
    assert rows_there(url) == (318, index.database.rows.tolist())
    asked = SearchSettings(tmp_path / "db.bin", ids=("new8", "5"), k=318)
    assert search(replace(asked, index=url)) == {**search_here(asked), "index": url}
    for name in ("new7", "3"):
        with pytest.raises(UsageError, match=f"unknown id '{name}'"):
            search(SearchSettings(url, ids=(name,)))
    command("compact")
    assert command.json("push", "--to", url)["already"] == 318


def test_a_collection_dropped_underway_is_an_error_of_one_line(url, make_index):
    index = make_index(count=300)
    with opened(url) as engine:
        engine.create(record_of(index, "flat"))
        engine.drop()
        with pytest.raises(SdcError) as caught:
            engine.insert(batch_of(index.database, np.arange(10)))
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


def test_an_exact_search_that_misses_is_an_error(make_index, monkeypatch):
    index = make_index(count=300)

    class Blind:
        def search(self, codes, k, **options):
            found = pushing.FlatSearcher(index.database.codes[50:]).search(codes, k)
            names = [index.database.names(each + 50) for each in found[1]]
            return list(map(pushing.Hits.sorted, index.database.rows[found[1] + 50], found[0], names))

    with pytest.raises(SdcError, match=r"should be exact, but finds 0\.\d+ of the true distances"):
        pushing.check(Blind(), index, record_of(index, "flat"))
    assert 0.5 < pushing.check(Blind(), index, record_of(index, "ivf"))["recall"] < 1


@pytest.mark.parametrize(("engine", "index_type"), [("milvus", "ivf"), ("pgvector", "hnsw")])
def test_approximate_types_report_their_recall(engine, index_type, new_url, make_index):
    index = make_index(count=3000)
    url = new_url(engine)
    found = run(PushSettings(url, index.path, index_type=index_type))
    assert found["index_type"] == index_type
    assert 0.7 < found["checked"]["recall"] <= 1
    with pytest.raises(UsageError, match=f'index_type: found "{index_type}", wanted "flat"'):
        run(PushSettings(url, index.path))


@pytest.mark.parametrize("name", ["milvus://127.0.0.1:{}/c", "pgvector://me@127.0.0.1:{}/db/t"])
def test_an_unreachable_host_is_said_at_once(name, make_index, closed_port):
    index = make_index(count=50)
    with pytest.raises(SdcError, match=r"can be reached .*refused.*is it running") as caught:
        run(PushSettings(name.format(closed_port), index.path))
    assert caught.value.exit_code == 1


def test_a_port_where_something_else_listens_is_given_up_soon(make_index, silent_port):
    index = make_index(count=50)
    with pytest.raises(SdcError, match="no Milvus answers there, or it refuses us: give its MILVUS_TOKEN"):
        run(PushSettings(f"milvus://127.0.0.1:{silent_port}/c", index.path))
    with pytest.raises(SdcError, match="PostgreSQL"):
        run(PushSettings(f"pgvector://127.0.0.1:{silent_port}/d/t", index.path))


@pytest.mark.parametrize(
    ("to", "module", "extra"),
    [("milvus:x.db", "pymilvus", "milvus"), ("milvus:x.db", "milvus_lite.server_manager", "milvus"),
     ("pgvector://h/d/t", "psycopg", "pgvector")],
)  # fmt: skip
def test_a_client_that_is_not_installed_names_the_extra(to, module, extra, make_index, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"{module} cannot be imported.*pip install 'sdc-hash\[{extra}\]'"):
        run(PushSettings(to, make_index(count=50).path))


def test_senseless_settings_are_refused_before_any_request(make_index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = PushSettings("milvus:x.db", make_index(count=50).path)
    for change, message in (
        ({"to": ""}, "--to"),
        ({"batch": 0}, "--batch must be from 1 to 16384"),
        ({"batch": 16385}, "--batch must be from 1 to 16384"),
        ({"to": "qdrant://x/y"}, "names no engine"),
        ({"index_type": "hnsw"}, "it takes flat$"),
        ({"index_type": "hnsw", "to": "milvus://h/c"}, "it takes flat or ivf$"),
        ({"index_type": "ivf", "to": "pgvector://h/d/t"}, "it takes flat or hnsw$"),
        ({"index_type": "flatt"}, "did you mean 'flat'"),
    ):
        with pytest.raises(UsageError, match=message):
            run(replace(settings, **change))
    assert [path.name for path in tmp_path.iterdir()] == ["db.bin"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"b\xff".decode("utf-8", "surrogateescape"), r"the id 'b\\udcff' of row 20000 is no UTF-8"),
        ("b\0", r"the id 'b\\x00' of row 20000 is no UTF-8"),
        ("é" * 35_000, "the id of row 20000 has 70000 bytes, 65535 are the most that Milvus takes"),
    ],
)
def test_ids_that_do_not_fit_are_refused_before_the_push(name, message, tmp_path):
    names = ["é", *map(str, range(1, 20_000)), name, "c"]
    path = Index.build(np.zeros((len(names), 8), np.uint8), ids=names).save(tmp_path / "db.bin")
    with pytest.raises(SdcError, match=message):
        run(PushSettings(f"milvus:{tmp_path}/new.db", path))
    assert [each.name for each in tmp_path.iterdir()] == ["db.bin"]


@given(
    st.lists(st.text(max_size=30), min_size=1, max_size=60), st.integers(1, 20), st.integers(100, 2000), st.data()
)  # fmt: skip
def test_batches_cover_the_rest_within_their_limits(names, size, limit, data):
    database = Records(np.zeros((len(names), 2), np.uint8), np.arange(len(names)), Ids.of(names))
    start = data.draw(st.integers(0, len(names)))
    parts = list(batches(database, start, size, limit))
    assert [place for part in parts for place in range(part.start, part.stop)] == list(range(start, len(names)))
    for part in parts:
        taken = sum(len(name.encode("utf-8", "surrogateescape")) for name in names[part])
        count = part.stop - part.start
        assert 1 <= count <= size
        assert count == 1 or taken + 66 * count <= limit


@pytest.mark.slow
@pytest.mark.parametrize("bits", [64, 256])
@pytest.mark.parametrize("engine", ["embedded", "milvus", "pgvector"])
def test_two_hundred_thousand_codes_answer_as_here(engine, bits, new_url, make_index):
    index = make_index(count=200_000, bits=bits)
    url = new_url(engine)
    done = warm.run(["-c", KILLED, url, index.path])
    assert done.returncode == -signal.SIGKILL
    found = run(PushSettings(url, index.path))
    assert (found["already"], found["pushed"]) == (600, 199_400)
    codes = index.queries.codes[:100]
    with opened(url) as opening:
        opening.record()
        assert opening.count() == 200_000
        hits = opening.search(codes, 50)
    expected, _ = index.search(codes, 50)
    np.testing.assert_array_equal([each.distances for each in hits], expected)
