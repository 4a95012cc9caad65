"""Every method that hands on a Gaussian: add a line, and all sweeps over them test it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

import diffassim as da
from diffassim.gaussian import Climatology, CycledThreeDVar, Gaussian, OptimalInterpolation

n = 6
ROOT = np.random.default_rng(4).normal(size=(n, n)) / n**0.5
CLIMATE = Gaussian(jnp.full(n, 0.5), jnp.asarray(1.5 * ROOT[::-1]))
NOISE = da.covariances.Diagonal(std=0.3)
METHODS = {
    "EKF": da.EKF(),
    "EKF with model error": da.EKF(inflation=1.1, Q=NOISE),
    "UKF": da.UKF(Q=NOISE),
    "UKF, narrow": da.UKF(alpha=0.01),
    "climatology": Climatology(CLIMATE),
    "optimal interpolation": OptimalInterpolation(CLIMATE),
    "3D-Var": CycledThreeDVar(CLIMATE, scale=0.5),
}


def belief(dtype=float, scale=1.0):
    return Gaussian(jnp.linspace(-1.0, 1.0, n, dtype=dtype), jnp.asarray(scale * ROOT, dtype))


def observed(y, **options):
    y = jnp.asarray(y)
    error = options.pop("error", da.covariances.Diagonal(std=0.8))
    return da.Observations(y, np.zeros(y.shape[0], int), error=error, **options)
