"""Quality control: exact lists for each check and for their order, what is left, and bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.observations import (
    BackgroundCheck,
    Bounds,
    Domain,
    Exclude,
    GrossErrors,
    HFailed,
    Passive,
    QCFlag,
    Thinning,
    quality_control,
)
from diffassim.variational import background_spread

ONE = da.covariances.Diagonal(std=1.0)
PLACES = np.array([[[0.2], [0.4], [1.5], [0.6], [9.0]], [[0.0], [1.0], [1.2], [2.0], [0.9]]])
VALUES = np.array([[1.0, np.nan, -3.0, 4.0, 0.5], [60.0, 2.0, 0.0, -1.0, 7.0]])
OBS = da.Observations(VALUES, [0, 1], da.observations.Interpolate(), ONE, where=PLACES)
ZERO = np.zeros((2, 5))


def flags(*checks, predicted=ZERO, obs=OBS):
    return quality_control(obs, checks, predicted).flags[0].tolist()


EXPECTED = {
    "nothing": ((), [[0, 10, 0, 0, 0], [0, 0, 0, 0, 0]]),
    "bounds": ((Bounds(-1.0, 50.0),), [[0, 10, 12, 0, 0], [12, 0, 0, 0, 0]]),
    "bounds by place": ((Bounds(upper=np.array([0.9, 9, 9, 9, 6])),), [[12, 10, 0, 0, 0], [12, 0, 0, 0, 12]]),
    "domain": ((Domain([0.1], [2.0]),), [[0, 10, 0, 0, 13], [13, 0, 0, 0, 0]]),
    "excluded": ((Exclude(np.array([True, False, False, False, False])),), [[14, 10, 0, 0, 0], [14, 0, 0, 0, 0]]),
    "thinned": ((Thinning([1.0]),), [[0, 10, 0, 16, 0], [0, 0, 16, 0, 16]]),
    "thinned to two": ((Thinning([10.0], count=2),), [[0, 10, 0, 16, 16], [0, 0, 16, 16, 16]]),
    "background": ((BackgroundCheck(3.0),), [[0, 10, 0, 19, 0], [19, 0, 0, 0, 19]]),
    "background and its spread": ((BackgroundCheck(3.0, np.full((2, 5), 1.0)),), [[0, 10, 0, 0, 0], [19, 0, 0, 0, 19]]),
    "passive": ((Passive([True, True, False, False, False]),), [[1, 10, 0, 0, 0], [1, 0 + 1, 0, 0, 0]]),
    "gross": ((GrossErrors(da.observations.VariationalQC(0.01)),), [[0, 10, 0, 26, 0], [26, 0, 0, 0, 26]]),
    "the first reason stays": (
        (Bounds(-1.0, 50.0), BackgroundCheck(3.0), Exclude([False, True, True, True, True])),
        [[0, 10, 12, 19, 14], [12, 14, 14, 14, 19]],
    ),
    "the other order": ((BackgroundCheck(2.5), Bounds(-1.0, 50.0)), [[0, 10, 19, 19, 0], [19, 0, 0, 0, 19]]),
    "survivors are thinned": (
        (Exclude(np.array([True, False, False, False, False])), Thinning([1.0])),
        [[14, 10, 0, 0, 0], [14, 0, 16, 0, 0]],
    ),
    "passive ones are checked": ((Passive(), Bounds(-1.0, 50.0)), [[1, 10, 12, 1, 1], [12, 1, 1, 1, 1]]),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_the_flags_are_exactly_these(name):
    checks, expected = EXPECTED[name]
    found = quality_control(OBS, checks, ZERO)
    assert found.flags[0].tolist() == expected
    np.testing.assert_array_equal(found.observations[0].mask, np.asarray(expected) == 0)
    np.testing.assert_array_equal(found.departures[0], np.nan_to_num(VALUES))


def test_a_prediction_that_is_not_finite():
    predicted = np.array([[np.nan, np.nan, 0, np.inf, 0], [0.0] * 5])
    assert flags(HFailed(), BackgroundCheck(5.0), predicted=predicted) == [[15, 10, 0, 15, 0], [19, 0, 0, 0, 19]]
    assert np.isfinite(quality_control(OBS, [], predicted).departures[0]).all()


def test_the_variance_of_correlated_errors_counts():
    R = np.array([[4.0, 1.0], [1.0, 1.0]])
    obs = da.Observations(np.array([[5.0, 5.0]]), [0], error=2.0 * da.covariances.Dense.from_matrix(R))
    np.testing.assert_allclose(obs.error.variance(obs.values), [[8.0, 2.0]], rtol=1e-14)
    assert flags(BackgroundCheck(3.0), predicted=np.zeros((1, 2)), obs=obs) == [[0, 19]]


def test_streams_have_checks_of_their_own_and_a_report():
    other = da.Observations(np.array([[1.0, 8.0]]), [0], error=ONE)
    found = quality_control((OBS, other), ([Bounds(-1.0, 50.0)], [BackgroundCheck()]), (ZERO, np.zeros((1, 2))))
    assert found.counts() == (
        {QCFlag.PASS: 7, QCFlag.MISSING: 1, QCFlag.BOUNDS: 2}, {QCFlag.PASS: 1, QCFlag.FIRST_GUESS: 1},
    )  # fmt: skip
    assert [line.split() for line in str(found).splitlines()] == [
        ["flag", "stream", "0", "stream", "1"], ["0", "pass", "7", "1"], ["10", "missing", "1", "0"],
        ["12", "bounds", "2", "0"], ["19", "first_guess", "0", "1"],
    ]  # fmt: skip


def test_inside_of_jit_with_other_thresholds():
    @jax.jit
    def left(threshold, predicted):
        checks = [Bounds(upper=50.0), HFailed(), BackgroundCheck(threshold), Thinning([1.0])]
        return quality_control(OBS, checks, predicted).observations[0].count()

    assert [int(left(t, jnp.asarray(ZERO))) for t in (3.0, 1.5)] == [5, 4] and left._cache_size() == 1


def test_all_rejected_is_the_background_and_says_so():
    with pytest.warns(
        da.AssimilationWarning, match="all observations are rejected, the analysis will be the background"
    ):
        found = quality_control(OBS, [Exclude(True)])
    assert "No observation is left" in found.describe()
    x_b = jnp.sin(jnp.arange(12.0))
    cost = da.ThreeDVar(x_b, ONE, found.observations[0].replace(steps=[0, 0]))
    solution = da.minimize(cost)
    np.testing.assert_array_equal(solution.state, x_b)
    assert bool(solution.converged)
    assert "the analysis is the background" in str(da.diagnostics.summary(cost, solution))


def test_background_spread_from_B_probes_and_members():
    rng = np.random.default_rng(0)
    A, H, F = (jnp.asarray(rng.normal(size=shape)) for shape in ((4, 4), (3, 4), (4, 4)))
    y = da.Observations(np.zeros((2, 3)), [1, 2], da.observations.Linear(H), ONE, fraction=[0.5, 0.0])
    cost = da.StrongConstraint4DVar(
        da.models.FunctionModel(lambda x, t, A: A @ x, arguments=A), jnp.ones(4),
        da.covariances.Dense.from_matrix(F @ F.T), y,
    )  # fmt: skip
    G = np.stack([H @ (0.5 * A + 0.5 * A @ A), H @ A @ A])
    variance = np.einsum("tij,jk,tik->ti", G, F @ F.T, G)
    np.testing.assert_allclose(background_spread(cost)[0] ** 2, variance, rtol=1e-12)
    estimate = background_spread(cost, probes=2000, key=jax.random.key(0))[0] ** 2
    np.testing.assert_allclose(estimate, variance, rtol=0.2)
    members = jnp.asarray(rng.normal(size=(5, 4)))
    each = np.einsum("tij,mj->mti", G, members)
    np.testing.assert_allclose(background_spread(cost, members=members)[0], each.std(axis=0, ddof=1), rtol=1e-12)


PYTREE = da.Observations({"a": ZERO}, [0, 1], error=ONE)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: BackgroundCheck(-1.0), da.ConfigurationError, "threshold must be finite and positive, but holds -1.0"),
        (lambda: BackgroundCheck(1.0, -1.0), da.ConfigurationError, "background_std must not be negative"),
        (lambda: Bounds(2.0, 1.0), da.ConfigurationError, "Bounds: lower 2.0 must not exceed upper 1.0"),
        (lambda: Thinning([0.0]), da.ConfigurationError, "spacing must be finite and positive"),
        (lambda: GrossErrors(da.observations.Huber(), 1.0), da.ConfigurationError, "weight must lie between 0 and 1"),
        (lambda: flags(BackgroundCheck(), predicted=None), da.ConfigurationError, "needs `predicted`"),
        (lambda: flags(predicted=np.zeros(3)), da.ShapeError, r"predictions of stream 0 have shape \(3,\)"),
        (lambda: flags(Exclude(np.zeros(3, bool))), da.ShapeError, r"booleans of shape \(3,\) do not fit"),
        (lambda: flags(Exclude(1.0)), da.ConfigurationError, "needs booleans, found float"),
        (
            lambda: flags(Domain([0.0], [1.0]), obs=OBS.replace(where=None)),
            da.ConfigurationError,
            "one array of places",
        ),
        (lambda: flags(obs=PYTREE), da.ShapeError, "values of stream 0 are a pytree"),
        (lambda: quality_control((OBS, OBS), [], ZERO), da.ShapeError, "given for 1 streams, but there are 2"),
    ],
)
def test_bad_input_is_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
