from __future__ import annotations

from pathlib import Path

import pytest

from sdc.errors import UsageError
from sdc.retrieve.engines import Target, is_url, parse


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("milvus://h:1/c", {"engine": "milvus", "host": "h", "port": 1, "collection": "c"}),
        ("milvus://h/c", {"engine": "milvus", "host": "h", "port": 19530, "collection": "c"}),
        ("MILVUS://h:0/c", {"engine": "milvus", "host": "h", "port": 0, "collection": "c"}),
        ("milvus://[::1]:7/_c9", {"engine": "milvus", "host": "::1", "port": 7, "collection": "_c9"}),
        ("milvus:a/b.db", {"engine": "milvus", "file": Path("a/b.db"), "collection": "sdc"}),
        ("milvus:/a/b.db#mine", {"engine": "milvus", "file": Path("/a/b.db"), "collection": "mine"}),
        (
            "pgvector://me@h:5433/d/t",
            {"engine": "pgvector", "host": "h", "port": 5433, "user": "me", "database": "d", "collection": "t"},
        ),
        ("pgvector:///d/s.t", {"engine": "pgvector", "database": "d", "collection": "s.t"}),
        (
            "pgvector://a%40b@/d%C3%A9/t?host=/run/pg&port=5",
            {
                "engine": "pgvector", "user": "a@b", "database": "dé", "collection": "t", "host": "/run/pg", "port": 5,
            },
        ),
    ],
)  # fmt: skip
def test_a_url_is_taken_apart(url, parts):
    assert is_url(url)
    assert parse(url) == Target(url, **parts)


@pytest.mark.parametrize("url", ["mivlus://h/c", "postgresql://h/d/t", "MILVUS://h/c", "Pgvector://h/d/t"])
def test_a_url_of_something_else_is_not_taken_for_a_file(url):
    assert is_url(url)


@pytest.mark.parametrize("name", ["db.bin", "/a/milvus/x", "milvus", "c:/x", "a:b", "a b://c", Path("milvus:x"), None])
def test_a_path_is_no_url(name):
    assert not is_url(name)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("qdrant://h/c", "names no engine"),
        ("db.bin", "names no engine"),
        ("milvus", "names no engine"),
        ("postgresql://u:secret@h/d/t", "'postgresql://u:…@h/d/t' names no engine"),
        ("pgvector://u:[secret@h/d/t", "'pgvector://u:…@h/d/t' is no URL"),
        ("milvus:", "file names of at most 36"),
        ("milvus:a b.db", "found 'a b.db'"),
        (f"milvus:{'x' * 37}", "at most 36"),
        ("milvus:a.db#", "names no collection"),
        ("milvus:a.db#x-y", "'x-y'"),
        ("milvus://", "names no host"),
        ("milvus://h", "names no collection"),
        ("milvus://h/a/b", "'a/b'"),
        ("milvus://h/9a", "'9a'"),
        ("milvus://h/a?b=c", "after the collection"),
        ("milvus://h:99999/c", "is no URL"),
        ("milvus://h:x/c", "is no URL"),
        ("milvus://[::1/c", "is no URL"),
        ("milvus://u:p@h/c", "MILVUS_TOKEN"),
        ("pgvector:d/t", "names no database and table"),
        ("pgvector://h/t", "names no database and table"),
        ("pgvector://h//t", "names no database and table"),
        ("pgvector://h/d/", "names no table"),
        ("pgvector://h/d/a.b.c", "'a.b.c'"),
        ("pgvector://h/d/t;drop", "'t;drop'"),
        ('pgvector://h/d/t"', "'t\"'"),
        ("pgvector://u:secret@h/d/t", "PGPASSWORD"),
        ("pgvector://h/d/t?sslmode=no", "found sslmode"),
        ("pgvector://h/d/t?port=x", "found port=x"),
    ],
)
def test_a_malformed_url_says_what_is_wrong(url, message):
    with pytest.raises(UsageError, match=message.replace("?", r"\?")) as caught:
        parse(url)
    assert "secret" not in str(caught.value)
    assert "expected" in str(caught.value) or "URL (" in str(caught.value) or "at most" in str(caught.value)
