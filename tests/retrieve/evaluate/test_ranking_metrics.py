"""Average precision with ties: exact against every order of small cases, and against sampled orders of large ones."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError, UsageError
from sdc.retrieve.evaluate import average_precision, average_precision_of_groups


def plain_ap(relevant: np.ndarray, at: int) -> float:
    """AP@R by its definition, of a ranking without ties."""
    found, total = 0, 0.0
    for rank, good in enumerate(relevant[:at], start=1):
        if good:
            found += 1
            total += found / rank
    return total / found if found else 0.0


def every_order(distances: np.ndarray, relevant: np.ndarray, at: int) -> list[float]:
    """The APs of all permutations that respect the distances, each as often as it occurs."""
    return [
        plain_ap(relevant[list(order)], at)
        for order in permutations(range(len(distances)))
        if all(distances[a] <= distances[b] for a, b in pairwise(order))
    ]


rankings = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
        st.integers(1, n + 1),
    )
)


@settings(max_examples=150, deadline=None)
@given(rankings)
def test_equals_enumeration_of_all_tie_orders(ranking):
    distances, relevant, at = np.array(ranking[0]), np.array(ranking[1]), ranking[2]
    values = every_order(distances, relevant, at)
    assert average_precision(distances, relevant, at=at) == pytest.approx(np.mean(values), abs=1e-12)
    assert average_precision(distances, relevant, at=at, ties="best") == pytest.approx(max(values), abs=1e-12)
    assert average_precision(distances, relevant, at=at, ties="worst") == pytest.approx(min(values), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(rankings)
def test_row_order_and_untied_rankings_follow_the_definition(ranking):
    distances, relevant, at = np.array(ranking[0]), np.array(ranking[1]), ranking[2]
    order = np.argsort(distances, kind="stable")
    expected = plain_ap(relevant[order], at)
    assert average_precision(distances, relevant, at=at, ties="row") == pytest.approx(expected, abs=1e-12)
    untied = np.empty(len(order))
    untied[order] = np.arange(len(order)) / 7
    for ties in ("expected", "best", "worst", "row"):
        assert average_precision(untied, relevant, at=at, ties=ties) == pytest.approx(expected, abs=1e-12)


def test_best_order_may_keep_a_relevant_item_out():
    # A hit at rank 1, then R cuts a far group: another hit at rank 10 would only lower the mean precision.
    distances = np.array([0, *[1] * 8, *[2] * 2])
    relevant = np.array([True, *[False] * 8, True, False])
    assert average_precision(distances, relevant, at=10, ties="best") == 1.0
    assert average_precision(distances, relevant, at=10, ties="worst") == pytest.approx((1 + 2 / 10) / 2)


def test_the_expected_ratio_is_not_the_ratio_of_expectations():
    # Two places of a group of three, one of which is relevant: AP is 1, 1/2 or 0.
    value = average_precision(np.zeros(3, int), np.array([True, False, False]), at=2)
    assert value == pytest.approx((1 + 1 / 2 + 0) / 3, abs=1e-15)
    assert value != pytest.approx((1 + 1 / 2) / 3 / (2 / 3), abs=1e-3)


@pytest.mark.parametrize("at", [100, 1000, None])
def test_agrees_with_the_mean_over_1000_random_tie_orders(at):
    rng = np.random.default_rng(5)
    relevant = rng.random(4000) < 0.15
    distances = rng.binomial(16, np.where(relevant, 0.3, 0.42))
    samples = np.empty(1000)
    for i in range(len(samples)):
        order = rng.permutation(len(distances))
        samples[i] = average_precision(distances[order], relevant[order], at=at, ties="row")
    error = samples.std() / np.sqrt(len(samples))
    expected = average_precision(distances, relevant, at=at)
    assert abs(expected - samples.mean()) < 4 * error
    assert average_precision(distances, relevant, at=at, ties="worst") < samples.min()
    assert average_precision(distances, relevant, at=at, ties="best") > samples.max()


def test_large_groups_stay_exact_against_rational_arithmetic():
    from fractions import Fraction
    from math import comb

    size, relevant, places = 400, 90, 120  # one group that straddles R = 120
    total = Fraction(0)
    for m in range(1, min(relevant, places) + 1):
        ways = Fraction(comb(relevant, m) * comb(size - relevant, places - m), comb(size, places))
        pairs = Fraction(m * (m - 1), places * (places - 1))
        numerator = sum(Fraction(m, places) / i + pairs * Fraction(i - 1, i) for i in range(1, places + 1))
        total += ways * numerator / m
    found = average_precision_of_groups(np.array([size]), np.array([relevant]), places)
    assert found == pytest.approx(float(total), abs=1e-14)


def test_does_not_depend_on_the_order_of_the_database():
    rng = np.random.default_rng(1)
    distances, relevant = rng.binomial(64, 0.4, 20_000), rng.random(20_000) < 0.1
    order = rng.permutation(20_000)
    for ties in ("expected", "best", "worst"):
        one = average_precision(distances, relevant, at=1000, ties=ties)
        other = average_precision(distances[order], relevant[order], at=1000, ties=ties)
        assert one == pytest.approx(other, abs=1e-12)


def test_no_relevant_item_gives_0_and_an_empty_ranking_too():
    assert average_precision(np.arange(5), np.zeros(5, bool)) == 0
    assert average_precision(np.empty(0), np.empty(0, bool)) == 0


@pytest.mark.parametrize(
    ("distances", "relevant", "options", "error", "message"),
    [
        ([1, 2], [True], {}, UsageError, "shapes"),
        ([1, 2], [1, 0], {}, UsageError, "int64"),
        ([1, 2], [True, False], {"at": 0}, UsageError, "at least 1, found 0"),
        ([1, 2], [True, False], {"ties": "wurst"}, UsageError, "did you mean 'worst'"),
        ([1, float("nan")], [True, False], {}, SdcError, "NaN, first at 1"),
    ],
)
def test_bad_input_is_named(distances, relevant, options, error, message):
    with pytest.raises(error, match=message):
        average_precision(np.array(distances), np.array(relevant), **options)
