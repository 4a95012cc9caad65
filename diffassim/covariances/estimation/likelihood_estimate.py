"""How likely are innovations? Estimated by products alone, for numbers of observations that no matrix holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.krylov import conjugate_gradients, lanczos
from diffassim.core.results import Result
from diffassim.covariances.base import Covariance

__all__ = ["LikelihoodEstimate", "estimate_likelihood"]

BOUND_STEPS = 12  # of Lanczos, for the largest eigenvalue
MAX_SOLVE = 1000  # iterations of conjugate gradients


class LikelihoodEstimate(NamedTuple):
    """What `estimate_likelihood` returns.

    `value` estimates minus the log density; only it carries derivatives. `probe_error` is its standard error over the
    random probes, `truncation_error` a bound on what the truncated series changes: raise `probes` or `degree` where one
    of them matters. `largest` is the bound on the eigenvalues of the whitened covariance of the innovations.
    """

    value: Float[Array, ""]
    probe_error: Float[Array, ""]
    truncation_error: Float[Array, ""]
    largest: Float[Array, ""]


def estimate_likelihood(
    departures: Float[Array, "cases m"],
    B: Covariance,
    R: Covariance,
    operator: Callable[[Any], Any] | None = None,
    x: Any = None,
    *,
    key: jax.Array,
    probes: int = 32,
    degree: int = 128,
    tolerance: float = 1e-8,
) -> LikelihoodEstimate:
    r"""Return what `negative_log_likelihood` of innovations returns, without writing out their covariance.

    .. math::
        d^\top S^{-1} d = r^\top A^{-1} r, \quad \log\det S = \log\det R + \operatorname{tr}\log A, \quad
        A = I + R^{-1/2} H B H^\top R^{-\top/2}, \quad r = R^{-1/2} d

    The quadratic form is solved by conjugate gradients. The trace is the mean of \(z^\top \log(A)\,z\) over random
    signs z, with the logarithm as a Chebyshev series on \([1, b]\), which contains all eigenvalues:

    .. math::
        \log A = \log\tfrac{(\sqrt b + 1)^2}{4} + 2 \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \rho^k\, T_k(\tilde A), \qquad
        \rho = \frac{\sqrt b - 1}{\sqrt b + 1}

    Half as many products as terms are needed, by \(T_{2k} = 2 T_k^2 - 1\). With one key the estimate is a smooth
    function of all parameters, with exact derivatives of any order, so that a search (`fit_parameters`) sees value,
    gradient and Hessian of one function. Quadrature by Lanczos (Ubaru et al., 2017) needs fewer products where few
    eigenvalues are large, but the gradient that goes with it (Gardner et al., 2018) is that of another estimate than
    its value, by as much as the probes' error, which line searches do not forgive.

    Args:
        departures: innovations \(y_i - H(x_{b,i})\) with a leading axis of cases, NaN where missing.
        B: background-error covariance.
        R: observation-error covariance, with `whiten`, `logdet` and, where values are missing, `masked`.
        operator: H, linearized at x; None: the identity.
        x: a background state, needed with `operator`.
        key: of the probes; keep it fixed within a search.
        probes: their number, shared by all cases where nothing is missing, else for each case (static).
        degree: of the series, even (static); the terms fall like \(\rho^k / k\).
        tolerance: relative residual of the solves.

    Returns:
        `LikelihoodEstimate`; NaN where a solve fails.

    Raises:
        ShapeError: if the departures are not shaped (cases, m), or x is missing.
        ConfigurationError: if `probes` is not at least 2, or `degree` is not even and positive.

    Example:
        >>> from diffassim.covariances import Diagonal
        >>> d = jnp.array([[1.0], [3.0]])  # variance 1 + 4: any probe is exact
        >>> found = estimate_likelihood(d, Diagonal(1.0), Diagonal(2.0), key=jax.random.key(0))
        >>> float(found.value.round(4)), round(float(found.probe_error), 12)
        (4.4473, 0.0)

    Source: Han, Malioutov and Shin (2015), algorithm 1, here with the closed coefficients of the logarithm; Hutchinson
    (1990) for the probes; bound on the spectrum: Zhou and Li (2011); compared with Ubaru, Chen and Saad (2017) and
    Gardner et al. (2018).
    """
    d = jnp.asarray(departures)
    if d.ndim != 2:
        raise ShapeError(f"estimate_likelihood: departures must have shape (cases, m), found {d.shape}")
    if probes < 2 or degree < 2 or degree % 2:
        raise ConfigurationError(
            f"estimate_likelihood: give at least 2 probes and an even degree, found {probes} and {degree}"
        )
    if operator is not None and x is None:
        raise ShapeError("estimate_likelihood: give `x`, a background state at which to linearize the operator")
    signal = _signal(d[0], B, operator, x)
    known = concrete(d)
    complete = known is not None and bool(np.isfinite(known).all())
    signs = partial(jax.random.rademacher, dtype=d.dtype)
    largest = lax.stop_gradient(_largest(_whitened(signal, R), signs(jax.random.fold_in(key, 0), d.shape[1:])))

    def of_case(d: Array, z: Array | None) -> tuple[Array, Array, Array]:
        mask = None if complete else jnp.isfinite(d)
        error = R if mask is None else R.masked(mask)
        product = _whitened(signal, error, mask)
        square = _inverse_square(product, error.whiten(d if mask is None else jnp.where(mask, d, 0)), tolerance)
        count = jnp.asarray(d.size) if mask is None else jnp.sum(mask)
        rest = square + count.astype(d.dtype) * float(np.log(2 * np.pi))
        if z is None:
            return rest, jnp.zeros((probes,), d.dtype), count
        return rest + error.logdet(d), _log_forms(product, z, largest, degree), count

    keys = jax.random.split(jax.random.fold_in(key, 1), 1 if complete else d.shape[0])
    draws = jax.vmap(lambda k: signs(k, (probes, d.shape[1])))(keys)
    if complete:
        rest, _, counts = jax.vmap(lambda row: of_case(row, None))(d)
        forms = d.shape[0] * _log_forms(_whitened(signal, R), draws[0], largest, degree)[None]
        rest = rest + R.logdet(d[0])
    else:
        rest, forms, counts = jax.vmap(of_case)(d, draws)
    value = 0.5 * (jnp.sum(rest) + jnp.sum(jnp.mean(forms, axis=1)))
    spread = 0.5 * jnp.sqrt(jnp.sum(jnp.var(lax.stop_gradient(forms), axis=1, ddof=1)) / probes)
    bound = 0.5 * jnp.sum(counts).astype(d.dtype) * _tail(largest, degree)
    return LikelihoodEstimate(value, spread, bound, largest)


def _signal(d: Array, B: Covariance, operator: Any, x: Any) -> Callable[[Array], Array]:
    """Return the product with H B H^T, for one vector."""
    if operator is None:
        return B.apply
    predicted, tangent = jax.linearize(operator, x)
    if jnp.shape(predicted) != d.shape:
        raise ShapeError(
            f"estimate_likelihood: H(x) has shape {jnp.shape(predicted)}, but the innovations of one case have "
            f"{d.shape}"
        )
    adjoint = jax.linear_transpose(tangent, x)
    return lambda u: tangent(B.apply(adjoint(u)[0]))


def _whitened(
    signal: Callable[[Array], Array], R: Covariance, mask: Bool[Array, " m"] | None = None
) -> Callable[[Array], Array]:
    """Return the product with A = I + R^(-1/2) H B H^T R^(-T/2); missing components have eigenvalue one."""

    def product(u: Array) -> Array:
        kept = u if mask is None else jnp.where(mask, u, 0)
        (colored,) = jax.linear_transpose(R.whiten, u)(kept)
        moved = R.whiten(signal(colored if mask is None else jnp.where(mask, colored, 0)))
        return u + (moved if mask is None else jnp.where(mask, moved, 0))

    return product


def _largest(product: Callable[[Array], Array], start: Array) -> Float[Array, ""]:
    """Return an upper bound of the eigenvalues: the largest Ritz value and what the last step leaves out."""
    found = lanczos(product, start, min(BOUND_STEPS, start.size))
    values, _ = found.ritz()
    return jnp.maximum(values[-1] + found.off_diagonal[-1], 1.001) * (1 + 1e-6)


def _inverse_square(product: Callable[[Array], Array], r: Array, tolerance: Any) -> Float[Array, ""]:
    def solve(product: Any, b: Any) -> Any:
        found = conjugate_gradients(product, b, rtol=tolerance, max_iterations=MAX_SOLVE)
        return jnp.where(found.result == Result.CONVERGED, found.solution, jnp.nan)

    return jnp.vdot(r, lax.custom_linear_solve(product, r, solve, symmetric=True))


def _log_forms(
    product: Callable[[Array], Array], z: Float[Array, "probes m"], largest: Array, degree: int
) -> Float[Array, " probes"]:
    """Return z^T log(A) z for each probe."""
    root = jnp.sqrt(largest)
    rho, center, half = (root - 1) / (root + 1), (largest + 1) / 2, (largest - 1) / 2

    def scaled(u: Array) -> Array:
        return (jax.vmap(product)(u) - center * u) / half

    @jax.checkpoint
    def further(carry: Any, k: Any) -> Any:
        # T_(k-1) z and T_k z give the forms of degree 2 k - 1 and 2 k.
        before, now, first, total = carry
        square, odd = _dots(z, z), 2 * _dots(before, now) - first
        even = 2 * _dots(now, now) - square
        k = k.astype(z.dtype)
        total = total + 2 * (rho ** (2 * k - 1) / (2 * k - 1) * odd - rho ** (2 * k) / (2 * k) * even)
        return (now, 2 * scaled(now) - before, first, total), None

    one = scaled(z)
    # For k = 1 the odd form, 2 z . (A z) - z . (A z), is that of degree one itself.
    start = (z, one, _dots(z, one), jnp.log(jnp.square(root + 1) / 4) * _dots(z, z))
    numbers = jnp.arange(1, degree // 2, dtype=jnp.int32)
    (before, now, first, total), _ = lax.scan(further, start, numbers)
    odd, even = 2 * _dots(before, now) - first, 2 * _dots(now, now) - _dots(z, z)
    return total + 2 * (rho ** (degree - 1) / (degree - 1) * odd - rho**degree / degree * even)


def _dots(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1)


def _tail(largest: Array, degree: int) -> Array:
    """Return a bound on the terms beyond the degree, for one eigenvalue."""
    rho = (jnp.sqrt(largest) - 1) / (jnp.sqrt(largest) + 1)
    return 2 * rho ** (degree + 1) / ((degree + 1) * (1 - rho))
