"""Krylov methods on pytrees that hand back what they learned about the operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from diffassim.core import tree
from diffassim.core.results import Result

__all__ = ["KrylovSolution", "Lanczos", "conjugate_gradients", "lanczos"]


class KrylovSolution(NamedTuple):
    """What conjugate gradients return.

    `alphas` and `betas` (NaN after the last iteration) define the Lanczos tridiagonal matrix, see `tridiagonal`.
    """

    solution: Any
    residual_norm: Float[Array, ""]
    iterations: Int[Array, ""]
    alphas: Float[Array, " k"]
    betas: Float[Array, " k"]
    result: Int[Array, ""]

    def tridiagonal(self) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        r"""Return diagonal and off-diagonal of the Lanczos matrix (NaN beyond the iterations made).

        \(T_{jj} = 1/\alpha_j + \beta_{j-1}/\alpha_{j-1}\), \(T_{j,j+1} = \sqrt{\beta_j}/\alpha_j\)
        (Golub and Van Loan, 2013, section 11.3); its eigenvalues are Ritz values of the (preconditioned) operator.
        """
        previous = jnp.concatenate([jnp.zeros(1, self.alphas.dtype), self.betas[:-1] / self.alphas[:-1]])
        return 1 / self.alphas + previous, jnp.sqrt(self.betas) / self.alphas


class _State(NamedTuple):
    x: Any
    r: Any
    d: Any
    rz: Any
    norm: Any
    k: Any
    alphas: Any
    betas: Any
    result: Any


def conjugate_gradients(
    operator: Callable[[Any], Any],
    b: Any,
    *,
    preconditioner: Callable[[Any], Any] | None = None,
    rtol: float = 1e-6,
    atol: float = 0.0,
    max_iterations: int = 100,
) -> KrylovSolution:
    r"""Solve A x = b for a symmetric positive definite operator on pytrees.

    Args:
        operator: x -> A x.
        b: right-hand side.
        preconditioner: r -> P r with P symmetric positive definite, close to the inverse of A.
        rtol: stop when |r| <= rtol |b| ...
        atol: ... or |r| <= atol.
        max_iterations: limit on products with A (static).

    Returns:
        `KrylovSolution`; `result` is CONVERGED, MAX_ITERATIONS, or LINEAR_SOLVE where a direction of non-positive
        curvature or a value that is not finite appeared (the solution is then the last sound one).

    Example:
        >>> found = conjugate_gradients(lambda x: 4 * x, jnp.ones(3))
        >>> found.solution.tolist(), int(found.iterations)
        ([0.25, 0.25, 0.25], 1)

    Source: Hestenes and Stiefel (1952); Nocedal and Wright (2006), algorithm 5.3.
    """
    precondition = (lambda r: r) if preconditioner is None else preconditioner
    z = precondition(b)
    norm_b = tree.norm(b)
    target = jnp.maximum(jnp.asarray(rtol, norm_b.dtype) * norm_b, jnp.asarray(atol, norm_b.dtype))
    empty = jnp.full(max_iterations, jnp.nan, norm_b.dtype)
    running, zero = jnp.asarray(Result.MAX_ITERATIONS, jnp.int32), jnp.asarray(0, jnp.int32)
    done = jnp.where(norm_b <= target, jnp.asarray(Result.CONVERGED, jnp.int32), running)
    start = _State(tree.zeros_like(b), b, z, tree.dot(b, z), norm_b, zero, empty, empty, done)

    def go_on(s: _State) -> Any:
        return (s.result == Result.MAX_ITERATIONS) & (s.k < max_iterations)

    def body(s: _State) -> _State:
        Ad = operator(s.d)
        curvature = tree.dot(s.d, Ad)
        sound = (curvature > 0) & jnp.isfinite(curvature)
        alpha = jnp.where(sound, s.rz / jnp.where(sound, curvature, 1), 0)
        x, r = tree.axpy(alpha, s.d, s.x), tree.axpy(-alpha, Ad, s.r)
        z = precondition(r)
        rz, norm = tree.dot(r, z), tree.norm(r)
        sound = sound & jnp.isfinite(rz)
        beta = rz / s.rz
        code = jnp.where(sound, jnp.where(norm <= target, Result.CONVERGED, Result.MAX_ITERATIONS), Result.LINEAR_SOLVE)
        return _State(
            x=tree.select(sound, x, s.x),
            r=tree.select(sound, r, s.r),
            d=tree.axpy(beta, s.d, z),
            rz=rz,
            norm=jnp.where(sound, norm, s.norm),
            k=s.k + 1,
            alphas=s.alphas.at[s.k].set(alpha),
            betas=s.betas.at[s.k].set(beta),
            result=code.astype(jnp.int32),
        )

    end = lax.while_loop(go_on, body, start)
    return KrylovSolution(end.x, end.norm, end.k, end.alphas, end.betas, end.result)


class Lanczos(NamedTuple):
    """Lanczos factorization A V ~ V T: diagonal and off-diagonal of T, and the basis V with a leading axis."""

    diagonal: Float[Array, " k"]
    off_diagonal: Float[Array, " k"]
    basis: Any

    def ritz(self) -> tuple[Float[Array, " k"], Any]:
        """Return the Ritz values in ascending order, and the Ritz vectors with a leading axis."""
        k = self.diagonal.shape[0]
        off = self.off_diagonal[:-1]
        T = jnp.diag(self.diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1) if k > 1 else self.diagonal[:, None]
        values, vectors = jnp.linalg.eigh(T)
        return values, jax.tree.map(lambda v: jnp.einsum("k...,kj->j...", v, vectors), self.basis)


def lanczos(operator: Callable[[Any], Any], start: Any, steps: int) -> Lanczos:
    """Run Lanczos with full reorthogonalization.

    Args:
        operator: x -> A x, symmetric.
        start: starting vector, a pytree, not zero.
        steps: dimension of the Krylov space (static), at most the dimension of the space.

    Returns:
        `Lanczos`. Where the Krylov space is exhausted early, the remaining basis vectors and entries are zero.

    Example:
        >>> A = jnp.diag(jnp.array([1.0, 2.0, 3.0]))
        >>> lanczos(lambda x: A @ x, jnp.ones(3), 3).ritz()[0].round(6).tolist()
        [1.0, 2.0, 3.0]

    Source: Golub and Van Loan (2013), algorithm 10.1.1, reorthogonalized twice.
    """
    norm = tree.norm(start)
    basis = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), start)
    unit = tree.scale(1 / norm, start)

    def orthogonalize(w: Any, basis: Any) -> Any:
        coefficients = jax.tree.leaves(
            jax.tree.map(lambda v, leaf: jnp.tensordot(v, leaf, leaf.ndim), basis, w)
        )
        total = sum(coefficients[1:], coefficients[0])
        return jax.tree.map(lambda leaf, v: leaf - jnp.tensordot(total, v, 1), w, basis)

    def body(carry: Any, k: Any) -> Any:
        v, basis = carry
        basis = jax.tree.map(lambda b, leaf: b.at[k].set(leaf), basis, v)
        w = operator(v)
        alpha = tree.dot(v, w)
        w = orthogonalize(orthogonalize(w, basis), basis)
        beta = tree.norm(w)
        negligible = beta <= 1e2 * jnp.finfo(beta.dtype).eps * jnp.abs(alpha)
        following = tree.scale(jnp.where(negligible, 0, 1 / jnp.where(negligible, 1, beta)), w)
        return (following, basis), (alpha, jnp.where(negligible, 0, beta))

    (_, basis), (diagonal, off_diagonal) = lax.scan(body, (unit, basis), jnp.arange(steps))
    return Lanczos(diagonal, off_diagonal, basis)
