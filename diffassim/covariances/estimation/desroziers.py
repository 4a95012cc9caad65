"""Consistency of B and R with departures in observation space, and factors that make them consistent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError, DataError, ShapeError
from diffassim.covariances.base import Covariance
from diffassim.covariances.estimation.likelihood import innovation_matrix

__all__ = ["Departures", "TunedFactors", "departure_statistics", "tune_factors"]

SPREAD = 1e-6  # relative spread of the eigenvalues below which B and R cannot be told apart


class Departures(NamedTuple):
    """Second moments of departures, shape (m, m): estimates of R, H B H^T and their sum, and cases behind each entry.

    In a consistent analysis they equal, on average, the covariances that it used. NaN where no case has both values.
    """

    R: np.ndarray
    HBH: np.ndarray
    innovation: np.ndarray
    cases: np.ndarray


def departure_statistics(d_ob: Float[Array, "cases m"], d_oa: Float[Array, "cases m"]) -> Departures:
    r"""Return what departures from background and analysis say about the error covariances.

    .. math::
        E[d_{oa} d_{ob}^\top] = R, \qquad E[d_{ab} d_{ob}^\top] = H B H^\top, \qquad
        E[d_{ob} d_{ob}^\top] = H B H^\top + R

    with \(d_{ob} = y - H(x_b)\), \(d_{oa} = y - H(x_a)\) and \(d_{ab} = d_{ob} - d_{oa}\), where B and R in the
    analysis are right.

    Args:
        d_ob: innovations, shape (cases, m), NaN where missing.
        d_oa: departures from the analysis, same shape.

    Returns:
        `Departures`; the matrices are not symmetrized, their asymmetry is a hint at their sampling error.

    Raises:
        ShapeError: if the shapes differ or are not (cases, m).

    Example:
        >>> departure_statistics(np.array([[2.0], [-2.0]]), np.array([[1.0], [-1.0]])).R.tolist()
        [[2.0]]

    Source: Desroziers et al. (2005), equations 1 to 4.
    """
    ob, oa = np.asarray(d_ob), np.asarray(d_oa)
    if ob.ndim != 2 or ob.shape != oa.shape:
        raise ShapeError(f"departure_statistics: both need shape (cases, m), found {ob.shape} and {oa.shape}")
    there = np.isfinite(ob) & np.isfinite(oa)
    ob, oa = np.where(there, ob, 0), np.where(there, oa, 0)
    cases = there.T.astype(float) @ there
    with np.errstate(invalid="ignore", divide="ignore"):
        return Departures(oa.T @ ob / cases, (ob - oa).T @ ob / cases, ob.T @ ob / cases, cases.astype(int))


class TunedFactors(NamedTuple):
    """Factors of B and R from `tune_factors`, after each iteration, and whether they stopped moving."""

    B: float
    R: float
    history: np.ndarray
    converged: bool


def tune_factors(
    departures: Float[Array, "cases m"],
    B: Covariance,
    R: Covariance,
    operator: Callable[[Any], Any] | None = None,
    x: Any = None,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> TunedFactors:
    r"""Iterate the diagnostics of Desroziers et al. to factors b of B and r of R that the innovations confirm.

    .. math::
        r \leftarrow \frac{E[d_{oa}^\top R^{-1} d_{ob}]}{E[m]}, \qquad
        b \leftarrow \frac{E[d_{ab}^\top R^{-1} d_{ob}]}{E[\operatorname{tr}(R^{-1} H B H^\top)]}

    where analyses are made with b B and r R. In the eigenvectors of \(R^{-1/2} H B H^\top R^{-T/2}\) one iteration is a
    few products, so that no analysis is recomputed. The structures of B and R are taken as given: were they wrong, the
    factors would be as well.

    Args:
        departures: innovations y - H(x_b), shape (cases, m), NaN where missing.
        B: background-error covariance.
        R: observation-error covariance.
        operator: H, linearized at x; None: the identity.
        x: a background state, needed with `operator`.
        tolerance: relative change of both factors at which to stop.
        max_iterations: limit.

    Returns:
        `TunedFactors`; use `tuned.B * B` and `tuned.R * R`.

    Raises:
        ShapeError: if departures, H and covariances do not fit.
        DataError: if nothing is observed, or all innovations vanish.
        ConfigurationError: if R is singular, or H B H^T is a multiple of R: then innovations see their sum only.

    Example:
        >>> from diffassim.covariances import Dense, Diagonal
        >>> S = 2.0 * np.array([[1.0, 0.9], [0.9, 1.0]]) + 3.0 * np.eye(2)  # innovations of just this covariance
        >>> B = Dense.from_matrix((S - 3 * np.eye(2)) / 2)
        >>> tuned = tune_factors(2**0.5 * np.linalg.cholesky(S).T, B, Diagonal(1.0))
        >>> round(tuned.B, 4), round(tuned.R, 4)
        (2.0, 3.0)

    Source: Desroziers et al. (2005), section 4; the metric is that of Desroziers and Ivanov (2001).
    """
    d = np.asarray(departures, float)
    if d.ndim != 2 or (operator is not None and x is None):
        raise ShapeError(
            f"tune_factors: departures need shape (cases, m), found {d.shape}; with an operator, x is needed as well"
        )
    there = np.isfinite(d)
    if not there.any() or not np.any(d[there]):
        raise DataError("tune_factors: no innovation is observed, or all of them are zero")
    first = jnp.asarray(np.where(there[0], d[0], 0))
    HBH = np.asarray(innovation_matrix(first, B, None, operator, x))
    R_matrix = np.asarray(R.apply(jnp.eye(d.shape[1], dtype=first.dtype)))
    values, squares = _spectrum(d, there, HBH, R_matrix)
    counts = there.sum(axis=1)
    spread = [np.ptp(v[v.size - n :]) for v, n in zip(values, counts, strict=True) if n]
    if max(spread) <= SPREAD * values.max():
        raise ConfigurationError(
            "tune_factors: H B H^T is a multiple of R, so that innovations tell their sum only, not the two factors; "
            "use a B with correlations, or fix one of the two"
        )
    b = r = 1.0
    history = [(b, r)]
    converged = False
    for _ in range(max_iterations):
        total = b * values + r
        r_new = np.sum(squares * r / total) / counts.sum()
        b_new = np.sum(squares * b * values / total) / np.sum(values)
        converged = abs(b_new - b) <= tolerance * b and abs(r_new - r) <= tolerance * r
        b, r = float(b_new), float(r_new)
        history.append((b, r))
        if converged or not (np.isfinite(b) and np.isfinite(r) and b > 0 and r > 0):
            break
    return TunedFactors(b, r, np.array(history), bool(converged))


def _spectrum(d: np.ndarray, there: np.ndarray, HBH: np.ndarray, R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each case the eigenvalues of R^(-1/2) H B H^T R^(-T/2) and the squared components of R^(-1/2) d.

    Missing components have eigenvalue zero and no amplitude. Cases with the same gaps share a decomposition.
    """
    values, squares = np.zeros(d.shape), np.zeros(d.shape)
    patterns, which = np.unique(there, axis=0, return_inverse=True)
    for number, seen in enumerate(patterns):
        if not seen.any():
            continue
        try:
            L = np.linalg.cholesky(R[np.ix_(seen, seen)])
        except np.linalg.LinAlgError:
            raise ConfigurationError("tune_factors: R is not positive definite") from None
        whitened = np.linalg.solve(L, np.linalg.solve(L, HBH[np.ix_(seen, seen)]).T)
        eigenvalues, vectors = np.linalg.eigh((whitened + whitened.T) / 2)
        cases = np.flatnonzero(which.ravel() == number)
        amplitudes = np.linalg.solve(L, d[np.ix_(cases, seen)].T).T @ vectors
        place = slice(d.shape[1] - int(seen.sum()), None)
        values[cases, place] = np.maximum(eigenvalues, 0)
        squares[cases, place] = amplitudes**2
    return values, squares
