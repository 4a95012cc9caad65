"""Is it a covariance? Tests of all operations of a covariance against each other, with a readable report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from diffassim.core import tree
from diffassim.core.errors import AssimilationError, DataError
from diffassim.core.pytree import Pytree, static
from diffassim.covariances.base import Covariance, NotAvailableError
from diffassim.diagnostics.gradient import check_adjoint, check_gradient

__all__ = ["CovarianceReport", "Finding", "check_covariance"]

DENSE_LIMIT = 300  # components up to which the covariance is written out as a matrix
DRAWS = 4000
SIGMAS = 5.0  # deviation of a sampled variance, in its standard errors


class Finding(Pytree):
    """One line of a `CovarianceReport`: what was tested, its defect and tolerance; passed is None where not tested."""

    name: str = static()
    passed: bool | None = static()
    defect: float | None = static(default=None)
    tolerance: float | None = static(default=None)
    note: str = static(default="")

    def __str__(self) -> str:
        verdict = {True: "passed", False: "FAILED", None: "not tested"}[self.passed]
        number = "" if self.defect is None else f"  {self.defect:.1e} (tolerance {self.tolerance:.0e})"
        return f"  {self.name:<42} {verdict:<10}{number}{'  ' + self.note if self.note else ''}"


class CovarianceReport(Pytree):
    """Result of `check_covariance`: one `Finding` for each property, and whether none failed."""

    name: str = static()
    findings: tuple[Finding, ...] = static()

    @property
    def passed(self) -> bool:
        """Whether no test failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """Names of the tests that failed."""
        return tuple(finding.name for finding in self.findings if finding.passed is False)

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED: " + ", ".join(self.failures)
        return "\n".join([f"covariance test of {self.name} {verdict}", *map(str, self.findings)])


def check_covariance(B: Covariance, x: Any, *, seed: int = 0, tolerance: float | None = None) -> CovarianceReport:
    r"""Test that the operations of a covariance belong to one symmetric positive definite operator.

    For random vectors u, w: B is linear, symmetric and positive; \(L L^\top = B\) with \(L^\top\) the adjoint of L;
    \(B^{-1} B u = u\) as seen by B; \(|W B u|^2 = u^\top B u\); the log determinant is that of the matrix; the variance
    of draws along u is \(u^\top B u\) within five standard errors; the gradient in all parameters passes the Taylor
    test (in float64). Up to 300 components B is also written out, and its smallest eigenvalue and determinant are
    tested; beyond, positivity is tested along random vectors only and the determinant not at all, and the report says
    so. Operations that the covariance does not offer are left out.

    Args:
        B: the covariance, of any class with the methods of `Covariance`.
        x: a state that shows shapes and dtype.
        seed: seed of the random vectors.
        tolerance: of the identities; default 1e-10 for float64, 1e-4 for float32. The inverse is given the root of it.

    Returns:
        `CovarianceReport`.

    Raises:
        DataError: if x holds no floating-point array, or a product is not finite.
        ShapeError: if B does not fit x.

    Example:
        >>> from diffassim.covariances import Diagonal
        >>> class Wrong(Diagonal):
        ...     def solve(self, x):
        ...         return self.whiten(x)
        >>> check_covariance(Wrong(std=2.0), jnp.ones(3)).failures
        ('solve(apply(u)) = u',)

    Source: the adjoint and Taylor tests of Navon et al. (1992); the identities are definitions.
    """
    leaves = jax.tree.leaves(x)
    if not leaves or not all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves):
        raise DataError("check_covariance: x must hold floating-point arrays only, at least one of them")
    x = jax.tree.map(jnp.asarray, x)
    B.check("check_covariance", x)
    single = any(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(x))
    limit = (1e-4 if single else 1e-10) if tolerance is None else tolerance
    draws = np.random.default_rng(seed)
    u, w = (jax.tree.map(lambda leaf: draws.normal(size=leaf.shape).astype(leaf.dtype), x) for _ in range(2))

    @jax.jit
    def products(B: Any, u: Any, w: Any) -> Any:
        both = jax.tree.map(lambda a, b: a + 2 * b, u, w)
        return B.apply(u), B.apply(w), B.apply(both), B.sqrt(B.sqrt_transpose(u))

    Bu, Bw, B_both, LLu = (_vector(part) for part in products(B, u, w))
    if not all(np.isfinite(part).all() for part in (Bu, Bw, LLu)):
        raise DataError("check_covariance: a product with B is not finite; check its parameters")
    flat_u, flat_w = _vector(u), _vector(w)
    size = np.linalg.norm(Bu) * np.linalg.norm(flat_w) + np.linalg.norm(Bw) * np.linalg.norm(flat_u) or 1.0
    scale = np.linalg.norm(Bu) or 1.0
    v = B.control_like(x)
    findings = [
        _finding("linear", np.linalg.norm(B_both - Bu - 2 * Bw) / scale, limit),
        _finding("symmetric", abs(Bu @ flat_w - Bw @ flat_u) / size, limit),
        _finding("sqrt(sqrt_transpose(u)) = apply(u)", np.linalg.norm(LLu - Bu) / scale, limit),
    ]
    if tree.size(v):
        adjoint = check_adjoint(B.sqrt, v, adjoint=jax.jit(B.sqrt_transpose), seed=seed, tolerance=limit)
        findings.append(_finding("sqrt_transpose is the adjoint of sqrt", adjoint.defect, limit))
    matrix = _matrix(B, x) if tree.size(x) <= DENSE_LIMIT else None
    findings.append(_positive(matrix, Bu @ flat_u, Bw @ flat_w, limit))
    b = _unflatten(Bu, x)
    inverse = limit**0.5
    findings.append(
        _offered(
            "solve(apply(u)) = u",
            lambda: np.linalg.norm(_vector(jax.jit(lambda B, b: B.apply(B.solve(b)))(B, b)) - Bu) / scale, inverse,
        )
    )  # fmt: skip
    energy = float(Bu @ flat_u)

    def whitened() -> float:
        return abs(_squared(jax.jit(lambda B, b: B.whiten(b))(B, b)) / energy - 1)

    findings.append(_offered("|whiten(apply(u))|^2 = <u, apply(u)>", whitened, inverse))

    def determinant() -> float:
        value = float(B.logdet(x))
        assert matrix is not None
        exact = np.linalg.slogdet(matrix)[1]
        return abs(value - exact) / max(abs(exact), 1.0)

    if matrix is None:
        findings.append(Finding("logdet of the matrix", None, note=f"more than {DENSE_LIMIT} components"))
    else:
        findings.append(_offered("logdet of the matrix", determinant, inverse))
    findings += [_sampled(B, x, u, energy, seed), _differentiable(B, u, w)]
    return CovarianceReport(type(B).__name__, tuple(findings))


