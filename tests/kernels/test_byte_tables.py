"""Refined codes and table scores: C++ as NumPy bit for bit, both against plain recomputations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.kernels import best_scores, byte_tables, refine, table_scores, whole_products

compiled = pytest.mark.skipif(byte_tables._load() is None, reason="the kernel cannot be built here (no g++)")


def in_numpy(function, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_tables, "_load", lambda: None)
        return function(*arguments)


def costs(rng, count, bytes_, most=400):
    """Unary costs (M, n, 256), those of pairs (M, M, 256, 256), either way round the same, and codes (n, M)."""
    unary = rng.integers(-most, most + 1, (bytes_, count, 256)).astype(np.int16)
    pairs = np.zeros((bytes_, bytes_, 256, 256), np.int16)
    for one in range(bytes_):
        for other in range(one):
            pairs[one, other] = rng.integers(-most, most + 1, (256, 256))
            pairs[other, one] = pairs[one, other].T
    return unary, pairs, rng.integers(0, 256, (count, bytes_), dtype=np.uint8)


def total(unary, pairs, codes):
    """The cost of each code, in plain loops."""
    sums = []
    for number, code in enumerate(codes.tolist()):
        alone = sum(int(unary[k, number, value]) for k, value in enumerate(code))
        beside = sum(int(pairs[k, j, code[j], code[k]]) for k in range(len(code)) for j in range(k))
        sums.append(alone + beside)
    return np.array(sums)


@compiled
@given(st.data())
@settings(max_examples=25, deadline=None)
def test_refine_in_cpp_is_that_in_numpy(data):
    count, bytes_ = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 5))
    most = data.draw(st.sampled_from([0, 1, 30, 32_000 // bytes_]))  # few values tie, the greatest fill 16 bits
    arguments = costs(np.random.default_rng(data.draw(st.integers(0, 2**32))), count, bytes_, most)
    effort = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 7))
    before = arguments[2].copy()
    codes = refine(*arguments, *effort)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, in_numpy(refine, *arguments, *effort))
    np.testing.assert_array_equal(arguments[2], before)  # where the descent starts is left as it was


@pytest.mark.parametrize("bytes_", [1, 2, 3, 8])
def test_more_effort_lowers_the_cost(bytes_):
    unary, pairs, codes = costs(np.random.default_rng(bytes_), 30, bytes_)
    start = total(unary, pairs, codes)
    settled = total(unary, pairs, refine(unary, pairs, codes, 2, 0))
    perturbed = total(unary, pairs, refine(unary, pairs, codes, 2, 8))
    assert (settled < start).all()
    assert (perturbed <= settled).all()
    if bytes_ > 1:
        assert perturbed.mean() < settled.mean()


def test_refine_without_effort_keeps_the_codes():
    unary, pairs, codes = costs(np.random.default_rng(0), 20, 3)
    np.testing.assert_array_equal(refine(unary, pairs, codes, 0, 0), codes)


def test_a_code_of_one_byte_gets_its_best_value():
    unary, pairs, codes = costs(np.random.default_rng(0), 50, 1, most=20)  # so few values tie
    for perturbations in (0, 3):
        np.testing.assert_array_equal(refine(unary, pairs, codes, 1, perturbations)[:, 0], unary[0].argmin(axis=1))


def test_most_codes_of_two_bytes_get_their_best_values():
    unary, pairs, codes = costs(np.random.default_rng(0), 60, 2)
    pairs //= 8  # as of tables, whose vectors are nearly orthogonal
    refined = total(unary, pairs, refine(unary, pairs, codes, 2, 8))
    every = unary[0][:, :, None] + unary[1][:, None, :].astype(int) + pairs[0, 1].T  # (n, values of byte 0, of byte 1)
    best = every.min(axis=(1, 2))
    assert (refined >= best).all()
    assert (refined == best).mean() > 0.5
    settled = total(unary, pairs, refine(unary, pairs, codes, 2, 0))
    assert (refined == best).mean() > (settled == best).mean()


def test_refine_takes_arrays_in_any_layout():
    unary, pairs, codes = costs(np.random.default_rng(0), 20, 3)
    expected = refine(unary, pairs, codes, 2, 4)
    turned = (np.asfortranarray(unary), np.asfortranarray(pairs), np.asfortranarray(codes))
    np.testing.assert_array_equal(refine(*turned, 2, 4), expected)


def scored(rng, count, bytes_):
    table = rng.standard_normal((bytes_, 256)).astype(np.float32)
    codes = rng.integers(0, 256, (count, bytes_), dtype=np.uint8)
    lengths = rng.integers(0, 256, count, dtype=np.uint8)
    return table, float(np.float32(rng.standard_normal())), codes, lengths, rng.random(256).astype(np.float32) + 0.5


@pytest.mark.parametrize(("count", "bytes_"), [(0, 2), (1, 1), (33, 3), (500, 8), (20, 65)])
def test_table_scores_are_sums_of_entries_times_a_factor(count, bytes_):
    table, offset, codes, lengths, factors = scored(np.random.default_rng(count), count, bytes_)
    scores = table_scores(table, offset, codes, lengths, factors)
    assert (scores.shape, scores.dtype) == ((count,), np.float32)
    expected = [
        (offset + sum(float(table[byte, value]) for byte, value in enumerate(code))) * float(factors[length])
        for code, length in zip(codes.tolist(), lengths.tolist(), strict=True)
    ]
    np.testing.assert_allclose(scores, np.reshape(expected, count), atol=1e-4)
    np.testing.assert_array_equal(scores, in_numpy(table_scores, table, offset, codes, lengths, factors))


def test_table_scores_take_arrays_in_any_layout():
    table, offset, codes, lengths, factors = scored(np.random.default_rng(0), 40, 4)
    expected = table_scores(table, offset, codes, lengths, factors)
    turned = table_scores(np.asfortranarray(table), offset, np.asfortranarray(codes), lengths, factors)
    np.testing.assert_array_equal(turned, expected)
    apart = (np.repeat(lengths, 2)[::2], np.repeat(factors, 2)[::2])
    np.testing.assert_array_equal(table_scores(table, offset, codes, *apart), expected)


def test_without_a_compiler_numpy_is_used_and_that_is_said(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(byte_tables.native.shutil, "which", lambda name: None)
    byte_tables._loaded.cache_clear()
    try:
        arguments = costs(np.random.default_rng(0), 5, 2)
        codes = refine(*arguments, 1, 1)
    finally:
        byte_tables._loaded.cache_clear()
    np.testing.assert_array_equal(codes, in_numpy(refine, *arguments, 1, 1))
    assert "the refinement kernel is not available, NumPy takes its place: there is no g++" in caplog.text


@compiled
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_best_scores_are_those_of_a_stable_sort(data):
    count, bytes_ = data.draw(st.integers(0, 700)), data.draw(st.sampled_from([1, 2, 3, 4, 8, 12]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    table, offset, codes, lengths, factors = scored(rng, 800, bytes_)
    if data.draw(st.booleans()):  # of few codes most tie
        codes, lengths = codes[rng.integers(0, 4, 800)], np.zeros(800, np.uint8)
    places, k = rng.permutation(800)[:count], data.draw(st.integers(1, 800))
    arguments = (table, offset, codes, lengths, factors, places, k)
    scores, best = best_scores(*arguments)
    expected = table_scores(table, offset, codes, lengths, factors)[places]
    order = np.lexsort((places, -expected))[:k]
    np.testing.assert_array_equal(best, places[order])
    np.testing.assert_array_equal(scores, expected[order])
    for found, plain in zip((scores, best), in_numpy(best_scores, *arguments), strict=True):
        np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(("rows", "count", "dimension"), [(0, 3, 4), (1, 1, 1), (3, 300, 70)])
def test_whole_products_are_exact(rows, count, dimension):
    rng = np.random.default_rng(count)
    x, v = (rng.integers(-400, 400, (n, dimension)) for n in (rows, count))
    arguments = (x.astype(np.int32), v.astype(np.int16))
    for products in (whole_products(*arguments), in_numpy(whole_products, *arguments)):
        assert products.dtype == np.int32
        np.testing.assert_array_equal(products, x @ v.T)
