"""The revisited protocol against a second, plainly written implementation, enumeration, and examples by hand."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, permutations
from math import comb, fsum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError, UsageError
from sdc.retrieve.evaluate import revisited
from sdc.retrieve.evaluate.landmark_metrics import of_groups

NAMES = ("easy", "hard", "junk")
WANTED = {"easy": ["easy"], "medium": ["easy", "hard"], "hard": ["hard"]}
UNWANTED = {"easy": ["junk", "hard"], "medium": ["junk"], "hard": ["junk", "easy"]}


def plain_query(ranking, setting):
    """AP, P@1, P@5, P@10 of a ranking, which says of each item what it is; None without positives."""
    ranking = [kind for kind in ranking if kind not in UNWANTED[setting]]
    positives = sum(kind in WANTED[setting] for kind in ranking)
    if not positives:
        return None
    area, found, recall_before, precision_before = Fraction(0), 0, Fraction(0), Fraction(1)
    for seen, kind in enumerate(ranking, start=1):  # the area below precision over recall, by trapezoids
        if kind in WANTED[setting]:
            found += 1
            recall, precision = Fraction(found, positives), Fraction(found, seen)
            area += (recall - recall_before) * (precision_before + precision) / 2
            recall_before = recall
        precision_before = Fraction(found, seen)
    last = max(place for place, kind in enumerate(ranking, start=1) if kind in WANTED[setting])
    shares = []
    for k in (1, 5, 10):
        k = min(k, last)
        shares.append(Fraction(sum(kind in WANTED[setting] for kind in ranking[:k]), k))
    return [area, *shares]


def plain_protocol(distances, kinds):
    """What `revisited` gives, of (Q, N) distances and kinds, equal distances in the order of the columns."""
    scores = {}
    for setting in WANTED:
        values = []
        for row, of in zip(distances, kinds, strict=True):
            order = sorted(range(len(row)), key=lambda column, row=row: (row[column], column))
            values.append(plain_query([of[column] for column in order], setting))
        values = [value for value in values if value is not None]
        scores[setting] = [float(sum(column) / len(values)) for column in zip(*values, strict=True)] or [np.nan] * 4
    return scores


def lists_of(kinds):
    """The easy, hard and junk columns of each query."""
    return [[[column for column, kind in enumerate(row) if kind == name] for row in kinds] for name in NAMES]


def flat(scores):
    """Of each setting [AP, P@1, P@5, P@10]."""
    assert list(scores) == ["easy", "medium", "hard"]
    assert all(list(score) == ["map", "mp"] and list(score["mp"]) == [1, 5, 10] for score in scores.values())
    return {setting: [score["map"], *score["mp"].values()] for setting, score in scores.items()}


def assert_equal(found, expected, tolerance):
    for setting, values in expected.items():
        np.testing.assert_allclose(found[setting], values, rtol=0, atol=tolerance, err_msg=setting)


@st.composite
def sets(draw, most_items, most_queries):
    """Distances with many ties or none, and what each item is, in a mixture that may lack some kinds."""
    count = draw(st.integers(1, most_items))
    queries = draw(st.integers(1, most_queries))
    mixture = draw(
        st.sampled_from(
            [
                ("other", *NAMES),
                ("other",) * 8 + NAMES,
                ("junk",),
                ("junk", "other"),
                ("other", "easy"),
                ("hard", "junk"),
            ]
        )
    )
    kinds = [draw(st.lists(st.sampled_from(mixture), min_size=count, max_size=count)) for _ in range(queries)]
    farthest = draw(st.sampled_from([0, 1, 4, 1000]))
    distances = np.array(
        [draw(st.lists(st.integers(0, farthest), min_size=count, max_size=count)) for _ in range(queries)]
    )
    if draw(st.booleans()):  # junk at the top
        distances += 1
        distances[np.array(kinds) == "junk"] = 0
    return distances, kinds


@settings(max_examples=250, deadline=None)
@given(sets(30, 4))
def test_equals_the_second_implementation(made):
    distances, kinds = made
    found = flat(revisited(distances, *lists_of(kinds)))
    assert_equal(found, plain_protocol(distances.tolist(), kinds), 1e-9)


def test_equals_the_second_implementation_on_long_rankings():
    rng = np.random.default_rng(0)
    for bits in (8, 16, 64):
        kinds = rng.choice(["other", *NAMES], (700, 150), p=[0.8, 0.06, 0.08, 0.06])
        distances = rng.binomial(bits, np.where(kinds == "other", 0.45, 0.35))
        expected = plain_protocol(distances.tolist(), kinds.tolist())
        assert_equal(flat(revisited(distances, *lists_of(kinds))), expected, 1e-9)
        one = rng.permutation(150)  # without ties every order is the same
        untied = np.argsort(one)[None] / 7
        for ties in ("row", "expected", "best", "worst"):
            found = flat(revisited(untied, *lists_of(kinds[:1]), ties=ties))
            assert_equal(found, plain_protocol(untied.tolist(), kinds[:1].tolist()), 1e-9)


@settings(max_examples=100, deadline=None)
@given(sets(6, 1))
def test_expected_best_and_worst_equal_all_tie_orders(made):
    (distances,), (kinds,) = made
    orders = [
        order
        for order in permutations(range(len(kinds)))
        if all(distances[a] <= distances[b] for a, b in pairwise(order))
    ]
    for ties, of in (("expected", lambda values: sum(values) / len(values)), ("best", max), ("worst", min)):
        found = flat(revisited(distances[None], *lists_of([kinds]), ties=ties))
        for setting, values in found.items():
            every = [plain_query([kinds[column] for column in order], setting) for order in orders]
            if every[0] is None:
                assert np.isnan(values).all()
            else:
                expected = [float(of(column)) for column in zip(*every, strict=True)]
                np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12, err_msg=f"{ties} {setting}")


@settings(max_examples=100, deadline=None)
@given(sets(60, 2), st.randoms(use_true_random=False))
def test_the_order_of_the_database_changes_no_expected_value(made, chance):
    distances, kinds = made
    order = list(range(len(kinds[0])))
    chance.shuffle(order)
    shuffled = distances[:, order], [[row[column] for column in order] for row in kinds]
    for ties in ("expected", "best", "worst"):
        one = flat(revisited(distances, *lists_of(kinds), ties=ties))
        assert_equal(flat(revisited(shuffled[0], *lists_of(shuffled[1]), ties=ties)), one, 1e-12)


def test_expected_values_are_means_between_best_and_worst():
    rng = np.random.default_rng(2)
    kinds = rng.choice(["other", *NAMES], 2000, p=[0.97, 0.01, 0.01, 0.01])
    distances = rng.binomial(16, np.where(kinds == "other", 0.45, 0.3))
    samples = {setting: [] for setting in WANTED}
    for _ in range(400):
        order = rng.permutation(2000)
        for setting, values in flat(revisited(distances[None, order], *lists_of(kinds[None, order]))).items():
            samples[setting].append(values)
    expected, best, worst = (
        flat(revisited(distances[None], *lists_of(kinds[None]), ties=ties)) for ties in ("expected", "best", "worst")
    )
    for setting, values in samples.items():
        error = np.std(values, axis=0) / np.sqrt(len(values))
        assert (np.abs(np.mean(values, axis=0) - expected[setting]) <= 4.5 * error + 1e-12).all()
        assert (np.min(values, axis=0) >= np.array(worst[setting]) - 1e-12).all()
        assert (np.max(values, axis=0) <= np.array(best[setting]) + 1e-12).all()
        assert worst[setting][0] < expected[setting][0] < best[setting][0]


def test_large_groups_stay_exact():
    """Two groups of a database of 300,000, place by place, and the last positive's place by binomials."""
    sizes, good = [3, 299_997], [2, 40]
    total, terms = sum(good), []
    for before, h, g, m in ((0, 0, 3, 2), (3, 2, 299_997, 40)):
        i = np.arange(g, dtype=np.longdouble)
        found = h + i * (m - 1) / (g - 1)  # positives before a positive at place i
        above = np.divide(found, before + i, out=np.ones_like(i), where=before + i > 0)
        terms += ((above + (found + 1) / (before + i + 1)) * m / g / 2).tolist()
    none = np.zeros(2, int)
    easy = of_groups(np.array(sizes), {"easy": np.array(good), "hard": none, "junk": none})["easy"]
    assert easy[0] == pytest.approx(fsum(terms) / total, abs=1e-13)
    assert easy[1] == pytest.approx(2 / 3, abs=1e-15)
    assert easy[2] == pytest.approx((2 + 2 * 40 / 299_997) / 5, abs=1e-15)
    few = of_groups(np.array([2, 300_000]), {"easy": np.array([1, 1]), "hard": none, "junk": none})["easy"]
    by_place = sum(Fraction(2, 2 + i) for i in range(1, 9)) / 300_000  # the last positive is in the top 10
    beyond = Fraction(1, 10) * (1 - Fraction(comb(8, 1), comb(300_000, 1)))
    assert few[3] == pytest.approx(float(by_place + beyond), abs=1e-16)


