"""What observation errors of every kind are to those who cut, pad and place them: the same as the matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.covariances import Blocks, Covariance, Dense, Diagonal, Gaussian, Kronecker, LowRank, Zero
from diffassim.ensemble import GaspariCohn

T, N = 5, 4
RNG = np.random.default_rng(0)
STD = RNG.uniform(0.5, 2.0, size=(T, N))
F = np.tril(RNG.normal(size=(T, N, N)) / 4) + np.eye(N)
ONE_DENSE = Dense(jnp.asarray(F[0]))
STEPS = np.array([1, 2, 2, 4, 5])
VALUES = jnp.asarray(RNG.normal(size=(T, N)))


class Own(Covariance):
    """A user's class, with one standard deviation for each component, and no word about times."""

    std: jax.Array

    def whiten(self, x):
        return x / self.std.reshape((1,) * (x.ndim - self.std.ndim) + self.std.shape)

    def masked(self, mask):
        std = self.std.reshape((1,) * (mask.ndim - self.std.ndim) + self.std.shape)
        return Own(jnp.where(mask, std, 1.0))


class OwnRows(Own):
    """The same, whose array has a row for each time."""

    def rows(self, x, take, otherwise=lambda array: array):
        return OwnRows(take(self.std))


def diagonals(std):
    return np.stack([np.diag(row) for row in np.broadcast_to(std, (T, N)) ** 2])


def full(factor):
    return np.broadcast_to(factor @ np.swapaxes(factor, -1, -2), (T, N, N))


ERRORS = {  # R, its matrix at each time, whether it is known to be uncorrelated
    "number": (Diagonal(0.7), diagonals(0.7), True),
    "field": (Diagonal(STD[0]), diagonals(STD[0]), True),
    "one row": (Diagonal(STD[:1]), diagonals(STD[:1]), True),
    "times": (Diagonal(STD), diagonals(STD), True),
    "a number for each time": (Diagonal(STD[:, :1]), diagonals(STD[:, :1]), True),
    "scaled times": (2.0 * (1.5 * Diagonal(STD)), 3 * diagonals(STD), True),
    "sum": (Diagonal(STD[1]) + 2.0 * Diagonal(STD), diagonals(STD[1]) + 2 * diagonals(STD), True),
    "dense": (ONE_DENSE, full(F[0]), False),
    "dense times": (Dense(jnp.asarray(F)), full(F), False),
    "scaled dense times": (0.5 * Dense(jnp.asarray(F)), full(F) / 2, False),
    "Kronecker": (Kronecker(Diagonal(STD[0])), diagonals(STD[0]), True),
    "own": (Own(jnp.asarray(STD[0])), diagonals(STD[0]), False),
    "own rows": (OwnRows(jnp.asarray(STD)), diagonals(STD), False),
}
sweep = pytest.mark.parametrize("name", ERRORS)
MASK = RNG.uniform(size=(T, N)) < 0.8
Z = RNG.normal(size=(T, N))


def record(name, **options):
    return da.Observations(VALUES, STEPS, error=ERRORS[name][0], mask=MASK, **options)


def squares(matrices, departures, mask):
    """Sum of d^T R^(-1) d over the observed components, by matrices."""
    total = 0.0
    for R, d, m in zip(matrices, departures, mask, strict=True):
        total += d[m] @ np.linalg.solve(R[np.ix_(m, m)], d[m])
    return total


def norm(stream, states):
    return float(jnp.sum(jnp.square(stream.innovation(states))))


@sweep
def test_rows_are_those_of_the_matrix(name):
    R, matrices, uncorrelated = ERRORS[name]
    stream = record(name)
    assert R.uncorrelated is uncorrelated
    expected = squares(matrices, VALUES - Z, MASK)
    np.testing.assert_allclose(norm(stream, jnp.asarray(Z)), expected, rtol=1e-12)

    taken = np.array([3, 0])
    rows = R.rows(VALUES, lambda array: jnp.asarray(array)[taken])
    part = da.Observations(VALUES[taken], STEPS[taken], error=rows, mask=MASK[taken])
    expected = squares(matrices[taken], (VALUES - Z)[taken], MASK[taken])
    np.testing.assert_allclose(norm(part, jnp.asarray(Z[taken])), expected, rtol=1e-12)


