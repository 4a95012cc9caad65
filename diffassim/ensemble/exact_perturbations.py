"""The stochastic ensemble Kalman filter whose perturbations have exact second moments."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

from diffassim.ensemble.base import EnsembleMethod
from diffassim.methods.departures import Departures
from diffassim.methods.members import anomalies, transformed

__all__ = ["SecondOrderExactEnKF"]

ITERATIONS = 3  # of inverse iteration: directions of twice the least variance have an eighth of its weight


class SecondOrderExactEnKF(EnsembleMethod):
    r"""Serial stochastic filter without sampling errors: perturbations that are orthogonal to all anomalies.

    The `EnKF` of finite size has a covariance that is off by the sample moments of its perturbations. Here one
    direction v among the members, that of (nearly) the least variance, is taken out of the anomalies X; then
    \(\varepsilon = \pm\sqrt{N - 1}\, v\) has zero mean, unit variance, and no correlation with any of them. For one
    whitened value with anomalies s (N,) and innovation \(\delta\),

    .. math::
        \bar x \leftarrow \bar x + \frac{X^\top s\, \delta}{N - 1 + |s|^2},\qquad
        X \leftarrow X + \frac{(\varepsilon - s)\, s^\top X}{N - 1 + |s|^2},\qquad
        v \leftarrow \frac{\varepsilon - s}{\sqrt{N - 1 + |s|^2}}

    where the last rule gives a unit vector that is orthogonal to the new anomalies again. Mean and covariance are the
    Kalman filter's for the prior without that direction: exactly, where the state has fewer components than N - 2. The
    signs are drawn, and so is where the search for the direction starts. That search compares variances of all parts
    of the state: give these units in which that makes sense. Correlated R is whitened first. Derivatives
    hold for fixed draws (the key).

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, mean and covariance unchanged (static).

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = jnp.array([[-1.5], [-0.5], [0.5], [1.5]]) * (3 / 5) ** 0.5  # variance 1
        >>> ensemble, _ = SecondOrderExactEnKF().analyze(jax.random.key(0), ensemble, y)
        >>> round(float(ensemble.mean()), 4), round(float(ensemble.var(ddof=1)), 4)
        (1.5, 0.5)

    Source: Hoteit, Pham, Gharamti and Luo (2015), section 3.
    """

    @property
    def random(self) -> bool:
        """Whether the analysis draws random numbers: always."""
        return True

    def update(self, key: Any, ensemble: Any, departures: Departures, streams: tuple[Any, ...]) -> Any:
        """Return the posterior ensemble, before inflation and rotation."""
        S, d = departures.S, departures.d
        N, count = S.shape
        if count == 0:
            return ensemble
        start, signs = jax.random.split(key)
        v = _least_direction(start, ensemble, S.dtype)

        def take(carry: Any, j: Any) -> tuple[Any, None]:
            w, T, v = carry  # mean = prior mean + w X_f, anomalies = T X_f
            s = T @ S[:, j]
            noise = jax.random.rademacher(jax.random.fold_in(signs, j), (), S.dtype) * v * (N - 1) ** 0.5
            total = N - 1 + jnp.vdot(s, s)
            direction = s @ T / total
            w = w + (d[j] - jnp.vdot(w, S[:, j])) * direction
            return (w, T + jnp.outer(noise - s, direction), (noise - s) / jnp.sqrt(total)), None

        carry = (jnp.zeros(N, S.dtype), jnp.eye(N, dtype=S.dtype) - jnp.outer(v, v), v)
        (w, T, _), _ = lax.scan(take, carry, jnp.arange(count))
        return transformed(ensemble, w[None] + T)


def _least_direction(key: Any, ensemble: Any, dtype: Any) -> Float[Array, " N"]:
    """Return a unit vector over the members, orthogonal to one, along which the states vary little.

    It is near the least singular vector; where several members could be spared, it is a random one of these directions.
    """
    flat = [leaf.reshape(leaf.shape[0], -1).astype(dtype) for leaf in jax.tree.leaves(anomalies(ensemble))]
    G = sum(X @ X.T for X in flat)
    N, total = G.shape[0], jnp.trace(G)
    floor = float(jnp.finfo(dtype).eps) ** 0.5  # what lies below is as good as no variance
    factor = jnp.linalg.cholesky(G / jnp.where(total > 0, total, 1) + floor * jnp.eye(N, dtype=dtype)), True
    v = jax.random.normal(key, (N,), dtype)
    for _ in range(ITERATIONS):
        v = v - jnp.mean(v)
        v = cho_solve(factor, v / jnp.sqrt(jnp.vdot(v, v)))
    v = v - jnp.mean(v)
    return v / jnp.sqrt(jnp.vdot(v, v))
