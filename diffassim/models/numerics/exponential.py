"""Exponential time stepping: stiff linear terms that are diagonal are integrated exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

__all__ = ["exponential_runge_kutta_4", "phi_functions"]

TERMS = 18  # of the series for |z| < 1, to rounding in double precision


def exponential_runge_kutta_4(
    linear: Float[Array, ...],
    nonlinear: Callable[[Any], Any],
    u: Inexact[Array, ...],
    dt: Any,
) -> Inexact[Array, ...]:
    r"""Take one step of the fourth-order exponential Runge-Kutta scheme (ETDRK4) for \(\dot u = \Lambda u + N(u)\).

    .. math::
        a &= e^{z/2} u + \tfrac{\Delta t}{2} \varphi_1(z/2) N(u),\quad
        b = e^{z/2} u + \tfrac{\Delta t}{2} \varphi_1(z/2) N(a),\quad
        c = e^{z/2} a + \tfrac{\Delta t}{2} \varphi_1(z/2) (2 N(b) - N(u)) \\
        u' &= e^z u + \Delta t\,\big[(\varphi_1 - 3 \varphi_2 + 4 \varphi_3) N(u)
            + 2 (\varphi_2 - 2 \varphi_3)(N(a) + N(b)) + (4 \varphi_3 - \varphi_2) N(c)\big], \quad z = \Delta t \Lambda

    The coefficients are those that Kassam and Trefethen evaluate by contour integrals; `phi_functions` gives them to
    rounding in real arithmetic, which is cheap enough to do in every step, so that dt and the coefficients of the
    linear part stay differentiable.

    Args:
        linear: \(\Lambda\), the diagonal, broadcastable to u.
        nonlinear: N.
        u: state, real or complex (Fourier coefficients).
        dt: time step.

    Returns:
        The state at time dt later.

    Example:
        >>> round(float(exponential_runge_kutta_4(jnp.array(-1.0), lambda u: 0 * u, jnp.array(1.0), 0.5)), 6)
        0.606531

    Source: Cox and Matthews (2002), equations 26 to 29; Kassam and Trefethen (2005), section 2.
    """
    dt = jnp.asarray(dt, linear.dtype)
    z = dt * linear
    phi_1, phi_2, phi_3 = phi_functions(z)
    decay, half_decay, half, of_u, of_ab, of_c = (
        factor.astype(u.dtype)
        for factor in (
            jnp.exp(z), jnp.exp(z / 2), dt / 2 * phi_functions(z / 2)[0],
            dt * (phi_1 - 3 * phi_2 + 4 * phi_3), 2 * dt * (phi_2 - 2 * phi_3), dt * (4 * phi_3 - phi_2),
        )
    )  # fmt: skip
    n_u = nonlinear(u)
    a = half_decay * u + half * n_u
    n_a = nonlinear(a)
    n_b = nonlinear(half_decay * u + half * n_a)
    n_c = nonlinear(half_decay * a + half * (2 * n_b - n_u))
    return decay * u + of_u * n_u + of_ab * (n_a + n_b) + of_c * n_c


def phi_functions(z: Float[Array, ...]) -> tuple[Float[Array, ...], Float[Array, ...], Float[Array, ...]]:
    r"""Return \(\varphi_1, \varphi_2, \varphi_3\), \(\varphi_k(z) = \sum_j z^j / (j + k)!\), to rounding for real z.

    By the series of \(\varphi_3\) and \(\varphi_k = 1/k! + z \varphi_{k+1}\) for |z| < 1, where the quotients
    \(\varphi_1 = (e^z - 1)/z\), \(\varphi_{k+1} = (\varphi_k - 1/k!)/z\) cancel; by the quotients elsewhere.

    Args:
        z: real numbers.

    Returns:
        The three arrays, with derivatives of any order.

    Example:
        >>> [round(float(phi), 4) for phi in phi_functions(jnp.array(0.0))]
        [1.0, 0.5, 0.1667]

    Source: Cox and Matthews (2002), section 2; Minchev and Wright (2005), section 3.
    """
    small = jnp.abs(z) < 1
    inner, outer = jnp.where(small, z, 0), jnp.where(small, 1, z)
    series = jnp.zeros_like(z)
    factorial = 1.0
    coefficients = []
    for k in range(1, TERMS + 4):
        factorial *= k
        if k >= 3:
            coefficients.append(1 / factorial)
    for coefficient in reversed(coefficients):
        series = coefficient + inner * series
    quotient_1 = jnp.expm1(outer) / outer
    quotient_2 = (quotient_1 - 1) / outer
    quotient_3 = (quotient_2 - 0.5) / outer
    near_2 = 0.5 + inner * series
    near_1 = 1 + inner * near_2
    return (
        jnp.where(small, near_1, quotient_1),
        jnp.where(small, near_2, quotient_2),
        jnp.where(small, series, quotient_3),
    )
