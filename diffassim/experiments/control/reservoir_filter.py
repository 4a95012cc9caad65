"""Inflow as the sum of a fast and a slow component, told apart by a Kalman filter that never looks ahead."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffassim.core.pytree import Pytree
from diffassim.covariances import Diagonal
from diffassim.decisions.problems.linear_quadratic import LinearModel
from diffassim.gaussian import EKF, Gaussian
from diffassim.observations import Linear, Observations

__all__ = ["Components", "analyses"]

LAGS = 40  # days whose autocorrelation tells the components


class Components(Pytree):
    r"""Anomalies \(x = f + g + \epsilon\) with \(f' = \phi_f f + \eta_f\) and \(g' = \phi_g g + \eta_g\).

    Args:
        memory: phi of the fast and the slow component, shape (2,).
        variance: of the components, shape (2,).
        noise: variance of epsilon.
    """

    memory: Any
    variance: Any
    noise: Any

    @classmethod
    def fit(cls, x: np.ndarray) -> Components:
        """Take the components whose autocovariance is nearest to that of anomalies, shape (years, days)."""
        from scipy.optimize import curve_fit

        lags = np.arange(min(LAGS, x.shape[1] // 2))
        found = np.array([(x[:, k:] * x[:, : x.shape[1] - k]).mean() for k in lags])

        def model(k: Any, fast: Any, slow: Any, a: Any, b: Any) -> Any:
            return a * fast**k + b * slow**k

        start, total = (0.5, 0.95, 0.5 * found[0], 0.4 * found[0]), max(found[0], 1e-6)
        bounds = ([0.01, 0.85, 0.05 * total, 0.02 * total], [0.84, 0.995, 1.5 * total, 1.5 * total])
        start = tuple(np.clip(start, *bounds))
        fast, slow, a, b = curve_fit(model, lags[1:], found[1:], start, bounds=bounds)[0]
        return cls(np.array([fast, slow]), np.array([a, b]), max(found[0] - a - b, 0.02 * total))


def analyses(components: Components, x: np.ndarray) -> np.ndarray:
    """Return the components after each day's inflow is known, shape (years, days, 2).

    Args:
        components: `Components`.
        x: anomalies of inflow, shape (years, days).
    """
    dtype = jnp.result_type(float)
    own = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), components)
    return np.asarray(_analyses(own, jnp.asarray(x, dtype)), float)


@jax.jit
def _analyses(components: Components, x: Any) -> Any:
    memory, variance = components.memory, components.variance
    model = LinearModel(jnp.diag(memory))
    method = EKF(Q=Diagonal.from_variance(variance * (1 - memory**2)))
    operator = Linear(jnp.ones((1, 2), x.dtype))
    error = Diagonal.from_variance(jnp.reshape(components.noise, 1))
    # before the first day: the climate, one step earlier
    start = method.init(Gaussian.from_covariance(jnp.zeros(2, x.dtype), Diagonal.from_variance(variance)))
    key = jax.random.key(0)  # the filter draws nothing

    def day(belief: Any, value: Any) -> Any:
        prior = method.forecast(key, partial(model.step, t=0), belief)
        seen = Observations(value[None, None], jnp.zeros(1, jnp.int32), operator=operator, error=error)
        posterior, _ = method.analyze(key, prior, seen)
        return posterior, posterior.mean

    return jax.vmap(lambda row: lax.scan(day, start, row)[1])(x)
