"""Published scores of the classical filters on the Lorenz models, over five seeds."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.ensemble import GaspariCohn
from tests.published import assert_reached

SEEDS = 5


class Setup(NamedTuple):
    """A twin experiment: everything is observed, the truth and the members start from one distribution."""

    model: Any
    center: np.ndarray
    variance: float
    noise: float
    interval: int
    cycles: int
    burn_in: int


class Row(NamedTuple):
    """A configuration with its documented time-mean error of the analysis."""

    name: str
    setup: Setup
    method: Any
    members: int
    documented: float


# Sakov and Oke (2008) and Sakov, Oliver and Bertino (2012), table 1, as set up and documented in the example files of
# DAPPER (mods/Lorenz96/sakov2008.py, mods/Lorenz63/sakov2012.py, MIT license). Rotation after inflation.
L96 = Setup(da.models.Lorenz96(dt=0.05), np.eye(40)[0], 0.001, 1.0, 1, 4000, 400)
L63 = Setup(da.models.Lorenz63(dt=0.01), np.array([1.509, -1.531, 25.46]), 2.0, 2.0, 25, 2000, 64)
ROWS = [
    Row("L96 ETKF 20", L96, da.ETKF(1.04, rotation=True), 20, 0.20),
    Row("L96 ETKF 24", L96, da.ETKF(1.013, rotation=True), 24, 0.18),
    Row("L96 ETKF 28", L96, da.ETKF(1.02, rotation=True), 28, 0.18),
    Row("L96 EnSRF 28", L96, da.EnSRF(1.02, rotation=True), 28, 0.18),
    Row("L96 EnKF 28", L96, da.EnKF(1.08), 28, 0.24),
    Row("L96 EnKF 40", L96, da.EnKF(1.06), 40, 0.22),
    Row("L96 DEnKF 40", L96, da.DEnKF(1.01), 40, 0.18),
    Row("L96 LETKF 7", L96, da.LETKF(1.04, rotation=True, localization=GaspariCohn(4.0)), 7, 0.22),
    Row("L63 ETKF 3", L63, da.ETKF(1.3), 3, 0.82),
    Row("L63 ETKF 10", L63, da.ETKF(1.02, rotation=True), 10, 0.63),
    Row("L63 EnKF 10", L63, da.EnKF(1.04), 10, 0.65),
    Row("L63 EnKF 100", L63, da.EnKF(1.01), 100, 0.56),
]


def scores(row):
    """Return the time-mean error and spread of each seed, and the worst result code of its analyses."""
    setup, n = row.setup, row.setup.center.size
    at = setup.interval * np.arange(1, setup.cycles + 1)

    @jax.jit
    @jax.vmap
    def run(key):
        keys = jax.random.split(key, 4)
        draws = jax.random.normal(keys[0], (1 + row.members, n)) * setup.variance**0.5 + setup.center[None]
        truth = da.rollout(setup.model, draws[0], int(at[-1]), at=at)
        values = truth + setup.noise**0.5 * jax.random.normal(keys[1], truth.shape)
        obs = da.Observations(values, at, error=da.covariances.Diagonal(std=setup.noise**0.5))
        _, history = da.cycle(row.method, setup.model, draws[1:], obs, key=keys[2])
        error = jnp.sqrt(jnp.mean((history.analysis.mean - truth) ** 2, axis=1))
        kept = slice(setup.burn_in, None)
        return jnp.mean(error[kept]), jnp.mean(history.info.analysis_spread[kept]), jnp.max(history.info.result)

    return [np.asarray(found) for found in run(jax.random.split(jax.random.key(2024), SEEDS))]


def marked(row):
    # Inflation of 1.013 is just enough: one of these five seeds loses the truth, and the mean over all is .41.
    loses = pytest.mark.xfail(strict=True, reason="one of five seeds loses the truth", raises=AssertionError)
    return pytest.param(row, id=row.name, marks=[loses] if row.name == "L96 ETKF 24" else [])


@pytest.mark.slow
@pytest.mark.parametrize("row", [marked(row) for row in ROWS])
def test_the_documented_score_is_reached(row):
    error, _, result = scores(row)
    assert np.all(result == da.Result.CONVERGED)
    assert_reached(error, row.documented)
