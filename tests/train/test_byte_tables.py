"""Byte tables: what codes decode to, how vectors are encoded by it, and how tables are fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import threadpoolctl
from hypothesis import example, given, settings
from hypothesis import strategies as st

import sdc
from sdc.arrays import BYTE_SIGNS, directions
from sdc.errors import SdcError
from sdc.kernels import byte_tables as kernel
from sdc.train import CodeTables, Model, byte_tables
from sdc.train import fit_tables as fitting
from sdc.train.byte_tables import ByteTables
from sdc.train.fit_tables import fit_tables, learn_decoder
from sdc.train.methods import ITQ

RNG = np.random.default_rng(0)
ROWS, DIMENSION, BITS = 2000, 24, 16


def vectors(rows, dimension=DIMENSION, seed=0):
    """Around centres that lie in groups; not centred, not of unit length, and every tenth row is the one before it."""
    rng = np.random.default_rng(seed)
    groups = rng.standard_normal((6, dimension)) * 2
    centres = groups[rng.integers(6, size=80)] + rng.standard_normal((80, dimension))
    x = centres[rng.integers(80, size=rows)] + 0.5 * rng.standard_normal((rows, dimension)) + 0.3
    x[9::10] = x[8::10][: len(x[9::10])]
    return x.astype(np.float32)


X = vectors(ROWS)
UNIT = directions(X)


def itq(unit, bits=BITS):
    """Outputs (n, bits) in standard deviations, and their signs as codes."""
    tensors = ITQ().fit(unit, bits, 0)
    outputs = unit @ tensors["output.weight"].T + tensors["output.bias"]
    outputs = (outputs / outputs.std()).astype(np.float32)
    return outputs, np.packbits(outputs > 0, axis=1, bitorder="little")


OUTPUTS, SIGNS = itq(UNIT)


@pytest.fixture(autouse=True, scope="module")
def few_steps():
    """Learning the tables that score takes the most of a training, and few tests here need it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "DIALS", {name: replace(dial, steps=4) for name, dial in fitting.DIALS.items()})
        yield


@pytest.fixture(scope="module")
def tables():
    return fit_tables(SIGNS, UNIT)


@pytest.fixture(scope="module")
def model():
    return sdc.Hasher(bits=BITS, goal="neighbors", steps=10, batch_size=512, hidden=32).fit(X).model


def error(tables, codes):
    return float(np.square(tables.decode(codes) - UNIT).sum(axis=1).mean())


def test_a_code_decodes_to_the_mean_and_a_vector_a_byte(tables):
    expected = [
        tables.mean + sum(tables.vectors[byte, value].astype(float) / tables.scale for byte, value in enumerate(code))
        for code in SIGNS[:50].tolist()
    ]
    np.testing.assert_allclose(tables.decode(SIGNS[:50]), expected, atol=1e-6)


def test_the_length_byte_is_the_nearest_of_256_lengths(tables):
    length = np.linalg.norm(tables.decode(SIGNS).astype(float), axis=1)
    values = tables.length_values().astype(float)
    assert (values[0], values[-1]) == pytest.approx((length.min(), length.max()), rel=1e-5)
    lengths = tables.lengths(SIGNS)
    assert lengths.dtype == np.uint8
    assert (np.abs(values[lengths] - length) <= (values[1] - values[0]) * 0.501).all()
    assert {0, 255} <= set(lengths.tolist())


def test_lengths_beyond_the_range_are_clipped(tables):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (5000, 2), dtype=np.uint8)
    narrow = ByteTables(tables.vectors, tables.mean, tables.scale, tables.variance, 0.5, 0.6)
    length = np.linalg.norm(narrow.decode(codes), axis=1)
    assert (narrow.lengths(codes)[length > 0.6] == 255).all()
    assert (narrow.lengths(codes)[length < 0.5] == 0).all()


def test_scores_are_cosines_with_what_codes_decode_to(tables):
    queries = vectors(7, seed=5) * np.float32(9)
    decoded, exact = tables.decode(SIGNS).astype(float), queries.astype(float)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    length = tables.length_values().astype(float)[tables.lengths(SIGNS)]
    scores = tables.scores(queries, SIGNS, tables.lengths(SIGNS))
    assert (scores.shape, scores.dtype) == ((7, ROWS), np.float32)
    np.testing.assert_allclose(scores, exact @ decoded.T / length, atol=1e-5)
    cosines = exact @ (decoded / np.linalg.norm(decoded, axis=1, keepdims=True)).T
    np.testing.assert_allclose(scores, cosines, atol=0.01)  # but for the length's byte
    np.testing.assert_array_equal(tables.scores(queries * 8, SIGNS, tables.lengths(SIGNS)), scores)


