"""Calibration distributions: their tables against samples, and what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdc.errors import SdcError, UsageError
from sdc.kernels import quantile_table
from sdc.train.calibrations import canonical, inverse_cdf
from sdc.train.calibrations.families import FAMILIES

N = 50_000


def levels(n):
    return (2 * np.arange(1, n + 1) - 1) / (2 * n)


def codes_similarity(rng, bits):
    """Of pairs of independent, uniform codes."""
    a, b = (rng.integers(0, 2, (N, bits)) * 2 - 1 for _ in range(2))
    return (a * b).mean(axis=1)


def truncated(rng, sd):
    x = rng.normal(0, sd, 3 * N)
    return x[np.abs(x) <= 1]


# Each with a sample of the similarities it stands for, drawn another way than by quantiles where there is one.
SAMPLES = {
    "beta:5,5": lambda rng: 2 * rng.beta(5, 5, N) - 1,
    "beta:0.4,3": lambda rng: 2 * rng.beta(0.4, 3, N) - 1,
    "gaussian:0.3": lambda rng: rng.normal(0, 0.3, N),
    "gaussian:0.9": lambda rng: rng.normal(0, 0.9, N).clip(-1, 1),
    "truncnorm:0.9": lambda rng: truncated(rng, 0.9),
    "laplace:0.2": lambda rng: rng.laplace(0, 0.2, N).clip(-1, 1),
    "logistic:0.15": lambda rng: rng.logistic(0, 0.15, N).clip(-1, 1),
    "uniform": lambda rng: rng.uniform(-1, 1, N),
    "arcsine": lambda rng: np.cos(rng.uniform(0, np.pi, N)),
    "binomial:16": lambda rng: codes_similarity(rng, 16),
    "binomial:64": lambda rng: codes_similarity(rng, 64),
    "kumaraswamy:2,3": lambda rng: 2 * (1 - rng.uniform(size=N) ** (1 / 3)) ** (1 / 2) - 1,
    "student-t:3,0.2": lambda rng: (0.2 * rng.standard_t(3, N)).clip(-1, 1),
    "scipy:skewnorm:a=4,loc=-0.2,scale=0.3": lambda rng: scipy.stats.skewnorm(4, -0.2, 0.3).rvs(N, random_state=rng),
    "scipy:triang:c=0.3": lambda rng: 2 * rng.triangular(0, 0.3, 1, N) - 1,
}
SYMMETRIC = [
    *(
        "beta:5,5",
        "beta:0.2,0.2",
        "gaussian:0.3",
        "truncnorm:0.9",
        "laplace:0.2",
        "logistic:0.15",
        "uniform",
        "arcsine",
    ),
    *("binomial:16", "binomial:64", "kumaraswamy:1,1", "student-t:3,0.2", "scipy:cosine:scale=0.3"),
]


def test_every_family_is_among_the_samples():
    assert {spec.partition(":")[0] for spec in SAMPLES} == {*FAMILIES, "scipy"}


@pytest.mark.parametrize("spec", SAMPLES)
def test_a_table_has_the_distribution_of_a_sample(spec):
    """Kolmogorov–Smirnov: by chance the distance is below 0.0073 in 99 of 100 samples; the table adds 1/4000."""
    table = quantile_table(inverse_cdf(spec), 4000)
    sample = SAMPLES[spec](np.random.default_rng(0)).astype(np.float32)
    if spec.startswith("binomial"):  # ties must be ties in float32
        table, sample = (np.round(x.astype(np.float64), 5) for x in (table, sample))
    assert scipy.stats.ks_2samp(table, sample).statistic < 0.0085


@pytest.mark.parametrize("spec", SAMPLES)
@pytest.mark.parametrize("n", [1, 2, 255, 32640])
def test_a_table_rises_within_the_bounds(spec, n):
    table = quantile_table(inverse_cdf(spec), n)
    assert table.shape == (n,)
    assert (np.diff(table) >= 0).all()
    assert np.abs(table).max() <= 1


@pytest.mark.parametrize("spec", SYMMETRIC)
@pytest.mark.parametrize("n", [1, 32, 255, 32640])
def test_symmetric_distributions_have_symmetric_tables(spec, n):
    values = inverse_cdf(spec)(levels(n))
    np.testing.assert_allclose(values + values[::-1], 1, rtol=0, atol=1e-12)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(FAMILIES)),
    exponents=st.tuples(*[st.floats(-6, 6)] * 2),
    n=st.integers(1, 300),
)
@example(name="student-t", exponents=(-2.416015625, 0.0), n=293)  # SciPy gives a wrong quantile among right ones
def test_parameters_of_any_size_give_a_table_or_are_refused(name, exponents, n):
    usage = FAMILIES[name].parameters
    numbers = [10.0**x for x in exponents[: len(usage.split(",")) if usage else 0]]
    if name == "binomial":
        numbers = [float(np.ceil(numbers[0]))]
    spec = ":".join([name, *([",".join(map(str, numbers))] if numbers else [])])
    try:
        inverse = inverse_cdf(spec)
        quantile_table(inverse, n)  # checks that it is finite, within the bounds and does not fall
    except UsageError as error:
        message = str(error)
        assert "all the similarity" in message or "cannot be computed, they fall" in message
        return
    ends = inverse(np.array([0.0, 1.0]))
    assert 0 <= ends[0] <= ends[1] <= 1


BAD = {
    "bta:5,5": "unknown calibration 'bta': did you mean 'beta'",
    "": "unknown calibration ''",
    "beta": "beta takes 2 numbers, beta:a,b",
    "beta:5": "beta takes 2 numbers, beta:a,b",
    "beta:5,5,5": "beta takes 2 numbers",
    "beta:x,5": "beta takes 2 numbers",
    "beta:0,5": "must be positive",
    "beta:5,nan": "must be positive",
    "beta:5,inf": "from 1e-06 to 1e.06",
    "gaussian": "gaussian takes 1 number, gaussian:sd",
    "gaussian:-0.3": "must be positive",
    "student-t:3": "student-t takes 2 numbers, student-t:df,scale",
    "uniform:1": "uniform takes no parameters",
    "arcsine:": "arcsine takes no parameters",
    "binomial": "binomial takes 1 number, binomial:K",
    "binomial:2.5": "K is a number of bits",
    "linear": "linear .* no F",
    "linear:2": "linear takes no parameters",
    "empirical": "expected empirical:FILE",
    "empirical:": "expected empirical:FILE",
    "scipy": "has no distribution ''",
    "scipy:skewnrm:a=4": "did you mean 'skewnorm'",
    "scipy:ks_2samp": "has no distribution 'ks_2samp'",
    "scipy:beta:a=2": "expected scipy:beta:a=NUMBER,b=NUMBER,loc=NUMBER,scale=NUMBER",
    "scipy:beta:2,3": "expected scipy:beta:a=NUMBER",
    "scipy:beta:a=2,b=3,c=4": "expected scipy:beta:a=NUMBER",
    "scipy:norm:scale=inf": "of numbers up to 1e.06",
    "scipy:binom:n=64": "expected scipy:binom:n=NUMBER,p=NUMBER,loc=NUMBER of",
    "scipy:beta:a=-1,b=2": "not numbers",
    "scipy:uniform:loc=5": "all the similarity 1; expected a distribution spread over",
}


@pytest.mark.parametrize("spec", BAD)
def test_a_bad_calibration_is_named(spec):
    with pytest.raises(UsageError, match=BAD[spec]):
        inverse_cdf(spec)


# What a model records


@pytest.mark.parametrize(
    ("calibration", "text"),
    [
        ("beta:5,5", "beta:5,5"),
        ("linear", "linear"),
        ("binomial", "binomial:48"),
        ("binomial:16", "binomial:16"),
        (scipy.stats.beta(2, b=3), "scipy:beta:a=2.0,b=3.0"),
        (scipy.stats.norm(0, np.float32(0.25)), "scipy:norm:loc=0.0,scale=0.25"),
        (scipy.stats.skewnorm(scale=0.1, a=4), "scipy:skewnorm:a=4.0,scale=0.1"),
        (scipy.stats.uniform(), "scipy:uniform"),
        (scipy.stats.randint(0, 2), "scipy:randint:low=0.0,high=2.0"),
    ],
)
def test_a_text_is_recorded_that_gives_the_same_table(calibration, text):
    assert canonical(calibration, 48) == text
    assert canonical(text, 8) == text
    if calibration not in ("linear", "binomial"):
        np.testing.assert_array_equal(inverse_cdf(text)(levels(99)), inverse_cdf(calibration)(levels(99)))


def test_a_frozen_law_is_of_the_unit_interval_or_similarity():
    u = levels(50)
    np.testing.assert_array_equal(inverse_cdf(scipy.stats.beta(2, 3))(u), scipy.stats.beta(2, 3).ppf(u))
    np.testing.assert_array_equal(inverse_cdf(scipy.stats.norm(0, 0.3))(u), inverse_cdf("gaussian:0.3")(u))
    stretched = inverse_cdf(scipy.stats.beta(2, 3, loc=-1, scale=2))(u)
    np.testing.assert_allclose(stretched, inverse_cdf("beta:2,3")(u), atol=1e-15)


class Custom(scipy.stats.rv_continuous):
    def _pdf(self, x):
        return 2 * x


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (5.0, "a text such as 'beta:5,5' or a frozen distribution .* found float"),
        (scipy.stats.beta, "found beta_gen"),
        (Custom(a=0, b=1, name="beta")(), "found rv_continuous_frozen 'beta': save a sample"),
        (scipy.stats.rv_histogram(np.histogram([0.2, 0.4]))(), "save a sample .*empirical:FILE"),
        (scipy.stats.norm([0, 0.1], 1), "arrays as parameters"),
        (scipy.stats.beta(-2, 3), "not numbers"),
        ("bta:5,5", "did you mean 'beta'"),
    ],
)
def test_what_no_text_describes_is_refused(calibration, message):
    with pytest.raises(UsageError, match=message):
        canonical(calibration, 8)


# Similarities in a file


@pytest.fixture
def similarities(tmp_path):
    """A vector and the file that holds it, as npy, as text and as text with blank lines and CRLF."""
    values = np.random.default_rng(0).beta(2, 5, 501) * 1.6 - 0.9
    np.save(tmp_path / "npy", values)
    (tmp_path / "npy.npy").rename(tmp_path / "npy")
    (tmp_path / "text").write_text("\n".join(map(repr, values.tolist())))
    (tmp_path / "crlf").write_bytes(b"\r\n\r\n".join(repr(value).encode() for value in values.tolist()) + b"\r\n \r\n")
    return values, tmp_path


@pytest.mark.parametrize("form", ["npy", "text", "crlf"])
def test_empirical_gives_back_its_files_quantiles(similarities, form):
    values, folder = similarities
    inverse = inverse_cdf(f"empirical:{folder / form}")
    np.testing.assert_allclose(2 * inverse(levels(501)) - 1, np.sort(values), atol=1e-12)
    hazen = scipy.stats.mstats.mquantiles(values, levels(64), alphap=0.5, betap=0.5)
    np.testing.assert_allclose(2 * inverse(levels(64)) - 1, hazen, atol=1e-12)
    assert scipy.stats.ks_2samp(quantile_table(inverse, 5000), values).statistic < 2 / 501


def test_cosines_that_rounding_carries_beyond_1_are_taken(tmp_path):
    np.save(tmp_path / "a.npy", np.array([1 + 1e-6, 0, -1 - 1e-6], np.float32))
    assert quantile_table(inverse_cdf(f"empirical:{tmp_path / 'a.npy'}"), 3).tolist() == [-1, 0, 1]


def test_a_recorded_file_is_sealed_and_may_be_gone(similarities):
    _, folder = similarities
    sealed = canonical(f"empirical:{folder / 'npy'}", 8)
    assert sealed.startswith(f"empirical:{folder / 'npy'}#")
    inverse_cdf(sealed)
    np.save(folder / "other.npy", [0.1, 0.2])
    os.replace(folder / "other.npy", folder / "npy")
    assert canonical(sealed, 8) == sealed != canonical(f"empirical:{folder / 'npy'}", 8)
    with pytest.raises(SdcError, match=r"npy has changed since 'empirical:.*' was recorded"):
        inverse_cdf(sealed)
    (folder / "npy").unlink()
    assert canonical(sealed, 8) == sealed
    with pytest.raises(SdcError, match="no file of similarities"):
        inverse_cdf(sealed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0.1\n0.2\nx\n", r"line 3: 'x' is not a number"),
        (b"0.1 0.2\n", r"line 1: '0.1 0.2' is not a number"),
        (b"\xff\xfe0\n", "line 1: .* is not a number"),
        (b"0.1\n1.5\nnan\n", r"2 of 3 numbers are no similarities in \[-1, 1\], such as number 2, which is 1.5"),
        (b"nan\n", "which is nan"),
        (b"\n", "is empty"),
        (b"", "is empty"),
        (b"0.5\n0.5\n", "all the similarity 0.5"),
        (np.zeros((3, 3)), r"holds float64 of shape \(3, 3\)"),
        (np.array([True, False]), "holds bool"),
        (np.array(["0.1"]), "holds <U3"),
        (np.array([0.1 + 0j]), "holds complex128"),
        (np.array([]), "is empty"),
        (np.array([0.1, np.inf]), "which is inf"),
    ],
)
def test_a_bad_file_is_described(tmp_path, content, message):
    path = tmp_path / "similarities"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path.with_suffix(".npy"), content)
        path.with_suffix(".npy").rename(path)
    with pytest.raises(SdcError, match=message):
        inverse_cdf(f"empirical:{path}")


def test_a_missing_or_cut_file_is_described(similarities):
    _, folder = similarities
    with pytest.raises(SdcError, match=r"no file of similarities at .*none"):
        inverse_cdf(f"empirical:{folder / 'none'}")
    with pytest.raises(SdcError, match="is a folder"):
        inverse_cdf(f"empirical:{folder}")
    whole = (folder / "npy").read_bytes()
    for length in (6, 50, 200, len(whole) - 1):
        (folder / "npy").write_bytes(whole[:length])
        with pytest.raises(SdcError, match="no readable npy file"):
            inverse_cdf(f"empirical:{folder / 'npy'}")


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Trap(tmp_path / "sprung")], dtype=object), allow_pickle=True)
    with pytest.raises(SdcError, match="no readable npy file"):
        inverse_cdf(f"empirical:{tmp_path / 'a.npy'}")
    assert not (tmp_path / "sprung").exists()
