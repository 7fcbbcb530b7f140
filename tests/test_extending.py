"""One of each kind of thing is added from outside the package, and used through its front doors."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import sdc
from sdc.cli import cli
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


@pytest.fixture
def images(tmp_path):
    """A folder of 12 images of two colours, a subfolder a label."""
    for number in range(12):
        path = tmp_path / "images" / ("red" if number % 2 else "blue") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (255, 10 * number, 0) if number % 2 else (0, 10 * number, 255)).save(path)
    return tmp_path / "images"


def run(*arguments):
    """The JSON that a command prints."""
    done = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def module(monkeypatch, name, **content):
    """The name of a module that can be imported."""
    made = types.ModuleType(name)
    vars(made).update(content)
    monkeypatch.setitem(sys.modules, name, made)
    return name


SMALL = ("--weights", "random:0", "--image-size", 32, "--device", "cpu", "--workers", 1)


def test_a_backbone(images, tmp_path, monkeypatch):
    from sdc.extract.backbones import BACKBONES, BackboneSpec
    from sdc.extract.store import FeatureStore

    spec = BackboneSpec("test_resnet", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    monkeypatch.setitem(BACKBONES, "ours", module(monkeypatch, "outside_backbone", SPEC=spec))
    chosen = ("--backbone", "ours", "--data", "folder", "--root", images)
    run("extract", *chosen, *SMALL, "--out", tmp_path / "feats.h5")
    store = FeatureStore(tmp_path / "feats.h5")
    assert (len(store), store.provenance["backbone"]) == (12, "ours")
    assert store.provenance["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    done = CliRunner().invoke(cli, ["extract", "--backbone", "ours!", *map(str, chosen[2:])])
    assert "did you mean 'ours'?" in str(done.exception)


def test_a_dataset(tmp_path, monkeypatch):
    from sdc.extract.datasets import DATASETS, About, Images
    from sdc.extract.store import FeatureStore

    def load(root, options):
        colours = np.random.default_rng(options.seed).integers(256, size=(10, 3))
        splits = {"query": np.arange(2), "database": np.arange(10), "train": np.arange(2, 10)}
        listing = Listing([f"colour{row}" for row in range(10)], splits, np.arange(10) % 2)
        return Images(listing, lambda row: Image.new("RGB", (40, 40), tuple(map(int, colours[row]))), str(options.seed))

    about = About("plain colours", {}, "8 / 2 / 10", "2", {"name": "category", "at": 5}, finds_itself=True)
    monkeypatch.setitem(DATASETS, "colours", module(monkeypatch, "outside_dataset", ABOUT=about, load=load))
    run("extract", "--data", "colours", "--backbone", "test_resnet", *SMALL, "--out", tmp_path / "feats.h5")
    store = FeatureStore(tmp_path / "feats.h5")
    assert store.ids()[9] == "colour9"
    assert (store.provenance["dataset"], store.provenance["protocol"]["at"]) == ("colours", 5)
    assert "plain colours" in [each["summary"] for each in run("datasets")["datasets"]]


def test_a_reader(tmp_path, monkeypatch):
    from sdc.extract.readers import READERS, Table, read_tables
    from sdc.extract.store import FeatureStore

    def read(path):
        vectors = np.loadtxt(path, np.float32)
        return [Table("vectors", vectors.shape, "float32", lambda: iter([vectors]))]

    monkeypatch.setitem(READERS, ".spaces", read)
    vectors = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    np.savetxt(tmp_path / "vectors.spaces", vectors, "%.9g")
    run("import", tmp_path / "vectors.spaces", "--out", tmp_path / "feats.h5")
    np.testing.assert_array_equal(FeatureStore(tmp_path / "feats.h5").features, vectors)
    with pytest.raises(UsageError, match=r"unknown kind of file '.space', expected one of .*\.spaces"):
        (tmp_path / "vectors.space").touch()
        read_tables(tmp_path / "vectors.space")


def test_a_method(monkeypatch):
    from sdc.train.methods import METHODS, ClosedForm

    class Mean(ClosedForm):
        """Bit j: is feature j above its mean?"""

        def fit(self, features, bits, seed):
            weight = np.eye(bits, features.shape[1], dtype=np.float32)
            return {"output.weight": weight, "output.bias": -features.mean(axis=0)[:bits]}

    name = module(monkeypatch, "outside_method", METHOD=Mean(), SETTINGS={"epochs": 7})
    monkeypatch.setitem(METHODS, "mean", name)
    embeddings = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    hasher = sdc.Hasher(bits=8, method="mean").fit(embeddings)
    expected = np.packbits(embeddings[:, :8] > embeddings.mean(axis=0)[:8], axis=1, bitorder="little")
    np.testing.assert_array_equal(hasher.encode(embeddings), expected)
    assert hasher.recipe.epochs == 7
    with pytest.raises(UsageError, match="did you mean 'mean'"):
        sdc.Hasher(method="meen")


def test_a_calibration(monkeypatch):
    from sdc.train.calibrations import CALIBRATIONS, Calibration

    class Triangle(Calibration):
        """The square root of a uniform variable."""

        def inverse(self, spec):
            return np.sqrt

    monkeypatch.setitem(CALIBRATIONS, "triangle", Triangle())
    embeddings = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    hasher = sdc.Hasher(bits=8, calibration="triangle", epochs=1).fit(embeddings)
    assert hasher.model.metadata["settings"]["calibration"] == "triangle"
    assert hasher.encode(embeddings).shape == (64, 1)
    with pytest.raises(UsageError, match="did you mean 'triangle'"):
        sdc.Hasher(calibration="triangel")


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
    from sdc.retrieve import hamming
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

        def search(self, codes, k, *, radius=None, labels=(), nprobe=None, exact=False, with_codes=False):
            items = [item for item in tables[self.name][1] if not labels or item[3] in labels]
            rows, names, stored, held = zip(*items, strict=True)
            stored = np.stack(stored)
            coded = stored if with_codes else None
            hits = [Hits.sorted(rows, each, names, held, coded) for each in hamming(codes, stored)]
            return [one.take(np.arange(min(k, len(items)))) for one in hits]

        def close(self):
            pass

    monkeypatch.setitem(ENGINES, "memory", Memory)

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
    from sdc.retrieve.index import INDEX_TYPES, Index

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