def test_worked_example():
    #           rank  0       1        2       3       4        5
    kinds = [["junk", "easy", "other", "hard", "easy", "other"]]
    found = revisited(np.arange(6)[None], *lists_of(kinds))
    # Easy ranks easy, other, easy, other: positives at 0 and 2. Hard: other, hard, other: a positive at 1.
    assert found["easy"]["map"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2, abs=1e-15)
    assert found["easy"]["mp"] == pytest.approx({1: 1, 5: 2 / 3, 10: 2 / 3}, abs=1e-15)
    assert found["medium"]["map"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3, abs=1e-15)
    assert found["medium"]["mp"] == pytest.approx({1: 1, 5: 3 / 4, 10: 3 / 4}, abs=1e-15)
    assert found["hard"]["map"] == pytest.approx((0 + 1 / 2) / 2, abs=1e-15)
    assert found["hard"]["mp"] == pytest.approx({1: 0, 5: 1 / 2, 10: 1 / 2}, abs=1e-15)


def test_worked_example_of_ties():
    # One positive among three that tie: at 0, 1 or 2 its AP is 1, (0 + 1/2) / 2 or (0 + 1/3) / 2.
    kinds, distances = [["other", "hard", "other"]], np.zeros((1, 3), int)
    aps = {"best": 1, "row": 1 / 4, "worst": 1 / 6, "expected": (1 + 1 / 4 + 1 / 6) / 3}
    firsts = {"best": 1, "row": 0, "worst": 0, "expected": 1 / 3}
    fives = {"best": 1, "row": 1 / 2, "worst": 1 / 3, "expected": (1 + 1 / 2 + 1 / 3) / 3}
    for ties, ap in aps.items():
        found = revisited(distances, *lists_of(kinds), ties=ties)["hard"]
        assert found["map"] == pytest.approx(ap, abs=1e-15), ties
        assert found["mp"] == pytest.approx({1: firsts[ties], 5: fives[ties], 10: fives[ties]}, abs=1e-15), ties


