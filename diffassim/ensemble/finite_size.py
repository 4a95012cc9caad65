"""The finite-size ensemble Kalman filter: inflation that follows from the number of members."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.errors import require_positive
from diffassim.core.loops import bounded_while
from diffassim.core.newton_schulz import gram_inverse_sqrt
from diffassim.core.pytree import Pytree, static
from diffassim.ensemble.base import GlobalFilter
from diffassim.ensemble.etkf import symmetric_transform

__all__ = ["EnKFN", "HyperPrior", "finite_size_transform", "hyperprior"]

MAX_ITERATIONS = 100


class EnKFN(GlobalFilter):
    r"""ETKF whose prior is inflated by what its own sampling error calls for, anew at each analysis.

    Mean and covariance of the prior are unknown, and known from N members only. With a hyperprior for them the cost of
    the weights w, with \(C = S S^\top\) and \(b = S d\), is not quadratic (`primal`),

    .. math::
        J(w) = \tfrac12 w^\top C w - b^\top w + \tfrac{N-1}{2}\, c \log(\varepsilon + |w|^2)

    and has the same minimum as a function of one number, the effective precision \(\zeta\) of the prior (the dual
    form, the default),

    .. math::
        D(\zeta) = -\tfrac12 b^\top (\zeta I + C)^{-1} b + \tfrac12 \varepsilon \zeta
        - \tfrac{N-1}{2}\, c \log \zeta,\qquad \zeta = \frac{(N - 1)\, c}{\varepsilon + |w|^2}

    The prior anomalies are multiplied by \(\sqrt{(N-1)/\zeta}\); the rest is the `ETKF`. Both forms start without
    increment and go downhill, to the minimum of least inflation; derivatives are those of the minimum. Where model
    errors are left out of the forecast, `inflation` remains necessary.

    Args:
        inflation: an `Inflation`, or a number that multiplies the posterior anomalies.
        rotation: whether the posterior anomalies are rotated at random, mean and covariance unchanged (static).
        exponent: xN, exponent of the hyperprior: above one, the inflation varies less from analysis to analysis.
        primal: minimize over the weights instead of over one number (static).

    Raises:
        ConfigurationError: if the exponent is not finite and positive.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[9.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = jnp.array([[-1.0], [0.0], [1.0]])
        >>> [method.analyze(None, ensemble, y)[0].mean(0).round(2).tolist() for method in (da.ETKF(), da.EnKFN())]
        [[4.5], [8.68]]

    Source: Bocquet (2011); Bocquet and Sakov (2012) for the dual form; Bocquet, Raanes and Hannart (2015), whose
    correction of the mode (equation 36) is used; the exponent as in Raanes, Bocquet and Carrassi (2019).
    """

    exponent: Any = 1.0
    primal: bool = static(default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("EnKFN: exponent", self.exponent, "1 is the hyperprior as derived.")

    def weights(self, key: Any, S: Float[Array, "N m"], d: Float[Array, " m"]) -> Float[Array, "N N"]:
        """Return the ETKF's weights for inflated anomalies, times the inflation."""
        return finite_size_transform(S, d, self.exponent, primal=self.primal)


def finite_size_transform(
    S: Float[Array, "N m"], d: Float[Array, " m"], exponent: Any, taper: Any = None, primal: bool = False
) -> Float[Array, "N N"]:
    """Return the weights of the finite-size filter for the prior anomalies.

    Args:
        S: whitened observed anomalies, shape (N, m).
        d: whitened mean innovation, shape (m,).
        exponent: of the hyperprior.
        taper: factor of every observation's inverse error variance, shape (m,); None for one.
        primal: minimize over the weights instead of over the precision.
    """
    weighted = S if taper is None else S * taper[None]
    C, b = weighted @ S.T, weighted @ d
    prior = hyperprior(C, exponent)
    zeta = prior.precision(_primal(C, b, prior)) if primal else jnp.exp(_dual(C, b, prior))
    factor = jnp.sqrt((S.shape[0] - 1) / zeta)
    return factor * symmetric_transform(factor * S, d, taper)


class HyperPrior(Pytree):
    r"""Coefficients of the prior \(\tfrac{N-1}{2} c \log(\varepsilon + |w|^2)\) of the weights.

    Args:
        epsilon: of the uncertainty of the mean, \((N + 1) / N\) as derived.
        c: of that of the covariance, \(N / (N - 1)\) as derived.
        degrees: N - 1 (static).
    """

    epsilon: Float[Array, ""]
    c: Float[Array, ""]
    degrees: int = static()

    def precision(self, w: Float[Array, " N"]) -> Float[Array, ""]:
        r"""Return the effective precision \(\zeta\) of the prior at weights w; N - 1 without inflation."""
        return self.degrees * self.c / (self.epsilon + jnp.vdot(w, w))


def hyperprior(C: Float[Array, "N N"], exponent: Any) -> HyperPrior:
    r"""Return the hyperprior of an ensemble with \(C = S S^\top\), its mode corrected.

    Without observations the mode is no inflation at all; the more they say, the less is corrected.

    Args:
        C: products of the whitened observed anomalies, shape (N, N).
        exponent: exponent of the whole, xN in the literature.

    Returns:
        `HyperPrior`.

    Source: Bocquet, Raanes and Hannart (2015), equation 36, with the trace over all members.
    """
    N = C.shape[0]
    T = gram_inverse_sqrt(jnp.eye(N, dtype=C.dtype) + C / (N - 1))
    unobserved = jnp.sum(jnp.square(T)) / N  # the trace of the inverse
    epsilon, c = 1 + 1 / N, N / (N - 1)
    correction = jnp.exp(0.5 * unobserved * jnp.log(jnp.asarray(epsilon / c, C.dtype)))
    exponent = jnp.asarray(exponent, C.dtype)
    return HyperPrior(epsilon * exponent / correction, c * exponent * correction, N - 1)


def _dual(C: Any, b: Any, prior: HyperPrior) -> Any:
    r"""Return the \(\log \zeta\) that minimizes the dual cost; the derivative is the minimum's."""
    values, vectors = jnp.linalg.eigh(lax.stop_gradient(C))
    # Along the null vectors of C, b is rounding, which a small zeta would blow up.
    floor = C.shape[0] * jnp.finfo(C.dtype).eps * values[-1]
    power = jnp.where(values > floor, jnp.square(vectors.T @ lax.stop_gradient(b)), 0)
    epsilon, mass = lax.stop_gradient((prior.epsilon, prior.degrees * prior.c))
    values = jnp.maximum(values, 0)  # of a Gram matrix: negative ones are rounding

    def length(z: Any) -> Any:
        return epsilon + jnp.sum(power / jnp.square(jnp.exp(z) + values))

    def cost(z: Any) -> Any:
        return -jnp.sum(power / (jnp.exp(z) + values)) + epsilon * jnp.exp(z) - mass * z

    def newton(z: Any) -> Any:
        zeta = jnp.exp(z)
        curvature = zeta * length(z) - 2 * zeta**2 * jnp.sum(power / (zeta + values) ** 3)
        return z - (zeta * length(z) - mass) / curvature

    def solve(_: Any, start: Any) -> Any:
        return _descent(cost, lambda z: jnp.log(mass / length(z)), newton, start)

    def stationary(z: Any) -> Any:
        w = _solved(C, jnp.exp(z), b)
        return jnp.exp(z) * (prior.epsilon + jnp.vdot(w, w)) - prior.degrees * prior.c

    return lax.custom_root(stationary, jnp.log(mass / epsilon), solve, lambda g, y: y / g(jnp.ones_like(y)))


def _primal(C: Any, b: Any, prior: HyperPrior) -> Any:
    """Return the weights that minimize the primal cost; the derivative is the minimum's."""
    identity = jnp.eye(C.shape[0], dtype=C.dtype)

    def cost(w: Any) -> Any:
        log = prior.degrees * prior.c * jnp.log(prior.epsilon + jnp.vdot(w, w))
        return jnp.vdot(w, C @ w) - 2 * jnp.vdot(b, w) + log

    def gradient(w: Any) -> Any:
        return C @ w - b + prior.precision(w) * w

    def newton(w: Any) -> Any:
        radial = 2 * jnp.outer(w, w) / (prior.epsilon + jnp.vdot(w, w))
        return w - jnp.linalg.solve(C + prior.precision(w) * (identity - radial), gradient(w))

    def fixed(w: Any) -> Any:
        return _solved(C, prior.precision(w), b)

    def solve(_: Any, start: Any) -> Any:
        return _descent(cost, fixed, newton, start)

    def tangent_solve(g: Any, y: Any) -> Any:
        return jnp.linalg.solve(jax.jacfwd(g)(jnp.zeros_like(y)), y)

    return lax.custom_root(gradient, jnp.zeros_like(b), solve, tangent_solve)


def _solved(C: Any, zeta: Any, b: Any) -> Any:
    """Return the solution of (C + zeta I) w = b, whose matrix no rounding makes indefinite."""
    T = gram_inverse_sqrt(jnp.eye(C.shape[0], dtype=C.dtype) + C / zeta)
    return T @ (T @ b) / zeta


def _descent(cost: Callable[..., Any], safe: Callable[..., Any], newton: Callable[..., Any], start: Any) -> Any:
    """Iterate whichever is lower: a step that never raises the cost, or Newton's.

    The logarithm is concave in |w|^2, so that the minimum of the cost with its tangent in place of it is no higher:
    this safe step is what remains of the ETKF at the precision of the step before.
    """
    tolerance = 4 * float(jnp.finfo(start.dtype).eps)

    def moving(state: Any) -> Any:
        x, last = state
        return jnp.max(jnp.abs(x - last)) > tolerance * (1 + jnp.max(jnp.abs(x)))

    def step(state: Any) -> Any:
        x, _ = state
        careful, fast = safe(x), newton(x)
        floor = cost(careful)
        # Where rounding hides which is lower, Newton's is closer.
        return jnp.where(cost(fast) <= floor + tolerance * jnp.abs(floor), fast, careful), x

    return bounded_while(moving, step, step((start, start)), MAX_ITERATIONS)[0]
