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

    Histories have the static length k = `max_iterations` (`residual_norms`: k + 1, entry 0 is |b|) and hold NaN after
    the last iteration. `alphas` and `betas` define the Lanczos tridiagonal matrix, see `tridiagonal`.
    """

    solution: Any
    residual_norms: Float[Array, " k+1"]
    iterations: Int[Array, ""]
    alphas: Float[Array, " k"]
    betas: Float[Array, " k"]
    result: Int[Array, ""]

    @property
    def residual_norm(self) -> Float[Array, ""]:
        """Norm of the residual that belongs to `solution`, as the recurrence knows it."""
        return self.residual_norms[self.iterations]

    def tridiagonal(self) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        r"""Return diagonal and off-diagonal of the Lanczos matrix (NaN beyond the iterations made).

        \(T_{jj} = 1/\alpha_j + \beta_{j-1}/\alpha_{j-1}\), \(T_{j,j+1} = \sqrt{\beta_j}/\alpha_j\) (Golub and Van Loan,
        2013, section 11.3). The last off-diagonal couples to the next, not computed, vector.
        """
        previous = jnp.concatenate([jnp.zeros(1, self.alphas.dtype), self.betas[:-1] / self.alphas[:-1]])
        return 1 / self.alphas + previous, jnp.sqrt(self.betas) / self.alphas

    def ritz_values(self) -> Float[Array, " k"]:
        """Return the Ritz values, ascending, then NaN: estimates of the (preconditioned) operator's eigenvalues.

        Without reorthogonalization, outer eigenvalues may appear more than once.
        """
        diagonal, off_diagonal = self.tridiagonal()
        k = diagonal.shape[0]
        made = jnp.arange(k, dtype=jnp.int32) < self.iterations
        coupled = jnp.arange(1, k + 1, dtype=jnp.int32) < self.iterations
        off_diagonal = jnp.where(coupled, off_diagonal, 0)[:-1]
        # Rows that were not computed get an eigenvalue above all others (Gershgorin) and are cut off after sorting.
        bound = 3 * jnp.max(jnp.where(made, jnp.abs(diagonal), 0)) + 1
        diagonal = jnp.where(made, diagonal, bound)
        values = jnp.linalg.eigvalsh(_tridiagonal_matrix(diagonal, off_diagonal))
        return jnp.where(made, values, jnp.nan)


class _State(NamedTuple):
    x: Any
    r: Any
    d: Any
    rz: Any
    k: Any
    norms: Any
    alphas: Any
    betas: Any
    result: Any


def conjugate_gradients(
    operator: Callable[[Any], Any],
    b: Any,
    *,
    preconditioner: Callable[[Any], Any] | None = None,
    rtol: Any = 1e-6,
    atol: Any = 0.0,
    max_iterations: int = 100,
) -> KrylovSolution:
    r"""Solve A x = b for a symmetric positive definite operator on pytrees.

    Args:
        operator: x -> A x.
        b: right-hand side, a pytree of floating-point arrays.
        preconditioner: r -> P r with P symmetric positive definite, close to the inverse of A.
        rtol: stop when |r| <= rtol |b| ...
        atol: ... or |r| <= atol.
        max_iterations: limit on products with A (static).

    Returns:
        `KrylovSolution`; `result` is CONVERGED, MAX_ITERATIONS, or LINEAR_SOLVE where a direction of non-positive
        curvature (of A or P) or a value that is not finite appeared; the solution is then the last sound one, and
        `iterations` does not count the step that failed.

    Example:
        >>> found = conjugate_gradients(lambda x: 4 * x, jnp.ones(3))
        >>> found.solution.tolist(), int(found.iterations)
        ([0.25, 0.25, 0.25], 1)

    Source: Hestenes and Stiefel (1952); Nocedal and Wright (2006), algorithm 5.3.
    """
    precondition = (lambda r: r) if preconditioner is None else preconditioner
    norm_b = tree.norm(b)
    dtype = norm_b.dtype
    target = jnp.maximum(jnp.asarray(rtol, dtype) * norm_b, jnp.asarray(atol, dtype))
    z = precondition(b)
    rz = tree.dot(b, z)
    code = jnp.where(norm_b <= target, Result.CONVERGED, jnp.where(_positive(rz), Result.MAX_ITERATIONS, _FAILED))
    start = _State(
        x=tree.zeros_like(b), r=b, d=z, rz=rz, k=jnp.asarray(0, jnp.int32),
        norms=jnp.full(max_iterations + 1, jnp.nan, dtype).at[0].set(norm_b),
        alphas=jnp.full(max_iterations, jnp.nan, dtype), betas=jnp.full(max_iterations, jnp.nan, dtype),
        result=code.astype(jnp.int32),
    )  # fmt: skip

    def go_on(s: _State) -> Any:
        return (s.result == Result.MAX_ITERATIONS) & (s.k < max_iterations)

    def body(s: _State) -> _State:
        Ad = operator(s.d)
        curvature = tree.dot(s.d, Ad)
        sound = _positive(curvature)
        alpha = s.rz / jnp.where(sound, curvature, 1)
        x, r = tree.axpy(alpha, s.d, s.x), tree.axpy(-alpha, Ad, s.r)
        norm = tree.norm(r)
        sound = sound & jnp.isfinite(norm) & jnp.isfinite(alpha)
        converged = sound & (norm <= target)
        z = precondition(r)
        rz = tree.dot(r, z)
        beta = rz / s.rz
        # The step just made stands even where the preconditioner fails for the next one.
        code = jnp.where(converged, Result.CONVERGED, jnp.where(sound & _positive(rz), Result.MAX_ITERATIONS, _FAILED))
        return _State(
            x=tree.select(sound, x, s.x),
            r=tree.select(sound, r, s.r),
            d=tree.axpy(beta, s.d, z),
            rz=rz,
            k=s.k + sound.astype(jnp.int32),
            norms=s.norms.at[s.k + 1].set(jnp.where(sound, norm, jnp.nan)),
            alphas=s.alphas.at[s.k].set(jnp.where(sound, alpha, jnp.nan)),
            betas=s.betas.at[s.k].set(jnp.where(sound, beta, jnp.nan)),
            result=code.astype(jnp.int32),
        )

    end = lax.while_loop(go_on, body, start)
    return KrylovSolution(end.x, end.norms, end.k, end.alphas, end.betas, end.result)


_FAILED = Result.LINEAR_SOLVE


def _positive(value: Any) -> Any:
    return (value > 0) & jnp.isfinite(value)


class Lanczos(NamedTuple):
    r"""Lanczos factorization \(A V = V T + \tau_k v_{k+1} e_k^\top\) with orthonormal V.

    `diagonal` and `off_diagonal` of T (the last off-diagonal is \(\tau_k\), the norm of what A V leaves outside the
    Krylov space), and `basis`, the pytree of V with a leading axis.
    """

    diagonal: Float[Array, " k"]
    off_diagonal: Float[Array, " k"]
    basis: Any

    def ritz(self) -> tuple[Float[Array, " k"], Any]:
        """Return the Ritz values in ascending order, and the Ritz vectors with a leading axis."""
        values, vectors = jnp.linalg.eigh(_tridiagonal_matrix(self.diagonal, self.off_diagonal[:-1]))
        return values, jax.tree.map(lambda v: jnp.einsum("k...,kj->j...", v, vectors.astype(v.dtype)), self.basis)


def lanczos(
    operator: Callable[[Any], Any],
    start: Any,
    steps: int,
    again: Callable[[Any], Any] | None = None,
) -> Lanczos:
    """Run Lanczos with full reorthogonalization.

    Args:
        operator: x -> A x, symmetric.
        start: starting vector, a pytree, not zero.
        steps: dimension of the Krylov space (static), at most the dimension of the space.
        again: k -> vector, from which to go on at step k where the Krylov space is exhausted, so that repeated
            eigenvalues are found; the factorization then falls into blocks (an off-diagonal is zero).

    Returns:
        `Lanczos`. Without `again`, where the Krylov space is exhausted early, the remaining basis vectors and entries
        are zero; a starting vector or a product that is not finite makes everything after it NaN.

    Example:
        >>> A = jnp.diag(jnp.array([1.0, 2.0, 3.0]))
        >>> lanczos(lambda x: A @ x, jnp.ones(3), 3).ritz()[0].round(4).tolist()
        [1.0, 2.0, 3.0]

    Source: Golub and Van Loan (2013), algorithm 10.1.1, reorthogonalized twice.
    """
    norm = tree.norm(start)
    basis = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), start)

    def orthogonalize(w: Any, basis: Any) -> Any:
        products = jax.tree.leaves(jax.tree.map(lambda v, leaf: jnp.tensordot(v, leaf, leaf.ndim), basis, w))
        coefficients = sum(products[1:], products[0])
        return jax.tree.map(lambda leaf, v: leaf - jnp.tensordot(coefficients, v, 1), w, basis)

    def restart(basis: Any, k: Any) -> Any:
        assert again is not None
        w = again(k)
        size = tree.norm(w)
        w = orthogonalize(orthogonalize(w, basis), basis)
        beta = tree.norm(w)
        return _normalized(w, beta, beta <= 1e3 * jnp.finfo(beta.dtype).eps * size)

    def body(carry: Any, k: Any) -> Any:
        v, basis, largest = carry
        basis = jax.tree.map(lambda b, leaf: b.at[k].set(leaf), basis, v)
        w = operator(v)
        alpha = tree.dot(v, w)
        largest = jnp.maximum(largest, tree.norm(w))
        w = orthogonalize(orthogonalize(w, basis), basis)
        beta = tree.norm(w)
        exhausted = beta <= 1e2 * jnp.finfo(beta.dtype).eps * largest
        following = _normalized(w, beta, exhausted)
        if again is not None:
            following = lax.cond(exhausted, lambda b: restart(b, k), lambda b: following, basis)
        return (following, basis, largest), (alpha, jnp.where(exhausted, 0, beta))

    first = tree.scale(1 / norm, start)
    carry = (first, basis, jnp.zeros((), norm.dtype))
    (_, basis, _), (diagonal, off_diagonal) = lax.scan(body, carry, jnp.arange(steps, dtype=jnp.int32))
    return Lanczos(diagonal, off_diagonal, basis)


def _normalized(w: Any, norm: Any, negligible: Any) -> Any:
    return tree.scale(jnp.where(negligible, 0, 1 / jnp.where(negligible, 1, norm)), w)


def _tridiagonal_matrix(diagonal: Any, off_diagonal: Any) -> Any:
    if diagonal.shape[0] == 1:
        return diagonal[:, None]
    return jnp.diag(diagonal) + jnp.diag(off_diagonal, 1) + jnp.diag(off_diagonal, -1)
