"""Range search and searches of listed ids or labels alone: `Index`, `sdc search` and its JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.cli import cli
from sdc.errors import SdcError, UsageError
from sdc.retrieve.bits import hamming
from sdc.retrieve.index.index import Index
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings


def nearest(queries, codes, rows, k):
    """Brute force in (distance, row) order."""
    distances = hamming(queries, codes)
    order = np.lexsort((np.broadcast_to(rows, distances.shape), distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), rows[order]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 80),
    st.sampled_from([8, 24, 72, 1024]),  # bits
    st.sampled_from([0.001, 0.1, 0.5, 1.0]),  # of the rows
    st.integers(0, 2**32),
)
def test_rows_in_any_order_restrict_both_searches(n, bits, share, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (n, bits // 8), dtype=np.uint8)
    queries = rng.integers(0, 3, (3, bits // 8), dtype=np.uint8)
    rows = rng.permutation(5 * n)[:n]
    index = Index.build(codes, rows=rows)
    chosen = rng.permutation(n)[: max(1, round(n * share))]
    expected = nearest(queries, codes[chosen], rows[chosen], n)
    for k in (1, len(chosen), n):
        distances, found = index.search(queries, k, within=rows[chosen])
        assert (distances == expected[0][:, :k]).all()
        assert (found == expected[1][:, :k]).all()
        assert distances.shape == (3, min(k, len(chosen)))
    for radius in (0, bits // 4, bits):
        limits, distances, found = index.range_search(queries, radius, within=rows[chosen])
        for query in range(3):
            part = slice(limits[query], limits[query + 1])
            inside = expected[0][query] <= radius
            assert (distances[part] == expected[0][query][inside]).all()
            assert (found[part] == expected[1][query][inside]).all()


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5])
def test_a_large_database_at_low_and_high_selectivity(share):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (20_000, 8), dtype=np.uint8)
    index = Index.build(codes)
    chosen = np.flatnonzero(rng.random(20_000) < share)
    for queries in (codes[:1], codes[:50]):
        distances, found = index.search(queries, 10, within=chosen)
        expected = nearest(queries, codes[chosen], chosen, len(chosen))
        assert (distances == expected[0][:, :10]).all()
        assert (found == expected[1][:, :10]).all()
        for radius in (0, 9, 64):
            _, distances, found = index.range_search(queries, radius, within=chosen)
            assert (distances == expected[0][expected[0] <= radius]).all()
            assert (found == expected[1][expected[0] <= radius]).all()


def test_no_row_at_all_has_no_neighbours():
    index = Index.build(np.zeros((4, 2), np.uint8))
    nothing = np.empty(0, np.int64)
    assert [array.shape for array in index.search(np.zeros((3, 2), np.uint8), 5, within=nothing)] == [(3, 0), (3, 0)]
    limits, distances, rows = index.range_search(np.zeros((3, 2), np.uint8), 5, within=nothing)
    assert (limits.tolist(), len(distances), len(rows)) == ([0, 0, 0, 0], 0, 0)
    assert index.range_search(np.zeros((0, 2), np.uint8), 5)[0].tolist() == [0]


def test_a_radius_counts_itself():
    index = Index.build(np.array([[0], [1], [3], [7], [1]], np.uint8), rows=np.array([50, 40, 30, 20, 10]))
    limits, distances, rows = index.range_search(np.array([[0], [255]], np.uint8), 1)
    assert limits.tolist() == [0, 3, 3]
    assert distances.tolist() == [0, 1, 1]
    assert rows.tolist() == [50, 10, 40]
    assert len(index.range_search(np.array([[0]], np.uint8), 10**9)[1]) == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index, q: index.search(q, 3, within=np.array([1, 99, 77])), r"no row 77 \(2 of 3 rows are unknown\)"),
        (lambda index, q: index.range_search(q, 3, within=np.array([-1])), "no row -1"),
        (lambda index, q: index.range_search(q, -1), "radius must be at least 0, found -1"),
        (lambda index, q: index.range_search(q[:, :1], 1), "have 8 bits, this index has 16"),
        (lambda index, q: index.range_search(q.astype(int), 1), "must be .* uint8, found int64"),
        (lambda index, q: index.search(q, 0, within=np.array([1])), "k must be at least 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call(Index.build(np.zeros((20, 2), np.uint8)), np.zeros((1, 2), np.uint8))


def rows_found(answer):
    return [[near["row"] for near in result["neighbors"]] for result in answer["results"]]


def expected_rows(scene, keep, *, k=None, radius=None):
    """Of each of the query split's codes."""
    index = scene.index
    rows = index.database.rows[keep]
    distances, found = nearest(index.queries.codes, index.database.codes[keep], rows, len(rows))
    if radius is not None:
        return [each[near <= radius].tolist() for near, each in zip(distances, found, strict=True)]
    return found[:, :k].tolist()


