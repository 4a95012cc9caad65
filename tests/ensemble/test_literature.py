"""Published scores of the classical filters and smoothers on the Lorenz models, over five seeds."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffassim as da
from diffassim.core import tree
from diffassim.ensemble import GaspariCohn
from diffassim.models import TwoScaleState
from tests.published import assert_reached

SEEDS = 5


class Setup(NamedTuple):
    """A twin experiment: truth and members start from one distribution; `state` makes a state of a vector."""

    model: Any
    center: np.ndarray
    variance: float
    noise: float
    interval: int
    cycles: int
    burn_in: int
    operator: Any = da.observations.Identity()
    state: Any = staticmethod(lambda x: x)


class Row(NamedTuple):
    """A configuration with its documented time-mean error of the analysis, for a smoother that at the window's end."""

    name: str
    setup: Setup
    method: Any
    members: int
    documented: float
    lag: int = 0  # observation times in a window, which moves on by one
    rerun: float | None = None  # asked instead: score of the documenting program where it is above the documented one


# Sakov and Oke (2008) and Sakov, Oliver and Bertino (2012), table 1, as set up and documented in the example files of
# DAPPER (mods/Lorenz96/sakov2008.py, mods/Lorenz63/sakov2012.py, MIT license). Rotation after inflation.
L96 = Setup(da.models.Lorenz96(dt=0.05), np.eye(40)[0], 0.001, 1.0, 1, 4000, 400)
L96_1, L96_4, L96_8, L96_12 = (L96._replace(interval=k, cycles=400 // k + 800, burn_in=400 // k) for k in (1, 4, 8, 12))
L63 = Setup(da.models.Lorenz63(dt=0.01), np.array([1.509, -1.531, 25.46]), 2.0, 2.0, 25, 2000, 64)
UV = Setup(
    da.models.TwoScaleLorenz96(forcing=20.0, dt=0.005), np.eye(264)[0], 0.01, 0.1, 10, 1280, 120,
    da.observations.Field("slow"), lambda x: TwoScaleState(x[..., :8], x[..., 8:].reshape(*x.shape[:-1], 8, 32)),
)  # fmt: skip
# Bocquet (2010), figure 5: every second variable observed (mods/Lorenz96/bocquet2010_m40.py).
HALF = L96._replace(center=np.zeros(40), cycles=1280, noise=1.5, operator=da.observations.Subsample(every=2))
# Twenty iterations instead of ten, after which some of these long windows have not converged.
LONG = da.IEnKS(rotation=True, max_iterations=20, finite_size=2.0)
ROWS = [
    Row("L96 ETKF 20", L96, da.ETKF(1.04, rotation=True), 20, 0.20),
    Row("L96 ETKF 24", L96, da.ETKF(1.013, rotation=True), 24, 0.18),
    Row("L96 ETKF 28", L96, da.ETKF(1.02, rotation=True), 28, 0.18),
    Row("L96 EnSRF 28", L96, da.EnSRF(1.02, rotation=True), 28, 0.18),
    Row("L96 EnKF 28", L96, da.EnKF(1.08), 28, 0.24),
    Row("L96 EnKF 40", L96, da.EnKF(1.06), 40, 0.22),
    Row("L96 DEnKF 40", L96, da.DEnKF(1.01), 40, 0.18),
    Row("L96 LETKF 7", L96, da.LETKF(1.04, rotation=True, localization=GaspariCohn(4.0)), 7, 0.22),
    Row("L96 EAKF 7", L96, da.EAKF(1.07, rotation=True, localization=GaspariCohn(6.0)), 7, 0.23),
    Row("L96 serial EnKF 28", L96, da.ensemble.SerialEnKF(1.08), 28, 0.24),
    Row("L63 ETKF 3", L63, da.ETKF(1.3), 3, 0.82),
    Row("L63 ETKF 10", L63, da.ETKF(1.02, rotation=True), 10, 0.63),
    Row("L63 EnKF 10", L63, da.EnKF(1.04), 10, 0.65),
    Row("L63 EnKF 100", L63, da.EnKF(1.01), 100, 0.56),
    Row("L63 EnKF-N 3", L63, da.EnKFN(), 3, 0.60),
    Row("L63 EnKF-N 10", L63, da.EnKFN(rotation=True), 10, 0.54),
    Row("L96 EnKF-N 24", L96, da.EnKFN(rotation=True), 24, 0.21, rerun=0.217),
    Row("L96 EnKF-N 24 xN 2", L96, da.EnKFN(rotation=True, exponent=2.0), 24, 0.18),
    Row("L96 EnKF-N 20", L96, da.EnKFN(), 20, 0.24),
    Row("L96 EnKF-N 20 xN 2", L96, da.EnKFN(exponent=2.0), 20, 0.19),
    Row("L63 IEnKF 10", L63, da.IEnKS(1.02, rotation=True), 10, 0.31, lag=1),
    # With an inflation of 1.2 instead of finite size (documented .46) the mean over 12 seeds is .48, which is at the
    # edge of what is asked.
    Row("L96 dt .6 IEnKF-N 25", L96_12, LONG, 25, 0.46, lag=1, rerun=0.50),
    Row("L96 dt .2 IEnKS-N 20 lag 4", L96_4, da.IEnKS(finite_size=2.0), 20, 0.31, lag=4),
    Row("L96 dt .4 IEnKF-N 20", L96_8, da.IEnKS(finite_size=1.0), 20, 0.40, lag=1, rerun=0.412),
    Row("L96 IEnKF 40", L96_1, da.IEnKS(1.01, rotation=True), 40, 0.17, lag=1),
    Row("L96 IEnKS 40 lag 10", L96_1, da.IEnKS(1.01, rotation=True), 40, 0.17, lag=10),
    Row("L96 half EnKF-N 24", HALF, da.EnKFN(1.01, rotation=True), 24, 0.38),
    Row("L96 half IEnKS 19 lag 2", HALF, da.IEnKS(1.04), 19, 0.39, lag=2),
    Row("L96 half IEnKS-N 19 lag 2", HALF, da.IEnKS(finite_size=1.5), 19, 0.39, lag=2),
    Row("two-scale EnKF-N 20", UV, da.EnKFN(), 20, 0.27, rerun=0.291),
]


def scores(row):
    """Return the time-mean error and spread of each seed, and the worst result code of its analyses."""
    setup, n = row.setup, row.setup.center.size
    at = setup.interval * np.arange(1, setup.cycles + 1)

    def run(key):
        keys = jax.random.split(key, 4)
        draws = jax.random.normal(keys[0], (1 + row.members, n)) * setup.variance**0.5 + setup.center[None]
        truth = da.rollout(setup.model, setup.state(draws[0]), int(at[-1]), at=at)
        exact = jax.vmap(setup.operator)(truth)
        values = exact + setup.noise**0.5 * jax.random.normal(keys[1], exact.shape)
        R = da.covariances.Diagonal(std=setup.noise**0.5)
        obs = da.Observations(values, at, operator=setup.operator, error=R)
        ensemble, shift = setup.state(draws[1:]), setup.interval
        if row.lag:
            steps, count = row.lag * shift, setup.cycles - row.lag + 1
            windows = da.split_windows(obs, steps, count, shift=shift)
            _, history = da.cycle(
                row.method, setup.model, ensemble, windows, steps=steps, shift=shift, key=keys[2], at=[steps]
            )
            analysis = jax.tree.map(lambda leaf: leaf[:, 0], history.analysis.mean)
        else:
            _, history = da.cycle(row.method, setup.model, ensemble, obs, key=keys[2])
            analysis = history.analysis.mean
        truth = jax.tree.map(lambda leaf: leaf[max(row.lag - 1, 0) :], truth)
        error = jnp.sqrt(jnp.mean(tree.flat_rows(tree.subtract(analysis, truth)) ** 2, axis=1))
        kept = slice(setup.burn_in, None)
        return jnp.mean(error[kept]), jnp.mean(history.info.analysis_spread[kept]), jnp.max(history.info.result)

    # One after the other, a window's iterations end where it has converged; in a batch, where all have.
    together = functools.partial(jax.lax.map, run) if row.lag else jax.vmap(run)
    return [np.asarray(found) for found in jax.jit(together)(jax.random.split(jax.random.key(2024), SEEDS))]


MISSED = {
    # Inflation of 1.013 is just enough: one of these five seeds loses the truth, and the mean over all is .41.
    "L96 ETKF 24": "one of five seeds loses the truth",
    # The score of each seed is .245 to .255, as with 24 members (.217, documented .21) a little above.
    "L96 EnKF-N 20": "the mean is .251",
    # Documented for one short run, as "slightly unreliable"; the seeds scatter by .02. With error variances of 2.25
    # instead of 1.5, documented in the same way, this row and the next two have .61, .51 and .51 (.58, .46 and .45).
    "L96 half EnKF-N 24": "the mean is .482",
}


def marked(row):
    if row.name not in MISSED:
        return pytest.param(row, id=row.name)
    missed = pytest.mark.xfail(strict=True, reason=MISSED[row.name], raises=AssertionError)
    return pytest.param(row, id=row.name, marks=[missed])


@pytest.mark.slow
@pytest.mark.parametrize("row", [marked(row) for row in ROWS])
def test_the_documented_score_is_reached(row):
    error, _, result = scores(row)
    finished = [da.Result.CONVERGED, da.Result.MAX_ITERATIONS] if row.lag else [da.Result.CONVERGED]
    assert np.all(np.isin(result, finished))
    assert_reached(error, row.documented if row.rerun is None else row.rerun)