@sweep
def test_windows_times_and_padding_are_those_of_the_matrix(name):
    matrices, stream = ERRORS[name][1], record(name)
    by_time = {int(step): squares(*(part[step == STEPS] for part in (matrices, VALUES, MASK))) for step in STEPS}

    windows = da.split_windows(stream, 3, 2)
    for window, steps in enumerate(([1, 2], [4, 5])):
        one = jax.tree.map(lambda leaf, w=window: leaf[w], windows)
        zeros = jnp.zeros(one.values.shape)
        np.testing.assert_allclose(norm(one, zeros), sum(by_time[s] for s in steps), rtol=1e-12)

    times = da.cycling.analysis_times(stream)
    for k, expected in enumerate(by_time.values()):
        (one,) = times.observations(*jax.tree.map(lambda leaf, k=k: leaf[k], (times.rows, times.real)))
        np.testing.assert_allclose(norm(one, jnp.zeros(one.values.shape)), expected, rtol=1e-12)

    padded = da.pad_observations(stream, times=7)
    np.testing.assert_allclose(norm(padded, jnp.zeros((7, N))), sum(by_time.values()), rtol=1e-12)


@sweep
def test_columns_are_padded_where_errors_are_uncorrelated(name):
    R, matrices, uncorrelated = ERRORS[name]
    places = jnp.broadcast_to(jnp.arange(float(N))[:, None], (T, N, 1))
    stream = da.Observations(VALUES, STEPS, da.observations.Interpolate(), R, mask=MASK, where=places)
    if not uncorrelated:
        with pytest.raises(da.ConfigurationError, match="known to be uncorrelated"):
            da.pad_observations(stream, places=6)
        return
    padded = da.pad_observations(stream, places=6)
    assert padded.values.shape == (8, 6)
    np.testing.assert_allclose(norm(padded, jnp.zeros((8, N))), squares(matrices, VALUES, MASK), rtol=1e-12)


@sweep
def test_variance_is_the_diagonal_of_the_matrix(name):
    R, matrices, _ = ERRORS[name]
    if name.startswith("own"):
        R = Diagonal(R.std)  # whose class has no products
    np.testing.assert_allclose(R.variance(VALUES), np.diagonal(matrices, axis1=1, axis2=2), rtol=1e-12)


ENSEMBLE = jnp.asarray(np.random.default_rng(1).normal(size=(20, N)))
STILL = da.models.FunctionModel(lambda x, t: x)


def kalman(matrices):
    """Mean and covariance of the ensemble after the analyses of all rows, by matrices."""
    mean, P = np.mean(ENSEMBLE, axis=0), np.cov(np.asarray(ENSEMBLE).T)
    for R, y, m in zip(matrices, np.asarray(VALUES), MASK, strict=True):
        H = np.eye(N)[m]
        K = P @ H.T @ np.linalg.inv(H @ P @ H.T + R[np.ix_(m, m)])
        mean, P = mean + K @ (y[m] - mean[m]), (np.eye(N) - K @ H) @ P
    return mean, P


def late(names):
    return [name if name.startswith("scaled") else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", late(ERRORS))
def test_cycle_is_the_kalman_filter_of_the_matrices(name):
    mean, P = kalman(ERRORS[name][1])
    found, _ = da.cycle(da.ETKF(), STILL, ENSEMBLE, record(name))
    np.testing.assert_allclose(np.mean(found, axis=0), mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.cov(np.asarray(found).T), P, rtol=0, atol=1e-10)


@pytest.mark.slow
@sweep
def test_windows_are_the_kalman_filter_of_the_matrices(name):
    mean, _ = kalman(ERRORS[name][1])
    start, B = jnp.mean(ENSEMBLE, axis=0), Dense.from_matrix(np.cov(np.asarray(ENSEMBLE).T))
    solution = da.minimize(da.StrongConstraint4DVar(STILL, start, B, record(name)), da.GaussNewton(1e-12))
    np.testing.assert_allclose(solution.state, mean, rtol=0, atol=1e-8)


@pytest.mark.slow
@sweep
def test_local_filters_take_what_is_uncorrelated(name):
    mean, _ = kalman(ERRORS[name][1])
    local = da.LETKF(localization=GaspariCohn(1e7), grid=da.grids.Grid(periodic=False))
    if ERRORS[name][2]:
        found, _ = da.cycle(local, STILL, ENSEMBLE, record(name))
        np.testing.assert_allclose(np.mean(found, axis=0), mean, rtol=0, atol=1e-10)
    else:
        with pytest.raises(da.ConfigurationError, match="needs uncorrelated observation errors"):
            da.cycle(local, STILL, ENSEMBLE, record(name))


def test_blocks_are_cut_part_by_part():
    values = {"a": VALUES, "b": VALUES[:, 0]}
    R = Blocks({"a": 2.0 * Dense(jnp.asarray(F)), "b": 3.0 * Diagonal(STD[:, 0])})
    assert not R.uncorrelated and Blocks({"a": 2.0 * Diagonal(STD), "b": Diagonal(1.0)}).uncorrelated
    windows = da.split_windows(da.Observations(values, STEPS, error=0.5 * R), 3, 2)
    one = jax.tree.map(lambda leaf: leaf[1], windows)
    found = one.innovation(jax.tree.map(jnp.zeros_like, one.values))
    expected = squares(full(F)[3:], VALUES[3:], np.ones((2, N), bool))
    expected += np.sum((np.asarray(VALUES)[3:, 0] / STD[3:, 0]) ** 2 / 1.5)
    total = sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(found))
    np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_one_std_is_a_row_for_one_part_and_a_field_for_another():
    square = {"a": VALUES[:4, 0], "b": VALUES[:4]}
    R = Diagonal(STD[0]).rows(square, lambda array: array[np.array([2, 1])])
    np.testing.assert_array_equal(R.std["a"], STD[0, [2, 1]])
    np.testing.assert_array_equal(R.std["b"], STD[0])


