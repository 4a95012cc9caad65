"""One-dimensional implicit diffusion: symmetric tridiagonal operators, with or without periodic corners."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.pytree import Pytree, static

__all__ = ["DiffusionMatrix", "inverse_power_diagonal", "power"]


class DiffusionMatrix(Pytree):
    r"""\(A = I - \nabla \cdot \kappa \nabla\) on n cells, acting on the leading axis of an array of columns.

    \(A_{i,i+1} = -\kappa_{i+1/2}\), rows sum to one: symmetric, positive definite, with eigenvalues of at least one.

    Args:
        faces: \(\kappa_{i+1/2}\) in units of the squared spacing, shape (n,). The last one joins the last cell to the
            first; it must be zero on a bounded axis.
        periodic: whether the last face counts (static); at least three cells are needed then.
    """

    faces: Float[Array, " n"]
    periodic: bool = static()

    def multiply(self, x: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """Return A x."""
        flux = self.faces[:, None] * (jnp.roll(x, -1, axis=0) - x)
        return x - flux + jnp.roll(flux, 1, axis=0)

    def solve(self, b: Float[Array, "n m"]) -> Float[Array, "n m"]:
        """Return A^(-1) b by elimination; periodic corners are a rank-one change (Sherman and Morrison, 1950)."""
        if b.shape[0] == 1:
            return b
        if not self.periodic:
            return lax.linalg.tridiagonal_solve(*self._bounded(), b)
        jump = self._jump(b.dtype)
        y = lax.linalg.tridiagonal_solve(*self._bounded(), jnp.concatenate([b, jump[:, None]], axis=1))
        y, z = y[:, :-1], y[:, -1]
        c = self.faces[-1]
        return y - z[:, None] * (c * (jump @ y) / (1 + c * (jump @ z)))[None, :]

    def logdet(self) -> Float[Array, ""]:
        """Return log det A from the pivots of the elimination."""
        if self.faces.shape[0] == 1:
            return jnp.zeros((), self.faces.dtype)
        lower, diagonal, upper = self._bounded()

        def eliminate(pivot: Any, entries: Any) -> tuple[Any, Any]:
            off, on = entries
            pivot = on - off * off / pivot
            return pivot, pivot

        _, pivots = lax.scan(eliminate, jnp.ones((), diagonal.dtype), (lower, diagonal))
        result = jnp.sum(jnp.log(pivots))
        if self.periodic:
            jump = self._jump(diagonal.dtype)
            z = lax.linalg.tridiagonal_solve(lower, diagonal, upper, jump[:, None])[:, 0]
            result = result + jnp.log1p(self.faces[-1] * (jump @ z))
        return result

    # With c the last face and w = e_1 - e_n, A = T + c w w^T: T is the matrix of the bounded axis, also with
    # eigenvalues of at least one, and the denominator 1 + c w^T T^(-1) w is never small.
    def _bounded(self) -> tuple[Array, Array, Array]:
        faces = self.faces.at[-1].set(0)
        before = jnp.roll(faces, 1)
        return -before, 1 + before + faces, -faces

    def _jump(self, dtype: Any) -> Array:
        return jnp.zeros(self.faces.shape, dtype).at[0].set(1).at[-1].set(-1)


def power(A: DiffusionMatrix, x: Float[Array, "n m"], exponent: int) -> Float[Array, "n m"]:
    """Return A^exponent x for an integer exponent (static)."""
    step = A.multiply if exponent > 0 else A.solve
    return lax.scan(lambda y, _: (step(y), None), x, None, length=abs(exponent))[0]


def inverse_power_diagonal(A: DiffusionMatrix, half_exponent: int, chunk: int = 256) -> Float[Array, " n"]:
    """Return the diagonal of A^(-2 half_exponent), the squared norms of the columns of A^(-half_exponent).

    Exact, in O(n^2) time; columns are made in chunks, so memory stays O(n chunk).
    """
    n = A.faces.shape[0]
    chunks = -(-n // chunk)
    width = -(-n // chunks)

    def squared_norms(first: Any) -> Array:
        columns = (jnp.arange(n)[:, None] == first + jnp.arange(width)[None, :]).astype(A.faces.dtype)
        return jnp.sum(jnp.square(power(A, columns, -half_exponent)), axis=0)

    norms = lax.map(jax.checkpoint(squared_norms), width * jnp.arange(chunks))
    return norms.reshape(-1)[:n]
