"""Shifted copies of a periodic field, fast in both directions on CPU."""

from __future__ import annotations

from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.linear import linear_map

__all__ = ["halo", "periodic_shifts"]


def halo(x: Float[Array, "... n"], offsets: tuple[int, ...]) -> tuple[Float[Array, "... n"], ...]:
    """Return x[..., i + o] for each offset o, with periodic indices: the plain function, without a derivative rule.

    One padded copy is made and then sliced; the barrier keeps the compiler from fusing the copy into every reader,
    which makes the forward step about three times faster than `jnp.roll`.
    """
    n = x.shape[-1]
    left, right = max(0, -min(offsets)), max(0, max(offsets))
    if max(left, right) > n:
        return tuple(jnp.roll(x, -o, axis=-1) for o in offsets)
    padded = lax.optimization_barrier(jnp.concatenate([x[..., n - left :], x, x[..., :right]], axis=-1))
    return tuple(lax.slice_in_dim(padded, left + o, left + o + n, axis=-1) for o in offsets)


def periodic_shifts(x: Float[Array, "... n"], *offsets: int) -> tuple[Float[Array, "... n"], ...]:
    r"""Return the fields \(x_{i + o}\) for each offset o along the last, periodic axis.

    The transpose gathers shifted copies instead of scattering into padded arrays, as the derived one would.

    Args:
        x: field, shape (..., n).
        *offsets: integers.

    Returns:
        One array for each offset, shaped like x.

    Example:
        >>> [y.tolist() for y in periodic_shifts(jnp.arange(3.0), 1, -1)]
        [[1.0, 2.0, 0.0], [2.0, 0.0, 1.0]]
    """

    def transpose(bars: tuple[Array, ...]) -> Array:
        first, *rest = (halo(bar, (-o,))[0] for bar, o in zip(bars, offsets, strict=True))
        for term in rest:
            first = first + term
        return first

    return linear_map(lambda x: halo(x, offsets), transpose, x)
