"""Published scores of the Kalman filters and the static baselines on the Lorenz models, over five seeds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.kalman import Climatology, CycledThreeDVar, Gaussian, OptimalInterpolation
from tests.ensemble.test_literature import L63, L96, SEEDS
from tests.published import assert_reached


class Row(NamedTuple):
    """A configuration with its documented time-mean error of the analysis."""

    name: str
    setup: Any
    method: Any  # of the climatology
    documented: float


# Set up and documented in the example files of DAPPER (mods/Lorenz63/sakov2012.py, mods/Lorenz96/sakov2008.py and
# docs/examples/basic_2.py, MIT license). There the covariance of the extended filter grows by a factor per unit of
# time; here the columns grow by its root per cycle.
ROWS = [
    Row("L63 climatology", L63, Climatology, 7.6),
    Row("L63 optimal interpolation", L63, OptimalInterpolation, 1.25),
    Row("L63 3D-Var", L63, lambda climate: CycledThreeDVar(climate, scale=0.1), 1.03),
    Row("L63 EKF, 90", L63, lambda _: da.EKF(90 ** (0.25 / 2)), 0.87),
    Row("L63 EKF, 180", L63, lambda _: da.EKF(180 ** (0.25 / 2)), 0.92),
    Row("L96 climatology", L96, Climatology, 3.6),
    Row("L96 optimal interpolation", L96, OptimalInterpolation, 0.95),
    Row("L96 3D-Var", L96, lambda climate: CycledThreeDVar(climate, scale=0.02), 0.41),
    Row("L96 EKF, 6", L96, lambda _: da.EKF(6 ** (0.05 / 2)), 0.24),
    Row("L96 EKF, 10", L96, lambda _: da.EKF(10 ** (0.05 / 2)), 0.24),
]


def scores(row):
    """Return the time-mean error of each seed, that of the truth one interval before, and the worst result codes."""
    setup, n = row.setup, row.setup.center.size
    at = setup.interval * np.arange(setup.cycles + 1)

    @jax.jit
    @jax.vmap
    def run(key):
        keys = jax.random.split(key, 4)
        draws = jax.random.normal(keys[0], (2, n)) * setup.variance**0.5 + setup.center[None]
        truth = da.rollout(setup.model, draws[0], int(at[-1]), at=at)
        climate = Gaussian.from_samples(truth)  # as documented: the climatology is that of the truth
        values = truth[1:] + setup.noise**0.5 * jax.random.normal(keys[1], truth[1:].shape)
        obs = da.Observations(values, at[1:], error=da.covariances.Diagonal(std=setup.noise**0.5))
        start = Gaussian(setup.center + 0 * draws[1], setup.variance**0.5 * jnp.eye(n))
        _, history = da.cycle(row.method(climate), setup.model, start, obs)
        rms = lambda error: jnp.mean(jnp.sqrt(jnp.mean(error[setup.burn_in :] ** 2, axis=1)))  # noqa: E731
        return rms(history.analysis.mean - truth[1:]), rms(truth[1:] - truth[:-1]), jnp.max(history.info.result)

    return [np.asarray(found) for found in run(jax.random.split(jax.random.key(2024), SEEDS))]


def marked(row):
    # The score is documented for the tangent of an Euler step, which stretches the covariance more than the exact one.
    # The score documented for twice the inflation is reached with either.
    other = pytest.mark.xfail(strict=True, reason="documented for the tangent of an Euler step", raises=AssertionError)
    return pytest.param(row, id=row.name, marks=[other] if row.name == "L63 EKF, 90" else [])


@pytest.mark.slow
@pytest.mark.parametrize("row", [marked(row) for row in ROWS])
def test_the_documented_score_is_reached(row):
    error, persistence, result = scores(row)
    assert np.all(result == da.Result.CONVERGED)
    assert_reached(error, row.documented)
    if row.name == "L63 climatology":  # the score of persistence needs no method
        assert_reached(persistence, 10.7)


def two_scale_scores(method):
    """Return the time-mean error of all 264 variables of the two-scale model, of which the slow ones are observed."""
    interval, cycles, burn_in, std = 10, 1280, 120, 0.1**0.5
    model = da.models.TwoScaleLorenz96(forcing=20.0, dt=0.005)
    at = interval * np.arange(1, cycles + 1)

    @jax.jit
    @jax.vmap
    def run(key):
        keys = jax.random.split(key, 3)
        slow = 0.1 * jax.random.normal(keys[0], (8,)).at[0].add(10.0)
        x0 = da.models.TwoScaleState(slow, 0.1 * jax.random.normal(keys[1], (8, 32)))
        truth = da.rollout(model, x0, int(at[-1]), at=at)
        values = truth.slow + std * jax.random.normal(keys[2], truth.slow.shape)
        slow = da.observations.Field("slow")
        obs = da.Observations(values, at, slow, da.covariances.Diagonal(std=std))
        x_b = da.models.TwoScaleState(jnp.eye(8)[0], jnp.zeros((8, 32)))
        _, history = da.cycle(method(Gaussian.from_samples(truth)), model, x_b, obs)
        error = jax.tree.map(lambda a, b: jnp.sum((a - b).reshape(cycles, -1) ** 2, 1), history.analysis.mean, truth)
        return jnp.mean(jnp.sqrt((error.slow + error.fast) / 264)[burn_in:])

    return np.asarray(run(jax.random.split(jax.random.key(2024), SEEDS)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "documented"),
    [(Climatology, 0.93), (lambda climate: CycledThreeDVar(climate, scale=2.0), 0.39)],
    ids=["climatology", "3D-Var"],
)
def test_the_documented_score_of_the_two_scale_model_is_reached(method, documented):
    # As documented in mods/LorenzUV/wilks05.py of DAPPER.
    assert_reached(two_scale_scores(method), documented)