def _finding(name: str, defect: Any, tolerance: float, note: str = "") -> Finding:
    return Finding(name, bool(defect <= tolerance), float(defect), tolerance, note)  # NaN fails


def _offered(name: str, defect: Callable[[], Any], tolerance: float) -> Finding:
    try:
        return _finding(name, defect(), tolerance)
    except NotAvailableError:
        return Finding(name, None, note="not offered")
    except AssimilationError as error:
        return Finding(name, False, note=str(error))


def _positive(matrix: np.ndarray | None, along_u: float, along_w: float, limit: float) -> Finding:
    if matrix is None:
        return Finding("positive semidefinite", bool(min(along_u, along_w) >= 0), note="along two random vectors only")
    eigenvalues = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    largest = np.abs(eigenvalues).max() or 1.0
    note = f"eigenvalues {eigenvalues[0]:.2e} to {eigenvalues[-1]:.2e}"
    return _finding("positive semidefinite", max(-eigenvalues[0] / largest, 0.0), limit, note)


def _sampled(B: Any, x: Any, u: Any, energy: float, seed: int) -> Finding:
    @jax.jit
    def along(B: Any, key: jax.Array) -> Any:
        return jax.lax.map(lambda k: tree.dot(B.sample(k, x), u), jax.random.split(key, DRAWS), batch_size=100)

    projections = np.asarray(along(B, jax.random.key(seed)), float)
    spread, energy = (2 / DRAWS) ** 0.5, energy or 1.0
    mean = abs(projections.mean()) / (abs(energy) / DRAWS) ** 0.5
    deviation = max(abs(np.mean(projections**2) / energy - 1) / spread, mean)
    return _finding("draws have mean zero and this variance", deviation, SIGMAS, f"in standard errors of {DRAWS} draws")


def _differentiable(B: Any, u: Any, w: Any) -> Finding:
    leaves, structure = jax.tree.flatten(B)
    floating = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    if not floating:
        return Finding("gradient in the parameters", None, note="no parameters")

    if any(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(u)):
        return Finding("gradient in the parameters", None, note="rounding hides it; use float64")

    def score(parameters: list[Any]) -> Any:
        filled = list(leaves)
        for i, parameter in zip(floating, parameters, strict=True):
            filled[i] = parameter
        return tree.dot(w, jax.tree.unflatten(structure, filled).apply(u))

    try:
        report = check_gradient(score, [jnp.asarray(leaves[i]) for i in floating], largest_step=1e-3)
    except AssimilationError as error:
        return Finding("gradient in the parameters", False, note=str(error))
    if not report.conclusive:
        return Finding("gradient in the parameters", None, note="rounding hides it; use float64")
    slopes = ", ".join(f"{slope:.2f}" for slope in report.slopes) or "linear"
    return Finding("gradient in the parameters", report.passed, note=f"Taylor slopes {slopes}")


def _matrix(B: Any, x: Any) -> np.ndarray:
    vector, unravel = ravel_pytree(x)

    @jax.jit
    def rows(B: Any, identity: Any) -> Any:
        return jax.lax.map(lambda e: ravel_pytree(B.apply(unravel(e)))[0], identity)

    return np.asarray(rows(B, jnp.eye(vector.size, dtype=vector.dtype)), float).T


def _unflatten(vector: np.ndarray, x: Any) -> Any:
    flat, unravel = ravel_pytree(x)
    return unravel(jnp.asarray(vector, flat.dtype))


def _vector(x: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, float).ravel() for leaf in jax.tree.leaves(x)])


def _squared(x: Any) -> float:
    return float(np.sum(_vector(x) ** 2))
