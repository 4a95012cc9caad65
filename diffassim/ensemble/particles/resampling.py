"""Resampling: which particles are kept, and how often."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffassim.core.pytree import Pytree

__all__ = ["Multinomial", "Resampling", "Residual", "Stratified", "Systematic"]


class Resampling(Pytree):
    """Base of all resamplings: (key, weights, K) -> indices; particle i is drawn K w_i times on average."""

    def __call__(self, key: jax.Array, weights: Float[Array, " N"], count: int | None = None) -> Int[Array, " K"]:
        """Return the indices of the particles that are kept, in ascending order.

        Args:
            key: random key.
            weights: shape (N,), not negative, of sum one.
            count: how many are kept, K (static); default: N.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__(key, weights)")


class Systematic(Resampling):
    """One random number shifts N equidistant points: the least variance, in O(N).

    Example:
        >>> Systematic()(jax.random.key(0), jnp.array([0.5, 0.0, 0.25, 0.25])).tolist()
        [0, 0, 2, 3]

    Source: Kitagawa (1996), appendix A.
    """

    def __call__(self, key: jax.Array, weights: Float[Array, " N"], count: int | None = None) -> Int[Array, " K"]:
        """Return the indices of the particles that are kept."""
        K = weights.shape[0] if count is None else count
        return _indices((jnp.arange(K, dtype=weights.dtype) + jax.random.uniform(key, (), weights.dtype)) / K, weights)


class Stratified(Resampling):
    """One random number in each of N equal parts of the unit interval.

    Example:
        >>> Stratified()(jax.random.key(0), jnp.array([0.5, 0.0, 0.25, 0.25])).tolist()
        [0, 0, 2, 3]

    Source: Kitagawa (1996), appendix A.
    """

    def __call__(self, key: jax.Array, weights: Float[Array, " N"], count: int | None = None) -> Int[Array, " K"]:
        """Return the indices of the particles that are kept."""
        K = weights.shape[0] if count is None else count
        return _indices(
            (jnp.arange(K, dtype=weights.dtype) + jax.random.uniform(key, (K,), weights.dtype)) / K, weights
        )


class Multinomial(Resampling):
    """N independent draws.

    Example:
        >>> Multinomial()(jax.random.key(0), jnp.array([0.0, 1.0, 0.0])).tolist()
        [1, 1, 1]

    Source: Gordon, Salmond and Smith (1993).
    """

    def __call__(self, key: jax.Array, weights: Float[Array, " N"], count: int | None = None) -> Int[Array, " K"]:
        """Return the indices of the particles that are kept."""
        K = weights.shape[0] if count is None else count
        return _indices(jnp.sort(jax.random.uniform(key, (K,), weights.dtype)), weights)


class Residual(Resampling):
    r"""\(\lfloor N w_i \rfloor\) copies for certain, the rest by independent draws.

    Example:
        >>> Residual()(jax.random.key(0), jnp.array([0.5, 0.0, 0.25, 0.25])).tolist()
        [0, 0, 2, 3]

    Source: Liu and Chen (1998), section 3.
    """

    def __call__(self, key: jax.Array, weights: Float[Array, " N"], count: int | None = None) -> Int[Array, " K"]:
        """Return the indices of the particles that are kept."""
        N = weights.shape[0]
        K = N if count is None else count
        copies = jnp.floor(K * weights * (1 + 4 * jnp.finfo(weights.dtype).eps))  # K w just below an integer
        rest = jnp.maximum(K * weights - copies, 0)
        total = jnp.sum(rest)
        drawn = Multinomial()(key, jnp.where(total > 0, rest / jnp.where(total > 0, total, 1), weights), K)
        # A random order, so that the first ones that are needed are as good as any.
        drawn = jax.random.permutation(jax.random.fold_in(key, 1), drawn)
        ends = jnp.cumsum(copies.astype(jnp.int32))
        places = jnp.arange(K, dtype=jnp.int32)
        certain = jnp.searchsorted(ends, places, side="right").astype(jnp.int32)
        return jnp.sort(jnp.where(places < ends[-1], jnp.minimum(certain, N - 1), drawn))


def _indices(points: Any, weights: Any) -> Any:
    """Return for each point of [0, 1) the particle whose share of the unit interval it falls into."""
    ends = jnp.cumsum(weights)
    below_one = jnp.asarray(1 - jnp.finfo(weights.dtype).epsneg, weights.dtype)
    found = jnp.searchsorted(ends / ends[-1], jnp.minimum(points, below_one), side="right")
    return jnp.minimum(found, weights.shape[0] - 1).astype(jnp.int32)
