"""A filter whose forecast errors have one covariance at all times, while what is missing changes."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve, solve_triangular

from diffassim.core.pytree import Pytree
from diffassim.cycling import bucket_size

__all__ = ["StaticFilter"]


class StaticFilter(Pytree):
    r"""Cycled optimal interpolation in which a time costs what is missing, not what is observed.

    With the innovations' covariance S = B + R of all components, its inverse \(\Lambda\) computed once, and m the
    components that are missing at a time, the inverse for the others is

    .. math:: S_{oo}^{-1} = \Lambda_{oo} - \Lambda_{om} \Lambda_{mm}^{-1} \Lambda_{mo},\qquad
        \det S_{oo} = \det S\, \det \Lambda_{mm}

    so that a time costs products with \(\Lambda\) and one factorization of the size of m.

    Args:
        evolution: model of the state, shape (lag, component), the latest first; only the latest is observed.
        B: covariance of its errors in a step, shape (component, component).
        R: variances of the observations' errors, shape (component,).

    Source: Lorenc (1981) for the analysis; the inverse of a part: Horn and Johnson (2013), section 0.7.3.
    """

    evolution: Any
    B: Any
    R: Any

    def run(self, x: Any, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Filter a record.

        Args:
            x: state before the first forecast, shape (lag, component).
            values: NaN where missing, shape (time, component).

        Returns:
            Mean and standard deviation of the latest step after each analysis, shape (time, component), and the log
            density of what was observed at each time given the times before, shape (time,).
        """
        gaps = ~np.isfinite(values)
        most = min(bucket_size(int(gaps.sum(1).max())), values.shape[1])
        order = np.argsort(~gaps, axis=1, kind="stable")[:, :most]
        real = np.take_along_axis(gaps, order, axis=1)
        found = _run(self, jnp.asarray(x), jnp.asarray(np.where(gaps, 0.0, values)), order, real)
        return tuple(np.asarray(each) for each in found)  # type: ignore[return-value]


@jax.jit
def _run(method: StaticFilter, x: Any, values: Any, order: Any, real: Any) -> Any:
    B, count = method.B, values.shape[1]
    factor = cho_factor(B + jnp.diag(method.R), lower=True)
    inverse = cho_solve(factor, jnp.eye(count, dtype=B.dtype))
    gain = B @ inverse
    variance = jnp.diagonal(B) - jnp.sum(gain * B, axis=1)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(factor[0])))
    eye = jnp.eye(order.shape[1], dtype=B.dtype)

    def one(x: Any, now: Any) -> tuple[Any, Any]:
        y, missing, is_real = now
        x = method.evolution.step(x, 0)
        d = jnp.zeros(count, B.dtype).at[missing].add(jnp.where(is_real, 1.0, 0.0))
        d = jnp.where(d > 0, 0.0, y - x[0])
        u = inverse @ d
        both = is_real[:, None] & is_real[None]
        L = jnp.linalg.cholesky(jnp.where(both, inverse[missing][:, missing], eye))
        w = cho_solve((L, True), jnp.where(is_real, u[missing], 0.0))
        columns = jnp.where(is_real[None], gain[:, missing], 0.0)
        analysed = x[0] + B @ u - columns @ w  # zeros of u where missing are in the second product
        spread = variance + jnp.sum(solve_triangular(L, columns.T, lower=True) ** 2, axis=0)
        chi = d @ u - jnp.where(is_real, u[missing], 0.0) @ w
        seen = (count - jnp.sum(is_real)).astype(B.dtype)
        density = -0.5 * (chi + log_det + 2 * jnp.sum(jnp.log(jnp.diagonal(L))) + seen * math.log(2 * math.pi))
        return x.at[0].set(analysed), (analysed, jnp.sqrt(jnp.maximum(spread, 0)), density)

    return lax.scan(one, x, (values, order, real))[1]