def test_a_table_is_not_lost_on_its_grid(tables):
    rng = np.random.default_rng(0)
    floats = rng.standard_normal((2, 256, DIMENSION)).astype(np.float32) / 3
    made = ByteTables.on_grid(floats, UNIT.mean(axis=0), 1.0)
    assert np.log2(made.scale) % 1 == 0
    np.testing.assert_allclose(made.vectors / made.scale, floats, atol=0.5 / made.scale)
    assert made.scale > 500


@given(
    seed=st.integers(0, 2**32),
    bytes_=st.integers(1, 4),
    size=st.floats(-9, 4),
    price=st.sampled_from([0.0, 0.014, 3.0, 1e6]),
    opposed=st.booleans(),
)
@example(seed=0, bytes_=1, size=-7.0, price=0.0, opposed=True)
@settings(max_examples=25, deadline=None)
def test_no_tables_leave_the_range_of_exact_sums(seed, bytes_, size, price, opposed):
    """Each product of tables and rows stays below 2^24, each sum of costs within 16 bits, on any scale."""
    rng = np.random.default_rng(seed)
    floats = (rng.standard_normal((bytes_, 256, 8)) * 10.0**size).astype(np.float32)
    rows = directions(rng.standard_normal((20, 8)))
    if opposed:  # all along one direction
        floats[:, ::2], floats[:, 1::2] = np.float32(10.0**size), np.float32(-(10.0**size))
        rows[:] = np.where(np.arange(20)[:, None] % 2, 1, -1) / np.sqrt(np.float32(8))
    made = ByteTables.on_grid(floats, np.zeros(8, np.float32), 1.0)
    whole, on_grid = made.vectors.astype(float).reshape(-1, 8), np.rint(rows * made.scale)
    assert (2 * np.abs(on_grid @ whole.T)).max() <= 2**24
    assert np.square(whole).sum(axis=1).max() <= 2**24
    outputs = rng.standard_normal((20, 8 * bytes_)).astype(np.float32) * 100
    pairs, grid = made._costs(price)
    unary = made._unary(rows, outputs, price, grid).astype(int)
    for byte in range(bytes_):
        beside = sum(np.abs(pairs[byte, other].astype(int)).max() for other in range(bytes_) if other != byte)
        assert np.abs(unary[byte]).max() + beside < kernel.FORBIDDEN
        table = whole[256 * byte : 256 * (byte + 1)]
        exact = np.square(table).sum(axis=1) - 2 * on_grid @ table.T
        if price:
            margins = np.rint(outputs.clip(-4, 4) * 8)[:, 8 * byte : 8 * byte + 8]
            exact -= margins @ BYTE_SIGNS.T * max(1, np.rint(price / 16 * made.scale**2))
        np.testing.assert_allclose(unary[byte], exact * grid / made.scale**2, atol=0.51)


def encoded(tables, rows=X, outputs=OUTPUTS, price=0.02):
    return tables.encode(rows, outputs, price)


def test_the_cheaper_a_bit_the_better_codes_decode(tables):
    errors, departing = [error(tables, SIGNS)], [0]
    for price in (1.0, 0.1, 0.02, 0.0):
        codes = encoded(tables, price=price)
        errors.append(error(tables, codes))
        departing.append(int(np.bitwise_count(codes ^ SIGNS).sum()))
    assert errors == sorted(errors, reverse=True)
    assert departing == sorted(departing)
    assert errors[-1] < 0.95 * errors[0]
    turned = np.unpackbits(encoded(tables, price=1e6) ^ SIGNS, axis=1, bitorder="little") > 0
    assert (np.abs(OUTPUTS[turned]) <= 1 / 16).all()  # a margin that is rounded to 0 costs nothing


def test_a_price_is_paid_by_the_margin(tables):
    """Of one byte the code is that of least squared error and price, by brute force."""
    one = ByteTables(tables.vectors[:1], tables.mean, tables.scale, tables.variance)
    outputs, signs = OUTPUTS[:200, :8], BYTE_SIGNS
    codes = one.encode(X[:200], outputs, 0.05)[:, 0]
    squared = np.square(UNIT[:200, None] - one.decode(np.arange(256, dtype=np.uint8)[:, None])).sum(axis=2)
    margins = np.rint(outputs * 8) / 8
    departs = (signs[None] > 0) != (margins[:, None] > 0)
    cost = squared + 0.05 * tables.variance * (np.abs(margins)[:, None] * departs).sum(axis=2)
    np.testing.assert_allclose(cost[np.arange(200), codes], cost.min(axis=1), atol=1e-3)


