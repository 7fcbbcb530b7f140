"""IVF indexes: what a search of some lists returns, the file, and what opens it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError, UsageError
from sdc.retrieve.bits import hamming
from sdc.retrieve.index.index import Index
from sdc.retrieve.index.index_types import ivf_lists, ivf_search
from sdc.retrieve.update.changes import remove
from sdc.retrieve.update.settings import RemoveSettings

faiss = pytest.importorskip("faiss")


def clustered(count, width=8, centres=40, seed=0):
    """Codes around centres, a tenth of their bits flipped."""
    rng = np.random.default_rng(seed)
    bits = rng.random((centres, width * 8))[rng.integers(0, centres, count)] < 0.5
    return np.packbits(bits ^ (rng.random(bits.shape) < 0.1), axis=1, bitorder="little")


def inverted(codes, lists, nprobe):
    centroids = ivf_lists.train(codes, lists)
    assigned = ivf_lists.assign(codes, centroids)
    return ivf_search.IVFSearcher(ivf_lists.build(codes, centroids, assigned), codes, nprobe), centroids, assigned


def within_lists(query, codes, centroids, assigned, nprobe):
    """(distance, position) of all codes in the nprobe nearest lists, in order, by plain loops."""
    lists = np.argsort(hamming(query[None], centroids)[0], kind="stable")[:nprobe]
    positions = np.flatnonzero(np.isin(assigned, lists))
    distances = hamming(query[None], codes[positions])[0]
    return sorted(zip(distances.tolist(), positions.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 120),  # codes
    st.integers(1, 12),  # lists
    st.integers(1, 12),  # of them scanned
    st.sampled_from([1, 2, 8, 9, 16]),  # bytes of a code
    st.sampled_from([2, 4, 256]),  # values of a byte: with few, nearly everything ties
    st.integers(0, 2**32),
)
def test_scanned_lists_give_the_first_by_distance_and_position(n, lists, nprobe, width, values, seed):
    rng = np.random.default_rng(seed)
    codes, queries = (rng.integers(0, values, (count, width), dtype=np.uint8) for count in (n, 4))
    searcher, centroids, assigned = inverted(codes, min(lists, n), nprobe)
    for k in {1, min(3, n), n}:
        distances, positions = searcher.search(queries, k)
        assert (distances.dtype, positions.dtype) == (np.int32, np.int64)
        for q, query in enumerate(queries):
            expected = within_lists(query, codes, centroids, assigned, nprobe)
            if len(expected) < k:  # too few there: exact
                expected = within_lists(query, codes, centroids, assigned, len(centroids))
            assert list(zip(distances[q], positions[q], strict=True)) == expected[:k]
    for radius in (0, 2, width * 8, 2**31):
        limits, distances, positions = searcher.exact.range_search(queries, radius)
        for q, query in enumerate(queries):
            everywhere = within_lists(query, codes, centroids, assigned, len(centroids))
            here = slice(limits[q], limits[q + 1])
            found = list(zip(distances[here], positions[here], strict=True))
            assert found == [pair for pair in everywhere if pair[0] <= radius]


def test_a_radius_is_exact_in_ivf_whatever_was_changed_in_it(tmp_path):
    codes, path = clustered(3000), tmp_path / "db.bin"
    Index.build(codes, index_type="ivf").save(path)
    queries = codes[:40]
    assert Index.open(path, nprobe=1).explain(3, None).startswith("3 queries in 3000 codes of 64 bits: all of them, ")
    removed = np.arange(0, 3000, 3)
    remove(RemoveSettings(path, tuple(map(str, removed.tolist()))))
    rows = np.setdiff1d(np.arange(3000), removed)
    for index, there in ((Index.build(codes, index_type="ivf"), np.arange(3000)), (Index.open(path, nprobe=1), rows)):
        assert index.approximate
        for within in (None, there[::2]):
            limits, distances, found = index.range_search(queries, 18, within=within)
            searched = there if within is None else within
            for q, near in enumerate(hamming(queries, codes[searched])):
                order = np.argsort(near, kind="stable")[: int((near <= 18).sum())]
                assert (found[limits[q] : limits[q + 1]] == searched[order]).all()
                assert (distances[limits[q] : limits[q + 1]] == near[order]).all()
        nearest = index.search_positions(queries, 500, exact=True)[0]
        assert (nearest == np.sort(hamming(queries, codes[there]), axis=1)[:, :500]).all()


def test_equal_codes_come_by_position_alone_and_in_a_batch():
    codes = clustered(5000)
    codes[1000:2000] = codes[7]
    searcher, centroids, assigned = inverted(codes, 64, 3)
    queries = np.repeat(codes[[7, 2500]], 100, axis=0)
    distances, positions = searcher.search(queries, 20)
    assert positions[0, 0] == 7
    assert (positions[0, 1:] == np.arange(1000, 1019)).all()
    for q in (0, 150):
        alone = searcher.search(queries[q : q + 1], 20)
        assert (alone[0] == distances[q]).all()
        assert (alone[1] == positions[q]).all()
    expected = within_lists(codes[2500], codes, centroids, assigned, 3)[:20]
    assert list(zip(distances[150], positions[150], strict=True)) == expected


@pytest.mark.parametrize("k", [1, 25, 200])
def test_ties_across_lists_are_cut_by_position(k):
    rng = np.random.default_rng(0)
    codes, queries = (rng.integers(0, 256, (count, 1), dtype=np.uint8) for count in (5000, 70))
    searcher, centroids, assigned = inverted(codes, 32, 20)
    distances, positions = searcher.search(queries, k)
    for q, query in enumerate(queries):
        expected = within_lists(query, codes, centroids, assigned, 20)
        assert list(zip(distances[q], positions[q], strict=True)) == expected[:k]


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5])
def test_restricted_to_rows_a_search_is_exact(share):
    codes, rng = clustered(3000), np.random.default_rng(1)
    index = Index.build(codes, rows=np.arange(3000) * 2, index_type="ivf")
    rows = rng.choice(3000, int(3000 * share), replace=False) * 2
    distances, found = index.search(codes[:20], 5, within=rows)
    limits, near, inside = index.range_search(codes[:20], 12, within=rows)
    ascending = np.sort(rows)
    for q, query in enumerate(codes[:20]):
        d = hamming(query[None], codes[ascending // 2])[0]
        order = np.argsort(d, kind="stable")
        assert (found[q] == ascending[order][:5]).all()
        assert (distances[q] == d[order][:5]).all()
        here = slice(limits[q], limits[q + 1])
        assert (inside[here] == ascending[order][d[order] <= 12]).all()
        assert (near[here] == d[order][d[order] <= 12]).all()


def test_lists_and_results_are_the_same_again():
    codes = clustered(4000)
    first, again = (ivf_lists.train(codes, 64, seed=3) for _ in range(2))
    assert (first == again).all()
    assert (ivf_lists.train(codes, 64, seed=4) != first).any()


def test_training_nears_codes_to_centroids_and_fills_most_lists():
    codes = clustered(4000)
    rng = np.random.default_rng(0)
    drawn = hamming(codes, codes[rng.choice(4000, 64, replace=False)]).min(axis=1).mean()
    centroids = ivf_lists.train(codes, 64)
    assert hamming(codes, centroids).min(axis=1).mean() < 0.9 * drawn
    assert len(np.unique(ivf_lists.assign(codes, centroids))) > 50


@pytest.mark.parametrize(
    ("count", "lists"), [(1, 1), (3, 3), (100, 32), (10_000, 512), (10**6, 4096), (10**7, 16384), (10**9, 16384)]
)
def test_the_number_of_lists_goes_by_the_number_of_codes(count, lists):
    assert ivf_lists.list_count(count) == lists


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("ivf") / "db.bin"
    return Index.build(clustered(3000), rows=np.arange(3000) * 3, index_type="ivf").save(path)


def test_a_saved_index_comes_back_and_plain_faiss_reads_it(saved, tmp_path):
    codes = clustered(3000)
    found = Index.open(saved)
    assert found.approximate
    assert found.metadata["index_type"] == "ivf"
    assert (found.database.codes == codes).all()
    built = Index.build(codes, rows=np.arange(3000) * 3, index_type="ivf")
    assert found.metadata["plan"]["nprobe"] == built.metadata["plan"]["nprobe"]
    assert all((a == b).all() for a, b in zip(found.search(codes[:99], 10), built.search(codes[:99], 10), strict=True))
    plain = faiss.read_index_binary(str(saved))
    assert type(plain) is faiss.IndexBinaryIVF  # its ids are its own: no map around it
    assert (plain.ntotal, plain.d, plain.nprobe) == (3000, 64, built.metadata["plan"]["nprobe"])
    assert (plain.search(codes[:99], 10)[0] == found.search(codes[:99], 10)[0]).all()
    assert Index.open(found.save(tmp_path / "again.bin")).fingerprint == found.fingerprint
    assert (tmp_path / "again.bin").read_bytes() == saved.read_bytes()


def test_more_lists_scanned_find_more_and_all_find_everything(saved):
    codes = clustered(60, seed=9)
    exact = Index.build(clustered(3000), rows=np.arange(3000) * 3).search(codes, 3)
    reached = []
    for nprobe in (2, 20, 10**6):
        distances, rows = Index.open(saved, nprobe=nprobe).search(codes, 3)
        reached.append((distances <= exact[0][:, -1:]).mean())
    assert reached[0] < reached[1] <= reached[2] == 1
    assert (rows == exact[1]).all()


def test_nprobe_is_for_ivf_and_at_least_one(saved, tmp_path):
    with pytest.raises(UsageError, match="--nprobe must be at least 1, found 0"):
        Index.open(saved, nprobe=0)
    flat = Index.build(clustered(30)).save(tmp_path / "flat.bin")
    with pytest.raises(UsageError, match=r"--nprobe is for an index of type ivf, but .*flat"):
        Index.open(flat, nprobe=3)


def test_nobody_can_add_to_or_remove_from_a_mapped_index(saved, tmp_path):
    path = Path(shutil.copy(saved, tmp_path / "db.bin"))
    index = Index.open(path)
    public = {name for name in dir(index) if not name.startswith("_")}
    public |= {name for name in dir(index._searcher) if not name.startswith("_")}
    assert not public & {"add", "add_with_ids", "remove", "remove_ids", "reset", "train", "merge_from", "inverted"}
    before = index.search(clustered(9), 10)
    Index.build(clustered(3)).save(path)  # a new file takes the name, the map keeps the old one
    path.unlink()
    assert all((a == b).all() for a, b in zip(index.search(clustered(9), 10), before, strict=True))


def test_an_ivf_file_of_plain_faiss_is_refused_with_what_to_do(tmp_path):
    codes = clustered(800)
    plain = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(64), 64, 2)
    plain.train(codes)
    plain.add(codes)
    faiss.write_index_binary(plain, str(tmp_path / "ivf"))
    for verify in (True, False):
        with pytest.raises(SdcError, match=r"IVF index without the footer.*`sdc encode --index-type ivf`"):
            Index.open(tmp_path / "ivf", verify=verify)


def test_few_codes_in_many_lists_are_read_and_searched(tmp_path):
    codes = np.repeat(clustered(3), 400, axis=0)  # FAISS writes the sizes of few lists in another form
    path = Index.build(codes, index_type="ivf").save(tmp_path / "db.bin")
    index = Index.open(path)
    assert (np.diff(index.search(codes[:1], 400)[1][0]) == 1).all()


def test_unverified_the_sizes_of_the_lists_are_checked(saved, tmp_path):
    whole = bytearray(saved.read_bytes())
    sizes = whole.index(b"ilar") + 4 + 8 + 8 + 4 + 8  # mark, lists, bytes a code, kind, how many sizes
    for place in (sizes, sizes + 7, sizes + 8 * 100):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "db.bin").unlink(missing_ok=True)
        (tmp_path / "db.bin").write_bytes(damaged)
        with pytest.raises(SdcError, match="damaged or truncated: the codes its FAISS header tells of"):
            Index.open(tmp_path / "db.bin", verify=False)


def test_the_command_line_scans_as_many_lists_as_it_is_told(scene, caplog):
    from click.testing import CliRunner

    from sdc.cli import cli

    run = CliRunner().invoke
    caplog.set_level(logging.INFO, "sdc")
    paths = ["--features", str(scene.folder / "feats.h5"), "--model", str(scene.folder / "model.safetensors")]
    out = str(scene.folder / "ivf.bin")
    made = run(cli, ["encode", *paths, "--index-type", "ivf", "--recall", "0.8", "--memory", "1MB", "--out", out])
    assert made.exit_code == 0, made.output
    plan = Index.open(out).metadata["plan"]
    assert plan["asked"] == 0.8
    asked = ["search", "--index", out, "--json"]
    assert run(cli, [*asked, "--nprobe", "1000"]).exit_code == 0
    assert run(cli, [*asked, "--nprobe", "3", "--explain", "--limit", "1", "-k", "7"]).exit_code == 0
    expected = f"1 query in 400 codes of 16 bits: those in the 3 nearest of {plan['lists']} lists, or all where"
    assert f"{expected} these hold fewer than 7" in caplog.text
    assert run(cli, ["search", "--index", str(scene.folder / "db.bin"), "--nprobe", "3"]).exception.exit_code == 2
    assert run(cli, ["encode", *paths, "--memory", "plenty"]).exit_code == 2
