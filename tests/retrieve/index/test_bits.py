from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdc.errors import SdcError, UsageError
from sdc.retrieve.bits import hamming, pack, unpack

widths = st.integers(1, 20)


@given(widths.flatmap(lambda w: hnp.arrays(bool, st.tuples(st.integers(0, 9), st.just(8 * w)))))
def test_unpack_inverts_pack(bits):
    codes = pack(bits)
    assert codes.dtype == np.uint8
    assert codes.shape == (len(bits), bits.shape[1] // 8)
    assert (unpack(codes) == bits).all()


def test_bit_j_is_the_sign_of_output_j_least_significant_first():
    outputs = np.full((1, 16), -1.0)
    outputs[0, [0, 3, 9]] = 0.5
    assert pack(outputs).tolist() == [[0b00001001, 0b00000010]]


def test_exact_zero_of_either_sign_is_bit_0():
    outputs = np.array([[0.0, -0.0, np.nextafter(0, 1), -np.nextafter(0, 1), np.inf, -np.inf, 0.0, 1.0]])
    assert unpack(pack(outputs)).tolist() == [[False, False, True, False, True, False, False, True]]


@pytest.mark.parametrize("bits", [1, 7, 12, 63])
def test_bits_that_do_not_fill_bytes_are_refused(bits):
    with pytest.raises(UsageError, match=f"codes of {bits} bits do not fill whole bytes"):
        pack(np.ones((3, bits)))


def test_nan_is_refused_with_its_row():
    outputs = np.ones((5, 8))
    outputs[3, 2] = np.nan
    with pytest.raises(SdcError, match=r"NaN.*row 3"):
        pack(outputs)


@settings(deadline=None)
@given(
    widths.flatmap(
        lambda w: st.tuples(
            hnp.arrays(np.uint8, st.tuples(st.integers(0, 4), st.just(w))),
            hnp.arrays(np.uint8, st.tuples(st.integers(0, 9), st.just(w))),
        )
    )
)
def test_hamming_counts_the_bits_that_differ(pair):
    queries, database = pair
    expected = (unpack(queries)[:, None] != unpack(database)[None]).sum(axis=2)
    found = hamming(queries, database)
    assert found.dtype == np.int32
    assert (found == expected).all()


def test_hamming_over_several_blocks_of_rows():
    rng = np.random.default_rng(0)
    database = rng.integers(0, 256, (150_000, 5), dtype=np.uint8)
    rows = np.array([0, 65_535, 65_536, 131_071, 131_072, 149_999])
    found = hamming(database[:2], database)[:, rows]
    assert (found == (unpack(database[:2])[:, None] != unpack(database[rows])[None]).sum(axis=2)).all()


def test_hamming_of_codes_of_different_width_is_refused():
    with pytest.raises(UsageError, match="query codes have 16 bits, the database's have 64"):
        hamming(np.zeros((1, 2), np.uint8), np.zeros((1, 8), np.uint8))
