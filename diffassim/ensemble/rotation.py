"""Random rotations of an ensemble that keep its mean and covariance."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.methods.members import transformed

__all__ = ["mean_preserving_rotation", "rotated"]


def mean_preserving_rotation(key: jax.Array, N: int, dtype: Any = None) -> Float[Array, "N N"]:
    r"""Return a random orthogonal matrix with \(\Omega \mathbf 1 = \mathbf 1\), uniform among all such matrices.

    \(\Omega = P\, \mathrm{diag}(1, O)\, P\), with O uniform among the orthogonal matrices of order N - 1 and P the
    reflection that maps the first unit vector to \(\mathbf 1 / \sqrt N\).

    Args:
        key: random key.
        N: number of members.
        dtype: of the result.

    Returns:
        Shape (N, N).

    Example:
        >>> Omega = mean_preserving_rotation(jax.random.key(0), 4)
        >>> jnp.allclose(Omega @ jnp.ones(4), 1, atol=1e-5), jnp.allclose(Omega @ Omega.T, jnp.eye(4), atol=1e-5)
        (Array(True, dtype=bool), Array(True, dtype=bool))

    Source: Sakov and Oke (2008b), appendix; Stewart (1980) for the uniform O.
    """
    O = jax.random.orthogonal(key, N - 1, dtype=dtype)  # noqa: E741
    inner = jnp.zeros((N, N), O.dtype).at[0, 0].set(1).at[1:, 1:].set(O)
    u = jnp.full(N, -(N**-0.5), O.dtype).at[0].add(1)
    P = jnp.eye(N, dtype=O.dtype) - 2 * jnp.outer(u, u) / jnp.vdot(u, u)
    return P @ inner @ P


def rotated(key: jax.Array, ensemble: Any) -> Any:
    """Return the ensemble, any pytree with a leading member axis, under one random mean-preserving rotation."""
    leaf = jax.tree.leaves(ensemble)[0]
    return transformed(ensemble, mean_preserving_rotation(key, leaf.shape[0], leaf.dtype))