def test_a_search_within_a_radius(scene):
    answer = search(SearchSettings(scene.folder / "db.bin", radius=3))
    assert (answer["k"], answer["radius"]) == (None, 3)
    assert rows_found(answer) == expected_rows(scene, np.arange(len(scene.index)), radius=3)
    assert all(near["distance"] <= 3 for result in answer["results"] for near in result["neighbors"])


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_search_of_listed_ids_or_of_labels_or_of_both(scene, kind):
    path, labels = scene.encode(out=f"{kind}.bin", index_type=kind), scene.index.database.labels
    listed = [5, 17, 200, 399]
    ids = scene.folder / "ids.txt"
    ids.write_text("\n".join(f"img/{row:04}.png" for row in reversed(listed)) + "\n\n", encoding="utf-8")
    answer = search(SearchSettings(path, only_ids=ids))
    assert rows_found(answer) == expected_rows(scene, listed)
    assert answer["k"] == 4
    answer = search(SearchSettings(path, only_labels=(1, 3), k=7))
    chosen = np.flatnonzero(np.isin(labels, [1, 3]))
    assert rows_found(answer) == expected_rows(scene, chosen, k=7)
    both = [row for row in listed if labels[row] == labels[17]]
    answer = search(SearchSettings(path, only_ids=ids, only_labels=(int(labels[17]),)))
    assert rows_found(answer) == expected_rows(scene, both)
    answer = search(SearchSettings(path, only_labels=(1,), radius=2))
    assert rows_found(answer) == expected_rows(scene, np.flatnonzero(labels == 1), radius=2)


def test_labels_of_many_classes_and_ids_of_rows(make_scene):
    scene = make_scene(labels="multi")
    chosen = np.flatnonzero(scene.index.database.labels[:, [0, 4]].any(axis=1))
    assert rows_found(search(SearchSettings(scene.folder / "db.bin", only_labels=(0, 4), k=400))) == expected_rows(
        scene, chosen
    )
    with pytest.raises(UsageError, match="no code has the label -1: 5 are in use, from 0 to 4"):
        search(SearchSettings(scene.folder / "db.bin", only_labels=(-1,)))
    bare = Index.build(scene.index.database.codes, rows=2 * scene.index.database.rows)
    bare.save(scene.folder / "bare.bin")
    (scene.folder / "ids.txt").write_text("8\r\n6\r\n")
    answer = search(SearchSettings(scene.folder / "bare.bin", ids=("10",), only_ids=scene.folder / "ids.txt"))
    assert sorted(rows_found(answer)[0]) == [6, 8]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"only_labels": (1, 9)}, UsageError, "no code has the label 9: 5 are in use, from 0 to 4"),
        ({"only_ids": "img/0001.png\nimg/9999.png"}, UsageError, r"lists 'img/9999.png', .*\(1 of 2 are not\)"),
        ({"only_ids": "img/001.png"}, UsageError, "did you mean 'img/0"),
        ({"only_ids": " \n\n"}, SdcError, "holds no id, expected one a line"),
        ({"only_ids": None}, SdcError, "cannot read .*ids.txt: No such file or directory; --only-ids takes a file"),
        ({"radius": -1}, UsageError, "radius must be at least 0"),
        ({"radius": 3, "rerank": 2.0}, UsageError, "give one of them"),
    ],
)
def test_bad_restrictions_are_refused(scene, options, error, message):
    if "only_ids" in options:
        path = scene.folder / "ids.txt"
        if options["only_ids"] is not None:
            path.write_text(options["only_ids"])
        options = {"only_ids": path}
    with pytest.raises(error, match=message):
        search(SearchSettings(scene.folder / "db.bin", **options))


def test_an_index_without_labels_has_none_to_choose_by(make_scene):
    scene = make_scene(labels=None)
    with pytest.raises(UsageError, match="no labels to choose by"):
        search(SearchSettings(scene.folder / "db.bin", only_labels=(1,)))


def test_reranking_stays_within_the_restriction(scene):
    chosen = np.flatnonzero(scene.index.database.labels == 2)
    for factor in (1.0, 40.0):
        found = rows_found(search(SearchSettings(scene.folder / "db.bin", only_labels=(2,), rerank=factor, k=5)))
        assert {len(rows) for rows in found} == {5}
        assert set(np.concatenate(found)) <= set(chosen)