NAN = np.array([1.0, np.nan])


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (Diagonal(STD[:4]), da.ShapeError, "row for each of 4 times, but the observations have 5"),
        (2.0 * Diagonal(STD[:4]), da.ShapeError, "row for each of 4 times"),
        (Diagonal(1.0) + Diagonal(STD[:4]), da.ShapeError, "row for each of 4 times"),
        (Dense(jnp.asarray(F[:4])), da.ShapeError, r"\(4, 4, 4\) has 4 rows, but there are 5 observation times"),
        (0.5 * Dense(jnp.asarray(F[:4])), da.ShapeError, "has 4 rows"),
        (Kronecker(Diagonal(STD)), da.ShapeError, "does not broadcast"),
        (OwnRows(jnp.asarray(STD[:4])), da.ShapeError, "has 4 rows, but there are 5 observation times"),
        (Own(jnp.asarray(STD)), da.AssimilationError, r"Own has no rows. whiten .*define rows"),
        (0.0 * Diagonal(1.0), da.ConfigurationError, "times 0 leaves observations without error"),
        (Dense(jnp.diag(jnp.array([1.0, 0.0, 1.0, 1.0]))), da.ConfigurationError, "Dense is singular"),
        (Zero(), da.AssimilationError, "no masked. A component without error"),
        (Gaussian(1.0, 1.0, da.grids.Grid()), da.AssimilationError, "Observations.error: Gaussian has no masked"),
        (LowRank(np.ones((1, 4)), Diagonal(1.0)), da.AssimilationError, "Observations.error: LowRank has no masked"),
        (Diagonal(1.0) + ONE_DENSE, da.AssimilationError, "Observations.error: Sum has no masked"),
        (0.5, da.ConfigurationError, "error must be a covariance, found float"),
        (Diagonal(np.where(np.arange(4) == 1, np.nan, 1.0)), da.DataError, r"error of 5 observed value.*\(0, 1\)"),
    ],
)
def test_errors_that_no_observation_can_have_are_named(error, kind, message):
    with pytest.raises(kind, match=message):
        da.Observations(VALUES, STEPS, error=error)
    stream = da.Observations(VALUES, STEPS, error=Diagonal(1.0))
    with pytest.raises(kind, match=message):
        stream.replace(error=error)


@pytest.mark.parametrize("wrap", [lambda R: R, lambda R: 2.0 * R, lambda R: R + R, lambda R: 0.5 * (R + R)])
def test_a_missing_value_needs_no_error(wrap):
    y = jnp.array([[1.0, jnp.nan]])
    stream = da.Observations(y, [0], error=wrap(Diagonal(NAN)))

    def score(factor):
        return jnp.sum(jnp.square(stream.replace(error=factor * wrap(Diagonal(NAN))).innovation(jnp.zeros((1, 2)))))

    value, slope = jax.value_and_grad(score)(1.0)
    np.testing.assert_allclose(slope, -value, rtol=1e-12)
    with pytest.raises(da.DataError, match="error of 1 observed value"):
        stream.replace(values=jnp.ones((1, 2)), mask=None)
    windows = da.split_windows(da.Observations(y, [0], error=Diagonal(NAN[None])), 1, 2)
    with pytest.raises(da.DataError, match="error of 1 observed value"):
        windows.replace(mask=True)
    with pytest.raises(da.ConfigurationError, match="only an observation that is missing needs no error"):
        da.ThreeDVar(jnp.zeros(2), Diagonal(NAN), stream)


def test_a_background_has_no_rows_for_times():
    y = da.Observations(VALUES, STEPS, error=Diagonal(1.0))
    for B in (Diagonal(STD), Dense(jnp.asarray(F)), Gaussian(STD, 1.0, da.grids.Grid())):
        with pytest.raises(da.ShapeError, match="B"):
            da.StrongConstraint4DVar(da.models.Lorenz96(), jnp.zeros(N), B, y)


def test_a_factor_that_is_none_is_named():
    for factor, message in (
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "lower triangular"),
        (np.diag([1.0, -1.0]), "not negative"),
        (jnp.linalg.cholesky(jnp.array([[1.0, 2.0], [2.0, 1.0]])), "not positive definite"),
    ):
        with pytest.raises(da.ConfigurationError, match=message):
            Dense(factor)
