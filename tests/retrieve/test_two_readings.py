"""One code, two readings, by the commands: train, encode, search, evaluate, add, remove and compact of vectors."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from sdc.arrays import unit_rows
from sdc.errors import UsageError
from sdc.retrieve.evaluate.rankings import groups_of_scores
from sdc.retrieve.index import Index
from sdc.retrieve.rerank import float_search
from sdc.retrieve.rerank.scoring import asymmetric
from sdc.train import Model

faiss = pytest.importorskip("faiss")

ROWS, DIMENSION, QUERIES = 2000, 24, 100
QUICK = ("--bits", "32", "--steps", "15", "--batch-size", "512", "--hidden", "32")


def fine_structure(rows, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, DIMENSION))
    directions = rng.standard_normal((40, 4, DIMENSION)) * 0.3
    cluster = rng.integers(40, size=rows)
    along = np.einsum("nk,nkd->nd", rng.standard_normal((rows, 4)), directions[cluster])
    return (centres[cluster] + along).astype(np.float32)


@pytest.fixture(scope="module")
def chain(tmp_path_factory, command_in):
    """A folder with vectors of no labels, and feats.h5, model.safetensors and db.bin made of them by the commands."""
    folder = tmp_path_factory.mktemp("chain")
    x = fine_structure(ROWS)
    np.save(folder / "vectors.npy", x)
    database = np.arange(QUERIES, ROWS)
    np.savez(folder / "splits.npz", train=database, query=np.arange(QUERIES), database=database)
    command = command_in(folder)
    command("import", "vectors.npy", "--splits", "splits.npz")
    done = command("train", *QUICK)
    assert "goal neighbors" in done.stderr
    command("encode")
    return command


@pytest.fixture
def copy(chain, tmp_path, command_in):
    """A copy of these files, to be changed."""
    shutil.copytree(chain.folder, tmp_path / "copy")
    return command_in(tmp_path / "copy")


def parts(command):
    """Model, vectors and db.bin."""
    model = Model.load(command.folder / "model.safetensors")
    return model, np.load(command.folder / "vectors.npy"), Index.open(command.folder / "db.bin")


def test_the_codes_are_the_models_with_lengths_beside_them(chain):
    model, x, index = parts(chain)
    np.testing.assert_array_equal(index.database.codes, model.encode(x[QUERIES:]))
    np.testing.assert_array_equal(index.queries.codes, model.encode(x[:QUERIES], query=True))
    np.testing.assert_array_equal(index.database.lengths, model.tables.decoder.lengths(index.database.codes))
    assert (index.database.codes != model.encode(x[QUERIES:], refine=False)).any()


def test_plain_faiss_opens_the_codes(chain):
    _, _, index = parts(chain)
    plain = faiss.read_index_binary(str(chain.folder / "db.bin"))
    assert (plain.ntotal, plain.d) == (ROWS - QUERIES, 32)
    np.testing.assert_array_equal(faiss.vector_to_array(plain.xb).reshape(-1, 4), index.database.codes)


def test_vectors_are_searched_by_codes_refined_as_queries(chain, tmp_path):
    model, x, index = parts(chain)
    np.save(tmp_path / "queries.npy", x[:5])
    results = chain.json("search", "--queries", tmp_path / "queries.npy", "-k", "7", "--query", "code")["results"]
    distances, rows = index.search(model.encode(x[:5], query=True), 7)
    for number, result in enumerate(results):
        assert [near["distance"] for near in result["neighbors"]] == distances[number].tolist()
        assert [near["row"] for near in result["neighbors"]] == rows[number].tolist()


def order_by_score(results):
    return [[(near["row"], near["score"]) for near in result["neighbors"]] for result in results]


def test_queries_are_in_float_by_default_and_that_is_said(copy):
    model, x, index = parts(copy)
    np.save(copy.folder / "queries.npy", x[:5])
    asked = ("search", "--queries", "queries.npy", "-k", "7")
    done = copy(*asked, "--json", "--explain")
    answer = json.loads(done.stdout)
    said = " ".join(done.stderr.split())
    assert "queries are compared in float: the model has byte tables" in said
    assert f"{answer['float']['candidates']} candidates of each query are scored by byte tables" in said
    facts = answer["float"]
    assert (facts["by"], facts["recall"]["asked"], facts["recall"]["queries"]) == ("tables", 0.95, QUERIES)
    assert 7 < facts["candidates"] < index.ntotal
    best = float_search(index, model, x[:5], 7, candidates=facts["candidates"])
    rows = index.items.rows(best.positions)
    expected = [list(zip(*pair, strict=True)) for pair in zip(rows.tolist(), best.similarities.tolist(), strict=True)]
    assert order_by_score(answer["results"]) == expected
    assert copy.json(*asked, "--query", "float") == answer  # what was measured is remembered
    choices = json.loads((copy.folder / "db.bin.rerank.json").read_text())["choices"]
    assert [(choice["by"], choice["shortlist"]) for choice in choices] == [("codes", facts["candidates"])]
    shown = copy(*asked).stdout.splitlines()[0]
    assert f"({expected[0][0][1]:.4f})" in shown


def test_the_promised_recall_is_of_what_scoring_every_code_finds(chain):
    model, x, index = parts(chain)
    every = chain.json("search", "--query", "float", "--recall", "1")
    assert every["float"] == {"by": "tables", "candidates": index.ntotal}
    best = [{row for row, _ in near} for near in order_by_score(every["results"])]
    scores = model.tables.decoder.scores(x[:QUERIES], index.database.codes, index.database.lengths)
    order = np.lexsort((np.broadcast_to(index.database.rows, scores.shape), -scores), axis=1)[:, :10]
    assert best == [set(index.database.rows[places].tolist()) for places in order]
    sizes = []
    for recall in (0.5, 0.9):
        answer = chain.json("search", "--recall", recall)
        found = [{row for row, _ in near} for near in order_by_score(answer["results"])]
        assert np.mean([len(a & b) / 10 for a, b in zip(found, best, strict=True)]) >= recall
        sizes.append(answer["float"]["candidates"])
    assert sizes[0] < sizes[1] < index.ntotal


def test_items_are_in_float_where_their_features_are_at_hand(copy):
    _, _, index = parts(copy)
    query, item = index.queries.names()[3], index.database.names(np.array([8]))[0]
    answer = copy.json("search", "--id", query, "--id", item, "-k", "3")
    assert "float" in answer
    best = copy.json("search", "--limit", "4", "-k", "3")["results"][3]
    assert answer["results"][0] == best
    (copy.folder / "feats.h5").rename(copy.folder / "moved.h5")
    done = copy("search", "--id", item, "-k", "3", "--json", "--explain")
    assert "by their codes: their features cannot be read: they are not at" in " ".join(done.stderr.split())
    assert "float" not in json.loads(done.stdout)
    line = copy.error("search", "--id", item, "--query", "float", code=1)
    assert "--query float needs the queries' own features" in line
    assert "say where with --features" in line
    assert copy.json("search", "--id", query, "--id", item, "-k", "3", "--features", "moved.h5") == answer


def test_vectors_are_in_float_without_the_features_too(copy):
    _, x, index = parts(copy)
    np.save(copy.folder / "queries.npy", x[:5])
    (copy.folder / "feats.h5").unlink()
    (copy.folder / "db.bin.rerank.json").unlink(missing_ok=True)  # what another test measured
    answer = copy.json("search", "--queries", "queries.npy", "-k", "2")
    assert answer["float"] == {"by": "tables", "candidates": math.ceil(2 * math.sqrt(2 * index.ntotal))}
    line = copy.error("search", "--queries", "queries.npy", "--recall", "0.9", code=1)
    assert "--recall is measured with the features of db.bin, which are not at hand" in line


def test_without_byte_tables_float_is_the_asymmetric_score(copy):
    copy("train", "--method", "itq", "--bits", "16", "--out", "itq.safetensors")
    copy("encode", "--model", "itq.safetensors", "--out", "itq.bin")
    asked = ("search", "--index", "itq.bin", "--limit", "6", "-k", "5")
    done = copy(*asked, "--json", "--explain")
    assert "by their codes: the model has no byte tables" in " ".join(done.stderr.split())
    assert "float" not in json.loads(done.stdout)
    answer = copy.json(*asked, "--query", "float", "--recall", "1")
    model, index = Model.load(copy.folder / "itq.safetensors"), Index.open(copy.folder / "itq.bin")
    outputs = model.outputs(np.load(copy.folder / "vectors.npy")[:6])
    scores = asymmetric(index, np.broadcast_to(np.arange(index.ntotal), (6, index.ntotal)), outputs)
    order = np.lexsort((np.broadcast_to(index.database.rows, scores.shape), -scores), axis=1)[:, :5]
    assert answer["float"] == {"by": "outputs", "candidates": index.ntotal}
    np.testing.assert_allclose(
        [[score for _, score in near] for near in order_by_score(answer["results"])],
        np.take_along_axis(scores, order, axis=1),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--query", "float", "--radius", "3"), "--radius is a Hamming distance"),
        (("--query", "code", "--rerank", "2"), "--rerank compares queries in float"),
        (("--query", "code", "--recall", "0.9"), "--recall says what --rerank auto has to reach"),
        (("--recall", "1.5"), "--recall must be above 0 and at most 1"),
        (("--index", "milvus://h/c", "--id", "a", "--query", "float"), "--query float is for an index in a file"),
    ],
)
def test_readings_that_do_not_fit_are_refused(chain, options, message):
    assert message in chain.error("search", *options, code=2)


def plain_recall(scores, near):
    """Expected over random orders of ties."""
    jitter = np.random.default_rng(0).random((50, *scores.shape)) * 1e-7
    ranked = (scores + jitter).argsort(axis=2)[:, :, -10:]
    return np.mean([[len(set(a) & set(b)) / 10 for a, b in zip(one, near, strict=True)] for one in ranked])


def test_either_reading_is_scored_and_float_finds_more(chain):
    by_code, in_float = (chain.json("evaluate", "--query", query) for query in ("code", "float"))
    again = chain.json("evaluate")
    assert again["verdict"].pop("milliseconds").keys() == by_code["verdict"].pop("milliseconds").keys()
    assert by_code == again
    assert (by_code["protocol"], in_float["protocol"], in_float["query"]) == ("neighbors", "neighbors", "float")
    for k in ("1", "10", "100"):
        assert in_float["neighbor_recall"][k] > by_code["neighbor_recall"][k]
    model, x, index = parts(chain)
    near = (unit_rows(x[:QUERIES]) @ unit_rows(x[QUERIES:]).T).argsort(axis=1)[:, -10:]
    scores = model.tables.decoder.scores(x[:QUERIES], index.database.codes, index.database.lengths)
    assert in_float["neighbor_recall"]["10"] == pytest.approx(plain_recall(scores, near), abs=1e-3)


def test_without_refinement_codes_are_the_heads_signs(chain):
    model, x, _ = parts(chain)
    chain("encode", "--no-refine", "--out", "signs.bin")
    index = Index.open(chain.folder / "signs.bin")
    signs = model.encode(x, refine=False)
    np.testing.assert_array_equal(index.database.codes, signs[QUERIES:])
    np.testing.assert_array_equal(index.queries.codes, signs[:QUERIES])
    refined_recall, recall = (
        chain.json("evaluate", "--query", "float", "--index", name)["neighbor_recall"]["10"]
        for name in ("db.bin", "signs.bin")
    )
    assert 0 < recall < refined_recall
    np.save(chain.folder / "queries.npy", x[:3])
    results = chain.json("search", "--queries", "queries.npy", "-k", "1", "--index", "signs.bin", "--query", "code")[
        "results"
    ]
    distances, _ = index.search(signs[:3], 1)
    assert [result["neighbors"][0]["distance"] for result in results] == distances[:, 0].tolist()
    assert "no_refine" in chain.error("encode", "--out", "signs.bin", code=2)


def test_what_is_added_is_refined_and_compaction_keeps_lengths(copy):
    model, _, before = parts(copy)
    more = fine_structure(60, seed=7)
    np.save(copy.folder / "more.npy", more)
    np.savez(copy.folder / "all.npz", train=np.arange(1), query=np.arange(0), database=np.arange(60))
    ids = copy.folder / "ids.txt"
    ids.write_text("".join(f"new{number}\n" for number in range(60)))
    copy("import", "more.npy", "--splits", "all.npz", "--ids", ids, "--out", "more.h5")
    assert copy.json("add", "--features", "more.h5")["added"] == 60
    copy("remove", "--id", "150")
    for step in ("changed", "compacted"):
        if step == "compacted":
            copy("compact")
        index = Index.open(copy.folder / "db.bin")
        assert index.ntotal == ROWS - QUERIES + 60 - 1, step
        codes = np.concatenate([np.delete(before.database.codes, 150 - QUERIES, axis=0), model.encode(more)])
        np.testing.assert_array_equal(index.database.codes, codes)
        np.testing.assert_array_equal(index.database.lengths, model.tables.decoder.lengths(codes))


def test_an_index_without_tables_is_refused_with_what_to_do(copy):
    copy("train", "--method", "itq", "--bits", "16", "--out", "itq.safetensors")
    copy("encode", "--model", "itq.safetensors", "--out", "itq.bin")
    line = copy.error("evaluate", "--index", "itq.bin", "--query", "float", code=2)
    assert "--query float needs a model with byte tables" in line
    assert "--search-by both or tables, or with --tables, and encode again" in line


@pytest.mark.parametrize("options", [("--search-by", "both"), ("--tables",)])
def test_codes_of_any_method_can_have_tables(copy, options):
    copy("train", "--method", "itq", "--bits", "16", *options, "--out", "itq.safetensors")
    copy("encode", "--model", "itq.safetensors", "--out", "itq.bin")
    model, index = Model.load(copy.folder / "itq.safetensors"), Index.open(copy.folder / "itq.bin")
    departs = (index.database.codes != model.encode(np.load(copy.folder / "vectors.npy")[QUERIES:], refine=False)).any()
    assert departs == (options[0] == "--search-by")
    by_code, in_float = (
        copy.json("evaluate", "--index", "itq.bin", "--query", query)["neighbor_recall"]["10"]
        for query in ("code", "float")
    )
    assert in_float > by_code


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--price", "-1"), "price = -1.0: must lie between 0 and"),
        (("--price", "inf"), "price = inf: must lie between 0 and"),
        (("--method", "itq", "--price", "0.1"), "add --search-by hamming, both or tables"),
        (("--search-by", "hammng"), "did you mean 'hamming'"),
        (("--goal", "neighbors", "--method", "itq"), "so does --method itq: give one of them"),
        (("--goal", "kinds", "--preset", "paper-code"), "so does --preset paper-code: give one of them"),
        (("--goal", "neighbors", "--locality", "1"), "locality is a setting of SDC's loss"),
        (("--goal", "kind"), "did you mean 'kinds'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(chain, options, message):
    assert message in chain.error("train", *options, "--out", "other.safetensors", code=2)


def test_curves_of_a_query_in_float_are_refused(chain):
    line = chain.error("evaluate", "--query", "float", "--curves", "curves.csv", code=2)
    assert "leave out --curves, or --query float" in line


@pytest.mark.parametrize("depth", [1, 3, 8, 20])
def test_groups_are_of_equal_scores_the_highest_first(depth):
    scores = np.random.default_rng(depth).integers(0, 6, (30, 20)).astype(np.float32)
    for row, groups in zip(scores, groups_of_scores(scores, depth), strict=True):
        last = np.sort(row)[-depth]
        values = sorted({value for value in row if value >= last}, reverse=True)
        assert groups.tolist() == [values.index(value) if value >= last else depth for value in row]


def test_scores_by_label_in_float_are_those_of_the_ranking(chain, tmp_path, command_in):
    """With labels: mAP and precision of the order by score, ties of equal codes expected."""
    from sdc.retrieve.evaluate import average_precision

    command = command_in(tmp_path)
    x, labels = np.load(chain.folder / "vectors.npy"), np.random.default_rng(0).integers(4, size=ROWS)
    np.save(tmp_path / "labels.npy", labels)
    for name in ("vectors.npy", "splits.npz", "model.safetensors"):
        shutil.copy(chain.folder / name, tmp_path)
    command("import", "vectors.npy", "--splits", "splits.npz", "--labels", "labels.npy")
    command("encode")
    scores = command.json("evaluate", "--query", "float", "--at", "50")
    assert "map_all" not in scores
    model, index = Model.load(tmp_path / "model.safetensors"), Index.open(tmp_path / "db.bin")
    cosines = model.tables.decoder.scores(x[:QUERIES], index.database.codes, index.database.lengths)
    relevant = labels[:QUERIES, None] == labels[None, QUERIES:]
    aps = [average_precision(-row, one, at=50) for row, one in zip(cosines, relevant, strict=True)]
    assert scores["map"] == pytest.approx(np.mean(aps), abs=1e-9)


def test_an_unknown_reading_is_refused():
    from sdc.retrieve.evaluate import EvaluateSettings, evaluate

    with pytest.raises(UsageError, match="did you mean 'float'"):
        evaluate(EvaluateSettings(query="flaot"))
