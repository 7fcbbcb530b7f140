"""`sdc search --rerank` with candidates from another engine and features from here."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sdc.errors import SdcError, UsageError
from sdc.extract.store import FeatureStore, Listing, write_features
from sdc.retrieve.encode import EncodeSettings
from sdc.retrieve.encode import run as encode
from sdc.retrieve.engines.milvus import Milvus
from sdc.retrieve.engines.push import PushSettings, record_of, run
from sdc.retrieve.engines.search import search
from sdc.retrieve.index.index import Index
from sdc.retrieve.search import search as search_here
from sdc.retrieve.search_settings import SearchSettings
from sdc.retrieve.update import AddSettings, RemoveSettings, add, remove
from sdc.train.model import Model

WIDTH, BITS, ITEMS = 24, 32, 400


def write(path, rows, seed):
    centres = np.random.default_rng(0).standard_normal((12, WIDTH))
    rng = np.random.default_rng(seed)
    kind = rng.integers(12, size=rows)
    features = (centres[kind] + 0.6 * rng.standard_normal((rows, WIDTH))).astype(np.float32)
    listing = Listing(
        [f"{path.stem}/{row}" for row in range(rows)], {"database": np.arange(rows)}, labels=kind.astype(np.int32)
    )
    write_features(path, listing, {"source": "import"}, WIDTH, np.float32, [features])
    return path


@pytest.fixture
def shop(tmp_path):
    """A folder with an index of 400 items, of which 30 were added and 50 removed, and ten queries in q.npy."""
    rng = np.random.default_rng(2)
    tensors = {"output.weight": rng.standard_normal((BITS, WIDTH)), "output.bias": np.zeros(BITS)}
    Model(tensors, {"method": "lsh", "settings": {}}).save(tmp_path / "model.safetensors")
    encode(
        EncodeSettings(write(tmp_path / "feats.h5", ITEMS, 1), tmp_path / "model.safetensors", out=tmp_path / "db.bin")
    )
    add(AddSettings(features=write(tmp_path / "more.h5", 30, 3), index=tmp_path / "db.bin"))
    remove(RemoveSettings(index=tmp_path / "db.bin", ids=tuple(f"feats/{row}" for row in range(50))))
    np.save(tmp_path / "q.npy", FeatureStore(write(tmp_path / "q.h5", 10, 4)).features)
    return tmp_path


@pytest.fixture
def pushed(new_url, shop):
    """The address of an engine that holds the shop's index."""
    url = new_url("embedded")
    run(PushSettings(url, shop / "db.bin"))
    return url


def asked(shop, **options):
    return SearchSettings(shop / "db.bin", queries=shop / "q.npy", k=5, **options)


@pytest.mark.parametrize("precision", ["stored", "int8"])
def test_an_engine_and_a_file_give_one_answer(url, shop, precision):
    run(PushSettings(url, shop / "db.bin"))
    everything = asked(shop, rerank=100, ids=("more/7", "feats/60"), precision=precision)  # no ties are cut
    here = search_here(everything)
    assert search(replace(everything, index=url)) == {**here, "index": url}
    labelled = replace(everything, only_labels=(1, 2))
    assert search(replace(labelled, index=url))["results"] == search_here(labelled)["results"]
    few = replace(everything, rerank=3)
    there = search(replace(few, index=url))
    assert there["rerank"] == search_here(few)["rerank"]
    assert there["rerank"]["shortlist"] == 15
    found, expected = (
        [{n["row"] for n in result["neighbors"]} for result in each["results"]] for each in (there, here)
    )
    assert np.mean([len(a & b) / 5 for a, b in zip(found, expected, strict=True)]) > 0.8
    assert search(replace(few, index=url, limit=3))["results"] == there["results"][:3]


def test_without_features_codes_give_the_order(pushed, shop, caplog):
    caplog.set_level("INFO", "sdc")
    (shop / "more.h5").rename(shop / "moved.h5")
    everything = asked(shop, rerank=100)
    there = search(replace(everything, index=pushed))
    assert there == {**search_here(everything), "index": pushed}
    assert there["rerank"]["by"] == "codes"
    assert caplog.text.count("more.h5: the order is by codes alone (asymmetric distance)") == 2
    with pytest.raises(SdcError, match="--rerank needs the queries' own features"):
        search(replace(everything, index=pushed, ids=("feats/60",)))


def test_other_features_are_refused(pushed, shop):
    with pytest.raises(UsageError, match=r"was encoded from features .* name the right ones with --features"):
        search(replace(asked(shop, rerank=4), index=pushed, features=shop / "q.h5"))
    write(shop / "more.h5", 30, 9)
    with pytest.raises(UsageError, match="put the right ones back"):
        search(replace(asked(shop, rerank=4), index=pushed))


def test_a_push_that_names_no_sources_is_not_answered_wrongly(pushed, shop, monkeypatch):
    """As an older sdc pushed a changed index: rows of added items are no rows of the features."""

    def older(self):
        record = recorded(self)
        return None if record is None else replace(record, metadata={**record.metadata, "sources": []})

    recorded = Milvus.record
    monkeypatch.setattr(Milvus, "record", older)
    with pytest.raises(SdcError, match=r"feats\.h5 has 400 rows, but the index refers to row 4\d\d"):
        search(replace(asked(shop, rerank=100), index=pushed))


def test_features_whose_codes_are_others_are_refused(pushed, shop, monkeypatch):
    found = Milvus.search

    def shuffled(self, codes, k, **options):
        return [hits._replace(codes=~hits.codes) for hits in found(self, codes, k, **options)]

    monkeypatch.setattr(Milvus, "search", shuffled)
    with pytest.raises(UsageError, match=r"not the features that were encoded: of \d+ rows 100% of the bits"):
        search(replace(asked(shop, rerank=4), index=pushed))


def test_a_shortlist_beyond_the_engine_is_refused(pushed, shop, monkeypatch):
    monkeypatch.setattr(Milvus, "most", 40)
    assert search(replace(asked(shop, rerank=8), index=pushed))["rerank"]["candidates"] == 40
    with pytest.raises(UsageError, match="--rerank 9 takes 45 items for -k 5"):
        search(replace(asked(shop, rerank=9), index=pushed))


def test_the_record_says_what_queries_and_features_need(shop):
    record = record_of(Index.open(shop / "db.bin"), "flat")
    (source,) = record.metadata["sources"]
    assert (source["first"], source["path"]) == (400, str(shop / "more.h5"))
    assert "settings" not in record.metadata
    paths = {"features": shop / "feats.h5", "model": shop / "model.safetensors", "out": shop / "signs.bin"}
    plain = record_of(Index.open(encode(EncodeSettings(**paths, no_refine=True))), "flat")
    assert plain.metadata["settings"] == {"no_refine": True}
    assert "sources" not in plain.metadata
    assert json.loads(plain.text())["sdc_push"] == 1
