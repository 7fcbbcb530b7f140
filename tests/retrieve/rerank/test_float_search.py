"""Queries in float beside scoring the same candidates one query at a time in NumPy, on every kind of index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdc.arrays import unit_rows
from sdc.errors import UsageError
from sdc.extract.store import Listing, write_features
from sdc.retrieve.encode import EncodeSettings, run
from sdc.retrieve.index.index import Index
from sdc.retrieve.rerank import float_search
from sdc.retrieve.rerank.scoring import asymmetric
from sdc.retrieve.update import AddSettings, RemoveSettings, add, remove
from sdc.train import CodeTables, Model
from sdc.train.fit_tables import fit_tables

DIMENSION, BITS, ROWS, QUERIES = 12, 16, 1500, 20


def vectors(seed, count):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((30, DIMENSION))
    return (centres[rng.integers(30, size=count)] + 0.7 * rng.standard_normal((count, DIMENSION))).astype(np.float32)


def write(path, features):
    ids = [f"{path.stem}/{n}" for n in range(len(features))]
    rows = np.arange(len(features))
    write_features(path, Listing(ids, {"database": rows}), {"source": "import"}, DIMENSION, np.float32, [features])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Indexes of every kind, by a model with byte tables."""
    folder = tmp_path_factory.mktemp("float")
    features = vectors(1, ROWS)
    features[[900, 300]] = features[70]
    write(folder / "feats.h5", features)
    write(folder / "more.h5", vectors(2, 90))
    tensors = {
        "output.weight": np.random.default_rng(3).standard_normal((BITS, DIMENSION)),
        "output.bias": np.ones(BITS),
    }
    plain = Model(tensors, {"method": "lsh", "settings": {}})
    tables = CodeTables(fit_tables(plain.encode(features), unit_rows(features)))
    Model(plain.tensors, plain.metadata, tables).save(folder / "model.safetensors")
    for name in ("flat", "ivf", "added", "removed", "both"):
        paths = {"features": folder / "feats.h5", "model": folder / "model.safetensors"}
        run(EncodeSettings(**paths, out=folder / name, index_type="ivf" if name == "ivf" else "flat"))
    for name in ("added", "both"):
        add(AddSettings(features=folder / "more.h5", index=folder / name))
    for name in ("removed", "both"):
        remove(RemoveSettings(index=folder / name, ids=tuple(f"feats/{n}" for n in range(60, 300, 2))))
    return folder


def opened(folder, name):
    return Index.open(folder / name), Model.load(folder / "model.safetensors")


def plainly(index, model, query, code, k, candidates, within, output=None):
    """Scores and positions of one query, best first."""
    _, positions = index.search_positions(code[None], candidates, within=within)
    if candidates >= index.ntotal:  # an approximate index does not find them all
        positions = np.arange(index.ntotal)[None] if within is None else index.items.positions(np.sort(within))[0][None]
    if model.tables is None:
        scores = asymmetric(index, positions, output[None])[0]
    else:
        decoder, codes = model.tables.decoder, index.items.codes(positions[0])
        scores = np.round(decoder.scores(query[None], codes, decoder.lengths(codes))[0].astype(np.float64), 9)
    order = np.lexsort((positions[0], -scores))[:k]
    return scores[order], positions[0][order]


@pytest.mark.parametrize("name", ["flat", "ivf", "added", "removed", "both"])
@pytest.mark.parametrize("candidates", [5, 80, 5000])
@pytest.mark.parametrize("restricted", [False, True])
def test_the_best_are_those_of_the_same_candidates_in_numpy(folder, name, candidates, restricted):
    index, model = opened(folder, name)
    queries, k = vectors(5, QUERIES), 9
    within = index.items.rows(np.arange(3, index.ntotal, 4))[::-1] if restricted else None
    best = float_search(index, model, queries, k, candidates=candidates, within=within)
    codes = model.encode(queries, query=True)
    for query in range(QUERIES):
        scores, positions = plainly(index, model, queries[query], codes[query], k, max(k, candidates), within)
        assert best.positions[query].tolist() == positions.tolist()
        assert best.similarities[query].tolist() == scores.tolist()
        distances = np.unpackbits(index.items.codes(positions) ^ codes[query], axis=1).sum(axis=1)
        assert best.distances[query].tolist() == distances.tolist()


def test_without_byte_tables_the_score_is_asymmetric(folder):
    index, model = opened(folder, "both")
    model = Model(model.tensors, model.metadata)
    queries = vectors(5, 4)
    codes, outputs = model.encode(queries), model.outputs(queries)
    for candidates in (50, 5000):
        best = float_search(index, model, queries, 7, candidates=candidates, outputs=outputs)
        for query in range(4):
            own = queries[query], codes[query], 7, candidates, None, outputs[query]
            scores, positions = plainly(index, model, *own)
            assert best.positions[query].tolist() == positions.tolist()
            assert best.similarities[query].tolist() == scores.tolist()


def test_equal_codes_come_by_row(folder):
    index, model = opened(folder, "flat")
    positions = float_search(index, model, vectors(1, ROWS)[70:71], ROWS, candidates=ROWS).positions[0].tolist()
    first = positions.index(70)
    assert [position for position in positions[first:] if position in (70, 300, 900)] == [70, 300, 900]
    codes = index.database.codes
    alike = np.flatnonzero((codes == codes[70]).all(axis=1))
    start = positions.index(alike[0])
    assert positions[start : start + len(alike)] == alike.tolist()


def test_a_query_has_one_answer_in_any_company(folder):
    index, model = opened(folder, "both")
    queries = vectors(6, 150)
    together = float_search(index, model, queries, 10, candidates=40)
    for query in (0, 63, 64, 149):
        alone = float_search(index, model, queries[query : query + 1], 10, candidates=40)
        assert alone.similarities.tolist() == together.similarities[query : query + 1].tolist()
        assert alone.positions.tolist() == together.positions[query : query + 1].tolist()


def test_an_index_without_length_bytes_is_scored_alike(folder):
    index, model = opened(folder, "flat")
    records = index.database
    bare = Index.build(records.codes, rows=records.rows)
    queries = vectors(7, 5)
    for candidates in (30, ROWS):
        with_bytes, without = (
            float_search(each, model, queries, 6, candidates=candidates, codes=model.encode(queries, query=True))
            for each in (index, bare)
        )
        assert with_bytes.positions.tolist() == without.positions.tolist()
        assert with_bytes.similarities.tolist() == without.similarities.tolist()


def test_a_vector_of_zeros_takes_the_first_rows(folder):
    index, model = opened(folder, "flat")
    best = float_search(index, model, np.zeros((1, DIMENSION), np.float32), 5, candidates=ROWS)
    assert best.positions[0].tolist() == [0, 1, 2, 3, 4]
    assert not best.similarities.any()


def test_no_queries_have_no_neighbors(folder):
    index, model = opened(folder, "flat")
    assert float_search(index, model, np.empty((0, DIMENSION), np.float32), 5, candidates=10).positions.shape == (0, 5)


@pytest.mark.parametrize(("shape", "k"), [((2, DIMENSION + 1), 3), ((DIMENSION,), 3), ((2, DIMENSION), 0)])
def test_what_does_not_fit_is_refused(folder, shape, k):
    index, model = opened(folder, "flat")
    with pytest.raises(UsageError, match="must be"):
        float_search(index, model, np.ones(shape, np.float32), k, candidates=10)
