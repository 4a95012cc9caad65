"""Every ensemble method: add a line, and all sweeps over ensemble methods test it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffassim as da
from diffassim.core.pytree import Pytree
from diffassim.ensemble import (
    AdditiveInflation,
    Inflations,
    PosteriorInflation,
    PriorInflation,
    RelaxToPriorPerturbations,
    RelaxToPriorSpread,
)


class Entry(NamedTuple):
    """A method, and what holds for it."""

    name: str
    method: Any
    kalman: bool = False  # posterior mean and covariance are the Kalman filter's for a linear H
    single: float = 2e-5  # how far a result in single precision may be from that in double
    joint: bool = False  # what is not observed weighs in the update of what is


CORRELATION = da.covariances.Gaussian(1.0, 1.2, da.grids.Grid())
METHODS = [
    Entry("ETKF", da.ETKF(), kalman=True),
    Entry("ETKF, rotated", da.ETKF(inflation=1.1, rotation=True)),
    Entry("EnKF", da.EnKF()),
    Entry("EnSRF", da.EnSRF(), kalman=True),
    Entry("second-order exact EnKF", da.ensemble.SecondOrderExactEnKF(), single=1e-4, joint=True),
    Entry("DEnKF", da.DEnKF()),
    Entry("EnKF-N", da.EnKFN()),
    Entry("LETKF", da.LETKF(localization=da.ensemble.GaspariCohn(1.2))),
    Entry("LETKF-N", da.ensemble.LETKFN(localization=da.ensemble.GaspariCohn(1.2))),
    Entry("EAKF", da.ensemble.EAKF(localization=da.ensemble.GaspariCohn(1.2))),
    Entry("serial EnKF", da.ensemble.SerialEnKF(localization=da.ensemble.GaspariCohn(1.2))),
    Entry("rank histogram", da.ensemble.RankHistogramFilter(localization=da.ensemble.GaspariCohn(1.2))),
    # A root of variances that are nearly zero, where few members have weight: half of the digits.
    Entry("NETF", da.ensemble.NETF(), single=1e-3),
    Entry("LNETF", da.ensemble.LNETF(localization=da.ensemble.GaspariCohn(1.2)), single=1e-3),
    Entry("LETPF", da.ensemble.LETPF(localization=da.ensemble.GaspariCohn(1.2))),
    Entry("EnFF", da.ensemble.EnFF(steps=6, iterations=8)),
    Entry("EnFF, localized", da.ensemble.EnFF(steps=6, iterations=8, localization=CORRELATION)),
    Entry("EnFF, tapered", da.ensemble.EnFF(steps=6, iterations=8, localization=da.ensemble.GaspariCohn(1.2))),
    Entry("EnSF", da.ensemble.EnSF(steps=6, iterations=8), joint=True),
    Entry("local EnKF", da.ensemble.LocalEnKF(localization=da.ensemble.GaspariCohn(1.2))),
]
FAR_REACHING = da.ensemble.LocalIEnKS(
    tolerance=1e-9, localization=da.ensemble.GaspariCohn(1e8), places=jnp.zeros((2, 1))
)
WINDOW_METHODS = [
    Entry("IEnKS", da.IEnKS(tolerance=1e-9), kalman=True),
    Entry("IEnKS, bundle", da.IEnKS(tolerance=1e-9, bundle=1e-4), kalman=True),
    Entry(
        "IEnKS, finite size, rotated", da.IEnKS(1.1, rotation=True, tolerance=1e-9, max_iterations=40, finite_size=1.0)
    ),
    Entry("4D-ETKF", da.AsynchronousFilter(da.ETKF()), kalman=True),
    Entry("local IEnKS", FAR_REACHING, kalman=True),
]
# Every inflation, with the cheapest method.
INFLATIONS = [
    PriorInflation(1.1),
    PosteriorInflation(1.1),
    RelaxToPriorSpread(0.4),
    RelaxToPriorPerturbations(0.4),
    AdditiveInflation(da.covariances.Diagonal(std=0.4)),
    Inflations((RelaxToPriorSpread(0.4), 1.1, AdditiveInflation(da.covariances.Diagonal(std=0.4)))),
]
KEY = jax.random.key(5)
N, SITES = 6, 8


class Column(Pytree):
    """A state object of two parts."""

    wind: Any
    humidity: Any


def ensemble(seed=0, members=N, sites=SITES, dtype=float):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(members, sites)) + 1.0, dtype)


def values(seed=1, rows=1, sites=SITES, dtype=float):
    return np.random.default_rng(seed).normal(size=(rows, sites)).astype(dtype)


def observed(y, std=0.8, **options):
    steps = np.zeros(y.shape[0], int)
    return da.Observations(y, steps, error=da.covariances.Diagonal(std=std), **options)
