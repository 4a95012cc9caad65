"""A Gaussian belief: a mean, and a square root of the covariance."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ShapeError
from diffassim.core.linalg import covariance_rows, safe_sqrt
from diffassim.core.pytree import Pytree

__all__ = ["Gaussian", "covariance_columns"]


class Gaussian(Pytree):
    r"""\(N(\bar x, P)\) with \(P = \sum_j \ell_j \ell_j^\top\).

    Build it with `from_covariance` or `from_samples`. Fewer columns than state components are a covariance of low rank.

    Args:
        mean: state, a pytree of arrays.
        columns: the \(\ell_j\), a pytree like the state with a leading axis of columns.

    Example:
        >>> Gaussian(jnp.zeros(2), jnp.array([[3.0, 4.0]])).covariance().tolist()
        [[9.0, 12.0], [12.0, 16.0]]
    """

    mean: Any
    columns: Any

    @classmethod
    def from_covariance(cls, mean: Any, P: Any) -> Gaussian:
        """Build it from a mean and a covariance, with as many columns as the state has components.

        Args:
            mean: state, a pytree of arrays with n components in total.
            P: covariance from `diffassim.covariances` (`Dense.from_matrix` of a matrix); it may be singular.

        Returns:
            The belief.

        Raises:
            ShapeError: if P does not fit the mean.

        Example:
            >>> import diffassim as da
            >>> Gaussian.from_covariance(jnp.zeros(2), da.covariances.Diagonal(std=2.0)).columns.tolist()
            [[2.0, 0.0], [0.0, 2.0]]
        """
        mean = jax.tree.map(jnp.asarray, mean)
        P.check("Gaussian.from_covariance", mean)
        return cls(mean, _square(covariance_columns(P, mean), mean))

    @classmethod
    def from_samples(cls, samples: Any) -> Gaussian:
        """Build it from the sample mean and covariance of many states, for instance of a climatology.

        Args:
            samples: states, a pytree with a leading sample axis, at least two.

        Returns:
            The belief, with as many columns as the state has components.

        Raises:
            ShapeError: if there are fewer than two samples.

        Example:
            >>> Gaussian.from_samples(jnp.array([[1.0], [3.0], [5.0]])).columns.tolist()
            [[2.0]]
        """
        samples = jax.tree.map(jnp.asarray, samples)
        counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(samples)}
        if len(counts) != 1 or min(counts) < 2:
            raise ShapeError(
                "Gaussian.from_samples: every leaf needs the same leading axis of at least two samples, found shapes "
                f"{tree.describe_shapes(samples)}"
            )
        scale = (counts.pop() - 1) ** -0.5
        mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), samples)
        columns = jax.tree.map(lambda leaf, m: (leaf - m[None]) * scale, samples, mean)
        return cls(mean, _square(columns, mean))

    def covariance(self) -> Float[Array, "n n"]:
        """Return P as a matrix, components in the order of the flattened state."""
        rows = tree.flat_rows(self.columns)
        return rows.T @ rows

    def spread(self) -> Any:
        """Return the standard deviation of every component, with derivative zero where it is zero."""
        return jax.tree.map(lambda leaf: safe_sqrt(jnp.sum(jnp.square(leaf), axis=0)), self.columns)

    def total_spread(self) -> Float[Array, ""]:
        """Return the root of the variance averaged over all components of the state."""
        return tree.norm(self.columns) / tree.size(self.mean) ** 0.5


def covariance_columns(P: Any, x: Any) -> Any:
    """Return columns of a square root of a covariance, as states like `x` with a leading axis."""
    v, as_control = ravel_pytree(P.control_like(x))
    if v.size == 0:  # no error at all
        return jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape), leaf.dtype), x)
    return jax.vmap(lambda unit: P.sqrt(as_control(unit)))(jnp.eye(v.size, dtype=v.dtype))


def _square(columns: Any, x: Any) -> Any:
    rows, n = tree.flat_rows(columns), tree.size(x)
    return columns if rows.shape[0] == n else tree.state_rows(covariance_rows(rows.T @ rows), x)