def test_codes_are_the_same_in_any_block_and_order(tables, monkeypatch):
    expected = encoded(tables)
    order = np.random.default_rng(1).permutation(ROWS)
    np.testing.assert_array_equal(encoded(tables, X[order], OUTPUTS[order]), expected[order])
    np.testing.assert_array_equal(encoded(tables, np.asfortranarray(X), np.asfortranarray(OUTPUTS)), expected)
    for block in (1, 7, 300):
        monkeypatch.setattr(byte_tables, "BLOCK", block)
        some = slice(0, 40 * block)
        np.testing.assert_array_equal(encoded(tables, X[some], OUTPUTS[some]), expected[some])
        np.testing.assert_array_equal(tables.lengths(expected[some]), tables.lengths(expected)[some])


def test_codes_are_the_same_with_any_number_of_threads(tables):
    with threadpoolctl.threadpool_limits(1):
        expected = encoded(tables)
    with threadpoolctl.threadpool_limits(4):
        np.testing.assert_array_equal(encoded(tables), expected)


def test_codes_are_the_same_without_a_compiler(tables, monkeypatch):
    expected = encoded(tables)
    monkeypatch.setattr(kernel, "_load", lambda: None)
    np.testing.assert_array_equal(encoded(tables), expected)


def test_equal_directions_have_equal_codes(tables):
    assert (X[9] == X[8]).all()
    codes = encoded(tables)
    np.testing.assert_array_equal(codes[9::10], codes[8::10])
    np.testing.assert_array_equal(encoded(tables, X * np.float32(8)), codes)


@pytest.mark.parametrize("query", [False, True])
def test_a_model_encodes_a_row_alike_among_any_others(model, query):
    codes = model.encode(X, query=query)
    assert (codes != np.packbits(model.outputs(X) > 0, axis=1, bitorder="little")).any()
    for size in (1, 7):
        some = np.concatenate([model.encode(X[start : start + size], query=query) for start in range(0, 210, size)])
        np.testing.assert_array_equal(some, codes[: len(some)])
    order = np.random.default_rng(1).permutation(ROWS)
    np.testing.assert_array_equal(model.encode(X[order], query=query), codes[order])


@pytest.mark.parametrize("far", [0, 10_000])
def test_so_does_a_model_whose_outputs_lie_between_two_margins(tables, far):
    """All outputs are 0 or half a step of the margins but for rounding, which has another order in another block."""
    rng = np.random.default_rng(0)
    weight, *_, other = np.split(np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))[0], [BITS, DIMENSION - 1])
    x = rng.standard_normal((ROWS, DIMENSION)) + far * other
    outputs = rng.integers(-3, 4, (ROWS, BITS)) * byte_tables.MARGIN_STEP / 2
    x += (outputs - x @ weight.T) @ weight
    tensors = {"output.weight": weight, "output.bias": np.zeros(BITS)}
    model = Model(tensors, {"method": "itq"}, CodeTables(tables, tables, price=1.0))
    x = x.astype(np.float32)
    np.testing.assert_allclose(model.outputs(x), outputs, atol=1e-5 + 1e-6 * far)
    codes = model.encode(x)
    np.testing.assert_array_equal(np.concatenate([model.encode(x[i : i + 1]) for i in range(ROWS)]), codes)
    np.testing.assert_array_equal(model.encode(np.asfortranarray(x)), codes)


@pytest.mark.parametrize(("shift", "scale"), [(0, 1e-4), (0, 1e3), (1000, 1)])
def test_so_does_a_model_of_features_of_any_scale(shift, scale):
    x = (X + np.float32(shift)) * np.float32(scale)
    model = sdc.Hasher(bits=BITS, method="itq", search_by="both").fit(x).model
    codes = model.encode(x)
    np.testing.assert_array_equal(np.concatenate([model.encode(x[i : i + 1]) for i in range(300)]), codes[:300])


def test_queries_depart_less_from_the_signs(model):
    signs = model.encode(X, refine=False)
    np.testing.assert_array_equal(signs, np.packbits(model.outputs(X) > 0, axis=1, bitorder="little"))
    database, queries = (int(np.bitwise_count(model.encode(X, query=query) ^ signs).sum()) for query in (False, True))
    assert 0 < queries < database


def test_queries_of_codes_for_tables_alone_are_signs():
    model = sdc.Hasher(bits=BITS, method="itq", search_by="tables").fit(X).model
    assert model.tables.price == 0
    np.testing.assert_array_equal(model.encode(X, query=True), model.encode(X, refine=False))
    assert (model.encode(X) != model.encode(X, refine=False)).any()


