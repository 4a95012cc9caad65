"""The rank histogram filter."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import log_ndtr, ndtri
from jaxtyping import Array, Float

from diffassim.core.linalg import safe_sqrt
from diffassim.ensemble.local.serial import SerialFilter

__all__ = ["RankHistogramFilter"]


class RankHistogramFilter(SerialFilter):
    r"""Serial filter whose prior of an observed value has any shape: equal mass between neighboring members.

    The sorted values \(h_1 \le \dots \le h_N\) part the line into N + 1 intervals of mass 1 / (N + 1), of constant
    density inside and of Gaussian density, with the sample's variance, beyond the first and the last member. This prior
    times the likelihood, linear between the members and Gaussian in the tails, is the posterior; its quantiles
    k / (N + 1) are the new values, in the order of the old ones. Their increments are regressed on the state, with
    covariances that a taper localizes.

    Where prior and likelihood are Gaussian and the ensemble is large, it is the `EAKF`. With few members it loses more
    spread (on Lorenz-96, 20 keep to the truth and 7 do not). Ties are intervals without width. Derivatives hold for the
    order that the members have; where two of them change places the update jumps.

    Args:
        inflation, rotation, localization, grid, places: as for `LocalizedMethod`; without a taper it is global.

    Raises:
        ConfigurationError: (analysis) with localization, if places are not known or R is correlated.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[5.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> two_groups = jnp.array([[-5.2], [-5.0], [-4.8], [4.8], [5.0], [5.2]])
        >>> ensemble, _ = RankHistogramFilter().analyze(None, two_groups, y)
        >>> [round(h, 1) for h in ensemble.ravel().tolist()]  # all but one are left in that group
        [3.8, 4.9, 4.9, 5.0, 5.1, 5.2]

    Source: Anderson (2010), with quadratic quantiles inside and the Gaussian likelihood in the tails.
    """

    def response(self, key: Any, s: Float[Array, " N"], d: Float[Array, ""]) -> Float[Array, " N"]:
        """Return the increments of the members over their variance."""
        order = jnp.argsort(s)
        x = s[order]
        variance = jnp.vdot(s, s) / (s.shape[0] - 1)
        flat = variance <= jnp.finfo(s.dtype).tiny ** 0.5
        spread = safe_sqrt(jnp.where(flat, 1, variance))
        increments = jnp.zeros_like(s).at[order].set(_quantiles(x, d, spread) - x)
        # Without any spread there is no shape: the shift of a Gaussian.
        return jnp.where(flat, (d - s) / (1 + variance), increments / jnp.where(flat, 1, variance))


def _quantiles(x: Any, y: Any, spread: Any) -> Any:
    """Return the quantiles k / (N + 1) of the posterior, for sorted values x and y observed with unit variance."""
    N = x.shape[0]
    log_likelihood = -0.5 * (x - y) ** 2
    # The upper tail is the lower one of the mirror image.
    tails = _tails(jnp.stack([x[0], -x[-1]]), jnp.stack([y, -y]), spread, N)
    top = lax.stop_gradient(jnp.maximum(jnp.max(log_likelihood), jnp.max(tails[0])))
    L, outside = jnp.exp(log_likelihood - top), jnp.exp(tails[0] - top)
    inside = (L[:-1] + L[1:]) / 2
    ends = jnp.cumsum(jnp.concatenate([outside[:1], inside, outside[1:]]))
    wanted = ends[-1] * jnp.arange(1, N + 1, dtype=x.dtype) / (N + 1)
    found = jnp.searchsorted(lax.stop_gradient(ends), lax.stop_gradient(wanted))
    # Inside, the density is linear: the share p of an interval's mass is reached at the fraction f of its width.
    k = jnp.clip(found - 1, 0, N - 2)
    left, right, width = L[k], L[k + 1], x[k + 1] - x[k]
    here = inside[k] > 0
    p = jnp.clip((wanted - ends[k]) / jnp.where(here, inside[k], 1), 0, 1)
    root = safe_sqrt(left**2 + (right**2 - left**2) * p)
    bottom = jnp.where(here & (left + root > 0), left + root, 1)
    between = x[k] + width * p * (left + right) / bottom
    below, above = _tail_quantiles(jnp.stack([wanted, ends[-1] - wanted]), tails, top)
    return jnp.where(found == 0, below, jnp.where(found >= N, -above, between))


def _tails(x: Any, y: Any, spread: Any, N: int) -> Any:
    """Return log mass, log amplitude, mean and spread of the posterior below x, the lowest member.

    All masses are in units of 1 / (N + 1).
    """
    center = x - spread * NormalDist().inv_cdf(1 / (N + 1))  # of the Gaussian with mass 1 / (N + 1) below x
    variance = spread**2
    own = spread / jnp.sqrt(1 + variance)
    mean = (center + variance * y) / (1 + variance)
    amplitude = math.log(N + 1) - 0.5 * jnp.log1p(variance) - 0.5 * (y - center) ** 2 / (1 + variance)
    return amplitude + log_ndtr((x - mean) / own), amplitude, mean, own


def _tail_quantiles(mass: Any, tails: Any, top: Any) -> Any:
    """Return the places below which the tails have the given masses, shape (2, N)."""
    _, amplitude, mean, own = tails
    tiny = jnp.finfo(mass.dtype).tiny
    share = jnp.exp(jnp.log(jnp.maximum(mass, tiny)) + (top - amplitude)[:, None])
    return mean[:, None] + own * ndtri(jnp.clip(share, tiny, 1 - jnp.finfo(mass.dtype).epsneg))
