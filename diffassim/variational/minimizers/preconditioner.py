"""A limited-memory preconditioner from what conjugate gradients have seen of the Hessian."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree

__all__ = ["LimitedMemory"]


class LimitedMemory(Pytree):
    r"""Approximate inverse of the Hessian from pairs of directions \(d_i\) and their products \(y_i = H d_i\).

    .. math::
        P_i = (I - \tfrac{d_i y_i^\top}{d_i^\top y_i})\, P_{i-1}\, (I - \tfrac{y_i d_i^\top}{d_i^\top y_i})
              + \tfrac{d_i d_i^\top}{d_i^\top y_i}, \quad P_0 = I

    over the last pairs of conjugate gradients, which pass them by anyway: no product is made for it. With the
    conjugate directions of one run, P H has as many eigenvalues one as there are pairs, and the others lie between
    those of H. It is positive definite whichever Hessians the pairs come from, so that an outdated one can cost
    iterations but never the result.

    Args:
        directions: d_i, control vectors with a leading axis of size pairs; a ring, of which the oldest is overwritten.
        products: y_i, alike.
        curvatures: \(d_i^\top y_i > 0\), shape (pairs,); infinite where there is no pair yet.
        count: pairs recorded so far, with those that were overwritten.

    Example:
        >>> H = jnp.diag(jnp.array([4.0, 9.0, 1.0]))
        >>> P, one = LimitedMemory.empty(jnp.zeros(3), 2), jnp.eye(3)
        >>> for d in one[:2]:
        ...     P = P.record(d, H @ d, d @ H @ d)
        >>> (P.apply(jnp.array([4.0, 9.0, 1.0]))).tolist()
        [1.0, 1.0, 1.0]

    Source: Morales and Nocedal (2000); the quasi-Newton member of the family of Gratton, Sartenaer and Tshimanga
    (2011), section 4; product by the two loops of Nocedal and Wright (2006), algorithm 7.4.
    """

    directions: Any
    products: Any
    curvatures: Float[Array, " pairs"]
    count: Int[Array, ""]

    @classmethod
    def empty(cls, like: Any, pairs: int) -> LimitedMemory:
        """Return the identity, with room for a number of pairs of vectors like `like`.

        Raises:
            ConfigurationError: if there are more pairs than the vectors have components.
        """
        if pairs > tree.size(like):
            raise ConfigurationError(
                f"PrimalCG.pairs: {pairs} pairs are more than the control vector has components ({tree.size(like)})"
            )
        rows = jax.tree.map(lambda leaf: jnp.zeros((pairs, *leaf.shape), leaf.dtype), like)
        unused = jnp.full(pairs, jnp.inf, jnp.result_type(*jax.tree.leaves(like)))
        return cls(rows, rows, unused, jnp.asarray(0, jnp.int32))

    def record(
        self, direction: Any, product: Any, curvature: Float[Array, ""], when: Bool[Array, ""] | bool = True
    ) -> LimitedMemory:
        """Return it with one more pair, in the place of the oldest one; unchanged where `when` is false."""
        at = jnp.where(when, self.count % self.curvatures.shape[0], self.curvatures.shape[0])

        def put(rows: Any, row: Any) -> Any:
            return rows.at[at].set(row, mode="drop")

        return LimitedMemory(
            jax.tree.map(put, self.directions, direction),
            jax.tree.map(put, self.products, product),
            put(self.curvatures, curvature),
            self.count + jnp.asarray(when, jnp.int32),
        )

    def apply(self, x: Any) -> Any:
        """Return P x."""
        pairs = self.curvatures.shape[0]
        newest_first = (self.count - 1 - jnp.arange(pairs, dtype=jnp.int32)) % pairs

        def down(q: Any, i: Any) -> tuple[Any, Any]:
            d, y = (jax.tree.map(lambda rows: rows[i], part) for part in (self.directions, self.products))
            a = tree.dot(d, q) / self.curvatures[i]
            return tree.axpy(-a, y, q), a

        def up(q: Any, pair: Any) -> tuple[Any, None]:
            i, a = pair
            d, y = (jax.tree.map(lambda rows: rows[i], part) for part in (self.directions, self.products))
            return tree.axpy(a - tree.dot(y, q) / self.curvatures[i], d, q), None

        q, factors = lax.scan(down, x, newest_first)
        return lax.scan(up, q, (newest_first, factors), reverse=True)[0]