@pytest.mark.parametrize(
    ("gain", "chosen", "factor"),
    [(9.0, {}, 2.0), (0.0, {}, 0.5), (0.0, {"price": 0.03}, None), (0.0, {"search_by": "hamming"}, 1.0)],
    ids=["no gain", "a gain", "a price is given", "another dial"],
)
def test_long_codes_have_a_price_by_what_held_out_rows_find(monkeypatch, gain, chosen, factor):
    for name, value in (("SHORT", 8), ("HELD_OUT", 100), ("GAINS", ((gain, 0.5),))):
        monkeypatch.setattr(fitting, name, value)
    settings_ = {"search_by": "both", **chosen}
    tables = sdc.Hasher(bits=BITS, method="itq", **settings_).fit(X).model.tables
    expected = chosen.get("price") or fitting.DIALS[settings_["search_by"]].price * factor
    assert tables.price == pytest.approx(expected)


def test_tables_decode_better_than_a_linear_decoder(tables):
    signs = np.where(np.unpackbits(SIGNS, axis=1, bitorder="little"), 1.0, -1.0)
    signs = np.concatenate([signs, np.ones((ROWS, 1))], axis=1)
    linear = signs @ np.linalg.lstsq(signs, UNIT.astype(float), rcond=None)[0]
    assert error(tables, SIGNS) < 0.97 * np.square(linear - UNIT).sum(axis=1).mean()


def test_a_value_that_no_row_has_decodes_as_its_bits_say():
    codes = SIGNS & 0x7F  # the last bit of a byte is never set: no row says what it means
    tables = fit_tables(codes, UNIT)
    assert np.isfinite(tables.decode(np.array([[255, 255]], np.uint8))).all()
    longest = np.linalg.norm(tables.decode(codes), axis=1).max()
    assert np.linalg.norm(tables.decode(np.full((1, 2), 255, np.uint8))) < 3 * longest


def test_learned_tables_rank_rows_better(tables, monkeypatch):
    monkeypatch.setattr(fitting, "BANK", 512)
    learned = learn_decoder(tables, UNIT, SIGNS, 60, 0)
    queries = UNIT[:300]
    near = (queries @ UNIT.T).argsort(axis=1)[:, -10:]

    def recall(scorer):
        ranked = scorer.scores(queries, SIGNS, scorer.lengths(SIGNS)).argsort(axis=1)[:, -10:]
        return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ranked, near, strict=True)])

    assert recall(learned) > recall(tables)


def test_too_few_rows_give_signs_and_a_warning(caplog):
    hasher = sdc.Hasher(bits=BITS, method="itq", search_by="both").fit(X[:1000])
    assert "1000 training rows are too few for byte tables, which take 1024" in caplog.text
    assert hasher.model.tables is None
    np.testing.assert_array_equal(hasher.encode(X), np.packbits(hasher.outputs(X) > 0, axis=1, bitorder="little"))
    with pytest.raises(SdcError, match="at least 1024 training rows, found 1000"):
        fit_tables(SIGNS[:1000], UNIT[:1000])


def test_rows_that_are_all_alike_can_be_encoded():
    x = np.ones((1100, 8), np.float32)
    hasher = sdc.Hasher(bits=8, method="itq", search_by="both").fit(x)
    assert len(np.unique(hasher.encode(x), axis=0)) == 1


@pytest.mark.parametrize("dimension", [5, 100, 400])
def test_a_querys_tables_are_the_same_in_any_company(dimension):
    """And as exact as floats are: no order of a sum counts."""
    rng = np.random.default_rng(dimension)
    tables = ByteTables.on_grid(rng.standard_normal((3, 256, dimension)) / dimension, rng.random(dimension) / 9, 1.0)
    queries = rng.standard_normal((70, dimension)) * 10.0 ** rng.integers(-3, 3, (70, 1))
    products, offsets = tables.query_tables(queries)
    for start, end in ((0, 1), (3, 36), (69, 70)):
        some, their_offsets = tables.query_tables(queries[start:end])
        np.testing.assert_array_equal(some, products[start:end])
        np.testing.assert_array_equal(their_offsets, offsets[start:end])
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    plain = np.einsum("qd,mvd->qmv", unit, tables.vectors.astype(np.float64) / tables.scale)
    np.testing.assert_allclose(products, plain, atol=2e-6)
    np.testing.assert_allclose(offsets, unit @ tables.mean.astype(np.float64), atol=1e-6)