@pytest.mark.parametrize("ties", ["row", "expected", "best", "worst"])
def test_queries_without_positives_are_left_out_of_the_mean(ties):
    kinds = [["easy", "other", "junk"], ["hard", "junk", "other"], ["junk", "junk", "junk"]]
    found = flat(revisited(np.array([[1, 0, 0], [2, 3, 4], [0, 0, 0]]), *lists_of(kinds), ties=ties))
    assert found["easy"] == pytest.approx([1 / 4, 0, 1 / 2, 1 / 2], abs=1e-15)  # the first query alone
    assert found["medium"] == pytest.approx([(1 / 4 + 1) / 2, 1 / 2, 3 / 4, 3 / 4], abs=1e-15)
    assert found["hard"] == pytest.approx([1, 1, 1, 1], abs=1e-15)
    nothing = flat(revisited(np.zeros((2, 3)), *lists_of(kinds[2:] * 2), ties=ties))
    assert np.isnan(list(nothing.values())).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"distances": np.zeros(3)}, UsageError, r"\(Q, N\) distances"),
        ({"junk": [[1], []]}, UsageError, r"found \(1, 3\) and 1 easy, 1 hard, 2 junk"),
        ({"easy": [[3]]}, UsageError, "easy of query 0 has 3, expected columns 0 to 2"),
        ({"hard": [[-1]]}, UsageError, "hard of query 0 has -1"),
        ({"hard": [[0]]}, UsageError, "hard of query 0 has columns that are listed twice"),
        ({"junk": [[2, 2]]}, UsageError, "junk of query 0 has columns that are listed twice"),
        ({"ties": "rows"}, UsageError, "did you mean 'row'"),
        ({"distances": np.array([[0, np.nan, 1]])}, SdcError, "NaN, first of query 0"),
    ],
)
def test_bad_input_is_named(change, error, message):
    options = {"distances": np.zeros((1, 3)), "easy": [[0]], "hard": [[1]], "junk": [[2]]} | change
    with pytest.raises(error, match=message):
        revisited(**options)
