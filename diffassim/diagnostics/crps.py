"""The continuous ranked probability score, differentiable, for scores and for training."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.errors import ShapeError

__all__ = ["crps", "normal_crps", "weighted_crps"]


def crps(members: Float[Array, N * shape], value: Float[Array, "*shape"], fair: bool = True) -> Float[Array, "*shape"]:
    r"""Return the continuous ranked probability score of an ensemble for each value.

    .. math::
        \frac1N \sum_i |x_i - y| - \frac{1}{2 N (N - 1)} \sum_{i, j} |x_i - x_j|

    The fair score estimates, without bias, that of the distribution the members are drawn from, so that ensembles of
    different size compare; as a loss it does not reward members for being too close to each other. The double sum is
    taken over sorted members, in N log N operations.

    Args:
        members: ensemble, member axis first, in the unit of the values.
        value: what they are verified against; NaN is missing and scores NaN, and `jnp.nanmean` of the scores has a
            sound gradient.
        fair: False divides the second term by N^2 instead: the score of the ensemble as a distribution of N points.

    Returns:
        Score of each value, in their unit; less is better.

    Raises:
        ShapeError: if the shapes do not fit, or a fair score is asked of a single member.

    Example:
        >>> crps(jnp.array([[1.0], [3.0]]), jnp.array([2.0])).tolist()
        [0.0]
        >>> crps(jnp.array([[1.0], [3.0]]), jnp.array([2.0]), fair=False).tolist()
        [0.5]

    Source: Gneiting and Raftery (2007), equation 21; fair version of Ferro (2014), equation 8.
    """
    members, value = jnp.asarray(members), jnp.asarray(value)
    if members.shape[1:] != value.shape or members.ndim == 0:
        raise ShapeError(f"crps: members of shape {members.shape} do not fit values of shape {value.shape}")
    N = members.shape[0]
    pairs = N * (N - 1) if fair else N * N
    if pairs == 0:
        raise ShapeError(f"crps: found {N} member(s), but a fair score needs at least two")
    known = jnp.isfinite(value)
    centered = members - jnp.where(known, value, 0)[None]
    ranks = (2 * jnp.arange(N) - (N - 1)).astype(members.dtype).reshape((N,) + (1,) * value.ndim)
    score = jnp.mean(jnp.abs(centered), axis=0) - jnp.sum(ranks * jnp.sort(centered, axis=0), axis=0) / pairs
    return jnp.where(known, score, jnp.nan)


def normal_crps(mean: Any, std: Any, value: Any) -> Any:
    r"""Return the score of a normal distribution, \(\sigma (z (2 \Phi(z) - 1) + 2 \varphi(z) - \pi^{-1/2})\).

    Args:
        mean: of the distribution.
        std: its standard deviation; 0 scores the absolute error.
        value: what it is verified against.

    Example:
        >>> round(float(normal_crps(jnp.asarray(0.0), jnp.asarray(1.0), jnp.asarray(0.0))), 4)
        0.2337

    Source: Gneiting et al. (2005), equation 5.
    """
    sure = std <= 0
    safe = jnp.where(sure, 1, std)
    z = (value - mean) / safe
    density = jnp.exp(-(z**2) / 2) / (2 * jnp.pi) ** 0.5
    score = safe * (z * lax.erf(z / 2**0.5) + 2 * density - jnp.pi**-0.5)
    return jnp.where(sure, jnp.abs(value - mean), score)


def weighted_crps(members: Float[Array, N * shape], weights: Float[Array, " N"], value: Any) -> Any:
    r"""Return \(\sum_i w_i |x_i - y| - \tfrac12 \sum_{i, j} w_i w_j |x_i - x_j|\) for every component.

    Args:
        members: leading axis N.
        weights: of sum one, shape (N,).
        value: shape of a member.

    Example:
        >>> x, w = jnp.asarray([[1.0], [3.0]]), jnp.asarray([0.5, 0.5])
        >>> weighted_crps(x, w, jnp.asarray([2.0])).tolist()
        [0.5]
    """
    order = jnp.argsort(members, axis=0)
    sorted_members = jnp.take_along_axis(members, order, axis=0) - value[None]
    w = weights[order]
    until = jnp.cumsum(w, axis=0)
    return jnp.sum(w * (jnp.abs(sorted_members) - sorted_members * (2 * until - w - 1)), axis=0)
