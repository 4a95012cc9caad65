"""How likely are the observations of one time, given what was forecast?"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from diffassim.core.layout import Layout
from diffassim.core.linalg import gram_cholesky, gram_factor, gram_rows
from diffassim.covariances import NotAvailableError

__all__ = ["chi_square", "gram_log_ratio", "innovation_log_ratio", "log_density", "mixture_log_ratio"]

# The density of the observations is that of their errors at zero, which knows R and what was observed, times a ratio
# that knows whitened departures only, which are zero where nothing was observed.


def log_density(ratio: Float[Array, ""], streams: tuple[Any, ...]) -> Float[Array, ""]:
    r"""Return the log density of the observed values, \(-\tfrac12 (\log\det R + m \log 2\pi)\) plus a log ratio.

    Args:
        ratio: of the density to that of errors of zero, from one of the functions below.
        streams: the observations, a tuple of `Observations`.

    Returns:
        A number; NaN where R does not know its determinant, or with a robust loss, whose density is not normalized.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[2.0, jnp.nan]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> log_density(jnp.zeros(()), (y,)).round(4).item()
        -0.9189
    """
    for stream in streams:
        try:
            if stream.loss is not None:
                raise NotAvailableError("the density of a robust loss is known up to a factor")
            logdet = stream.error.masked(stream.mask).logdet(stream.values)
        except NotAvailableError:
            logdet = jnp.full((), jnp.nan)
        observed = stream.count().astype(ratio.dtype)
        ratio = ratio - 0.5 * (logdet.astype(ratio.dtype) + observed * math.log(2 * math.pi))
    return ratio


def innovation_log_ratio(
    S: Float[Array, "N m"], d: Float[Array, " m"], layout: Layout | None = None
) -> Float[Array, ""]:
    r"""Return the log density of innovations under \(N(0, I + S^\top S / (N - 1))\), relative to errors of zero.

    .. math:: -\tfrac12 d^\top C^{-1} d - \tfrac12 \log\det C,\qquad C = I + S^\top S / (N - 1)

    Args:
        S: whitened observed anomalies, shape (N, m).
        d: whitened mean innovation, shape (m,).
        layout: how the ensemble lies on several devices, each of which then takes a part of the observations (static).

    Example:
        >>> innovation_log_ratio(jnp.array([[1.0], [-1.0]]), jnp.array([2.0])).round(4).item()  # variance 1 + 2
        -1.216
    """
    V = S * (S.shape[0] - 1) ** -0.5
    if V.shape[1] < V.shape[0]:
        L = gram_factor(V.T)
        half = solve_triangular(L, d, lower=True)
        return -0.5 * jnp.vdot(half, half) - jnp.sum(jnp.log(jnp.diagonal(L)))
    if layout is not None:
        return layout.together(partial(_ratio_of_parts, 1 / layout.devices), V, d)  # type: ignore[no-any-return]
    L, half = gram_cholesky(V, d)
    return gram_log_ratio(V, d, L, half)


def _ratio_of_parts(share: float, names: tuple[str, ...], V: Any, d: Any) -> Any:
    """Return the log ratio, found by several devices, each of which has some columns."""
    R, z, rest = gram_rows(V, d, share)
    rows, right = (lax.all_gather(part, names, tiled=True) for part in (R, z))
    Q, R = jnp.linalg.qr(rows)
    left = right - rows @ solve_triangular(R, right @ Q)
    logdet = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(R))))
    return -0.5 * (jnp.vdot(left, left) + lax.psum(rest, names)) - logdet


def gram_log_ratio(
    V: Float[Array, "k m"], d: Float[Array, " m"], L: Float[Array, "k k"], half: Float[Array, " k"]
) -> Float[Array, ""]:
    r"""Return the same for \(C = I + V^\top V\), given \(L L^\top = I + V V^\top\) and \(L^{-1} V d\).

    The analysis w minimizes \(|d - V^\top w|^2 + |w|^2\), and the minimum is \(d^\top C^{-1} d\): a sum that loses no
    digits to cancellation, unlike the difference of \(|d|^2\) and what is explained.
    """
    w = solve_triangular(L, half, lower=True, trans=1)
    rest = d - w @ V
    return -0.5 * (jnp.vdot(rest, rest) + jnp.vdot(w, w)) - jnp.sum(jnp.log(jnp.diagonal(L)))


def mixture_log_ratio(S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, ""]:
    r"""Return \(\log \frac1N \sum_i \exp(-\tfrac12 |d - S_i|^2)\): every member with its observation error.

    Args:
        S: whitened observed anomalies, shape (N, m).
        d: whitened mean innovation, shape (m,).

    Example:
        >>> mixture_log_ratio(jnp.array([[1.0], [-1.0]]), jnp.array([2.0])).round(4).item()
        -1.175
    """
    return jax.nn.logsumexp(-0.5 * jnp.sum(jnp.square(d[None] - S), axis=1)) - math.log(S.shape[0])


def chi_square(d: Float[Array, " m"], variance: Any, count: Any) -> Float[Array, ""]:
    r"""Return \(\frac1m \sum_j d_j^2 / v_j\) over the m observed values, 0 without any.

    Args:
        d: whitened innovation, zero where nothing was observed, shape (m,).
        variance: its expected variance v, shape (m,).
        count: m.
    """
    return jnp.sum(jnp.square(d) / variance) / jnp.maximum(count, 1).astype(d.dtype)