def test_the_command_explains_itself_beside_its_json(scene, caplog):
    asked = ["search", "--index", str(scene.folder / "db.bin"), "--json", "--only-label", "1", "--only-label", "3"]
    caplog.set_level("INFO", "sdc")
    plain, explained = (CliRunner().invoke(cli, [*asked, *more]) for more in ([], ["--explain"]))
    assert plain.exit_code == explained.exit_code == 0
    assert plain.stdout == explained.stdout
    assert set(json.loads(plain.stdout)) == {"index", "k", "results"}
    count = int(np.isin(scene.index.database.labels, [1, 3]).sum())
    assert f"30 queries in {count} of 400 codes of 16 bits: on one thread:" in caplog.text
    ranged = CliRunner().invoke(cli, ["search", "--index", str(scene.folder / "db.bin"), "--radius", "0", "--json"])
    assert json.loads(ranged.stdout)["radius"] == 0


NAMES = {0: "T-shirt/top", 1: "dog", 2: "dogs", 3: "ankle boot", 4: "1"}


def test_a_class_is_searched_by_name_or_number(make_scene):
    scene = make_scene(classes={"labels": NAMES})
    labels, path = scene.index.database.labels, scene.folder / "db.bin"
    for asked, numbers in ((("ankle boot",), [3]), (("dog", "0"), [1, 0]), (("1",), [4]), ((1,), [1]), (("3",), [3])):
        answer = search(SearchSettings(path, only_labels=asked, k=400))
        assert rows_found(answer) == expected_rows(scene, np.flatnonzero(np.isin(labels, numbers)))
    with pytest.raises(UsageError, match=r"unknown class 'Dog': did you mean 'dog'. known: T-shirt/top, dog, dogs,"):
        search(SearchSettings(path, only_labels=("Dog",)))
    with pytest.raises(UsageError, match="no code has the label 7: 5 are in use, from 0 to 4"):
        search(SearchSettings(path, only_labels=("7",)))


def test_without_names_a_class_is_a_number(scene):
    with pytest.raises(UsageError, match="unknown class 'dog': the classes have numbers, and no names"):
        search(SearchSettings(scene.folder / "db.bin", only_labels=("dog",)))


def test_answers_tell_the_classes_by_name(make_scene):
    scene = make_scene(classes={"labels": NAMES})
    labels, path = scene.index.database.labels, str(scene.folder / "db.bin")
    for options in (["-k", "3"], ["--radius", "3"], ["-k", "3", "--rerank", "2"]):
        answer = json.loads(CliRunner().invoke(cli, ["search", "--index", path, *options, "--json"]).stdout)
        for result in answer["results"]:
            for near in result["neighbors"]:
                assert near["label"] == labels[near["row"]]
                assert near["class"] == NAMES[near["label"]]
    text = CliRunner().invoke(cli, ["search", "--index", path, "-k", "1", "--only-label", "ankle boot"]).stdout
    assert text.count(", ankle boot)") == 10
    shown = json.loads(CliRunner().invoke(cli, ["inspect", path, "--json"]).stdout)
    assert shown["classes"] == {"labels": {str(number): name for number, name in NAMES.items()}}


def test_what_has_several_classes_has_their_names(make_scene):
    scene = make_scene(labels="multi", classes={"labels": NAMES})
    answer = search(SearchSettings(scene.folder / "db.bin", k=5))
    held = scene.index.database.labels
    for near in answer["results"][0]["neighbors"]:
        assert near["label"] == np.flatnonzero(held[near["row"]]).tolist()
        assert near["class"] == [NAMES[number] for number in near["label"]]


LISTS = {
    "utf-8": ("\n", "utf-8"),
    "a byte order mark and CRLF": ("\r\n", "utf-8-sig"),
    "UTF-16": ("\r\n", "utf-16"),
    "old Macintosh": ("\r", "utf-8"),
}


@pytest.mark.parametrize("kind", LISTS)
def test_listed_ids_are_read_in_any_unicode_encoding(tmp_path, kind):
    end, encoding = LISTS[kind]
    names = ["Straße 1", "b\u2028c", " leading", "d"]
    Index.build(np.arange(5, dtype=np.uint8)[:, None], ids=[*names, "other"]).save(tmp_path / "db.bin")
    (tmp_path / "ids.txt").write_bytes((end.join(names) + end + end).encode(encoding))
    answer = search(SearchSettings(tmp_path / "db.bin", ids=("d",), only_ids=tmp_path / "ids.txt"))
    assert sorted(near["id"] for near in answer["results"][0]["neighbors"]) == sorted(names)


def test_listed_ids_may_be_numbers_that_numpy_saved(tmp_path):
    Index.build(np.arange(30, dtype=np.uint8)[:, None]).save(tmp_path / "db.bin")
    np.savetxt(tmp_path / "ids.txt", np.array([3, 17]))
    answer = search(SearchSettings(tmp_path / "db.bin", ids=("5",), only_ids=tmp_path / "ids.txt"))
    assert sorted(rows_found(answer)[0]) == [3, 17]
