"""One of each kind of thing is added from outside the package, and used through its front doors."""

from __future__ import annotations

import numpy as np
import pytest

from sdc.errors import UsageError
from sdc.extract.store import Listing, write_features
from sdc.retrieve.encode import EncodeSettings
from sdc.retrieve.encode import run as encode
from sdc.train.model import Model


@pytest.fixture
def db(tmp_path):
    """A db.bin of 60 labelled vectors, 10 of which are its query split."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60).astype(np.int32)
    listing = Listing([f"item{n}" for n in range(60)], {"query": np.arange(10), "database": np.arange(60)}, labels)
    features = rng.standard_normal((60, 8)).astype(np.float32) + labels[:, None]
    write_features(tmp_path / "feats.h5", listing, {"source": "import"}, 8, np.float32, [features])
    tensors = {"output.weight": rng.standard_normal((16, 8)), "output.bias": np.zeros(16)}
    Model(tensors, {"method": "lsh", "settings": {}}).save(tmp_path / "model.safetensors")
    paths = {"features": "feats.h5", "model": "model.safetensors", "out": "db.bin"}
    return encode(EncodeSettings(**{key: tmp_path / name for key, name in paths.items()}))


def test_a_metric(db, monkeypatch):
    from sdc.experiments.tables import measured_columns, shown_columns
    from sdc.retrieve.evaluate import METRICS, EvaluateSettings, Metric, evaluate

    def first_hit(rankings):
        """The share of queries with a relevant item at the smallest distance there is."""
        nearest = (rankings.sizes > 0).argmax(axis=1)
        return float((rankings.hits[np.arange(len(nearest)), nearest] > 0).mean())

    monkeypatch.setitem(METRICS, "first_hit", Metric(first_hit, column="first_hit", title="first hit"))
    answer = evaluate(EvaluateSettings(db))
    assert 0 < answer["first_hit"] <= 1
    assert measured_columns()["first_hit"] == ("evaluate", "first_hit")
    assert shown_columns()["first_hit"][0] == "first hit"


def test_an_engine(db, monkeypatch):
    import json

    from click.testing import CliRunner

    from sdc.cli import cli
    from sdc.retrieve.bits import hamming
    from sdc.retrieve.engines import ENGINES, Engine, Hits, Target, parse

    tables = {}

    class Memory(Engine):
        """A dictionary of this process: a plain scan."""

        title, form, index_types, most = "memory", "memory:NAME", ("flat",), 1000

        def __init__(self, target, *, create=False):
            self.name = target.collection

        @staticmethod
        def parse(url):
            return Target(url, "memory", url.partition(":")[2])

        def record(self):
            return tables[self.name][0] if self.name in tables else None

        def create(self, record):
            tables[self.name] = record, []

        def drop(self):
            del tables[self.name]

        def insert(self, batch):
            tables[self.name][1].extend(zip(batch.rows.tolist(), batch.ids, batch.codes, batch.labels, strict=True))

        def present(self, first, last):
            return np.array([row for row, *_ in tables[self.name][1] if first <= row <= last], np.int64)

        def finish(self, record):
            pass

        def count(self, labels=()):
            return sum(not labels or label in labels for *_, label in tables[self.name][1])

        def find(self, names):
            return {name: (code, row) for row, name, code, _ in tables[self.name][1] if name in names}

        def search(self, codes, k, *, radius=None, labels=(), nprobe=None, exact=False):
            items = [item for item in tables[self.name][1] if not labels or item[3] in labels]
            rows, names, stored, _ = zip(*items, strict=True)
            hits = [Hits.sorted(rows, each, names) for each in hamming(codes, np.stack(stored))]
            return [Hits(one.rows[:k], one.distances[:k], one.ids[:k]) for one in hits]

        def close(self):
            pass

    monkeypatch.setitem(ENGINES, "memory", Memory)

    def run(*arguments):
        done = CliRunner().invoke(cli, [*arguments, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert run("push", "--index", str(db), "--to", "memory:mine")["checked"]["recall"] == 1
    asked = ["--id", "item3", "-k", "4"]
    there, here = run("search", "--index", "memory:mine", *asked), run("search", "--index", str(db), *asked)
    assert there == {**here, "index": "memory:mine"}
    with pytest.raises(UsageError, match="or memory:NAME"):
        parse("nothing://x")


def hash_type():
    """A type of index: FAISS' IndexBinaryHash, whose search flips a few bits of the key."""
    from sdc.retrieve.index import Built, FlatSearcher, IndexChoice, IndexType, faiss_module

    class HashSearcher(FlatSearcher):
        """Searches the buckets near a query's; all that is not by k is exact."""

        def __init__(self, index, codes):
            super().__init__(codes)
            self.index = index

        @property
        def options(self):
            return {"nflip": self.index.nflip}

        def search(self, codes, k, within=None):
            if within is not None:
                return super().search(codes, k, within)
            distances, positions = self.index.search(codes, k)
            short = positions[:, -1] < 0  # too few codes in the buckets
            distances[short], positions[short] = super().search(np.ascontiguousarray(codes[short]), k)
            return distances, positions

        def write(self, write):
            faiss_module().write_index_binary(self.index, faiss_module().PyCallbackIOWriter(write))

    class HashType(IndexType):
        name, label, help, fourcc = "hash", "hash", "buckets.", b"IBHh"
        options = {"nflip": "Bits of the key to flip."}  # noqa: RUF012

        def footprint(self, count, width):
            return count * (width + 8)

        def build(self, request):
            index = faiss_module().IndexBinaryHash(request.codes.shape[1] * 8, 4)
            index.add(request.codes)
            choice = IndexChoice("hash", "as asked", self.footprint(*request.codes.shape), details={"nflip": 0})
            return Built(choice, HashSearcher(index, request.codes))

        def open(self, path, codes, options):
            index = faiss_module().read_index_binary(str(path))
            index.nflip = options.get("nflip", 0)
            return HashSearcher(index, codes)

    return HashType()


def test_an_index_type(db, monkeypatch):
    import json

    from click.testing import CliRunner

    from sdc.cli import cli
    from sdc.retrieve.index import INDEX_TYPES, Index

    def run(*arguments):
        done = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    monkeypatch.setitem(INDEX_TYPES, "hash", hash_type())
    path, files = db.with_name("hash.bin"), {"features": "feats.h5", "model": "model.safetensors"}
    paths = [part for name, file in files.items() for part in (f"--{name}", db.with_name(file))]
    run("encode", *paths, "--index-type", "hash", "--out", path)
    index, flat = Index.open(path, nflip=4), Index.open(db)
    assert (index.type.name, index.approximate, index.search_options) == ("hash", True, {"nflip": 4})
    assert index.metadata["plan"]["nflip"] == 0
    codes = index.queries.codes
    np.testing.assert_array_equal(index.search(codes, 5)[0], flat.search(codes, 5)[0])  # all buckets were searched
    with pytest.raises(UsageError, match=r"--nflip is for an index of type hash, but .* is flat: its search is exact"):
        Index.open(db, nflip=2)
    with pytest.raises(UsageError, match=r"--nprobe is for an index of type ivf, but .* is hash$"):
        Index.open(path, nprobe=2)
    assert all(len(each["neighbors"]) == 3 for each in run("search", "--index", path, "-k", 3)["results"])
    assert 0 < run("evaluate", "--index", path)["hash_recall"]["10"] <= 1
    run("remove", "--index", path, "--id", "item3")
    assert Index.open(path).search_options == {"nflip": 0}
    run("compact", "--index", path)
    assert (Index.open(path).type.name, Index.open(path).ntotal) == ("hash", 59)
