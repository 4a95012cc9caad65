"""Bare hand-written versions without this package: what the measured times are compared with."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["FORWARDS", "cost", "gauss_newton", "numpy_cost"]

FORCING = 8.0


def _runge_kutta_4(tendency: Any, x: Any, dt: float) -> Any:
    k1 = tendency(x)
    k2 = tendency(x + dt / 2 * k1)
    k3 = tendency(x + dt / 2 * k2)
    k4 = tendency(x + dt * k3)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _rolled(x: Any) -> Any:
    return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + FORCING


def _padded(x: Any) -> Any:
    p = jnp.concatenate([x[-2:], x, x[:1]])
    return (p[3:] - p[:-3]) * p[1:-2] - x + FORCING


def _barred(x: Any) -> Any:
    p = lax.optimization_barrier(jnp.concatenate([x[-2:], x, x[:1]]))
    return (p[3:] - p[:-3]) * p[1:-2] - x + FORCING


# The same model in the ways a practised hand writes it; which is fastest depends on the size.
FORWARDS = {"roll": _rolled, "halo": _padded, "halo behind a barrier": _barred}


def observed_rows(x: Any, times: int, every: int, dt: float, tendency: Any = _barred) -> Any:
    """Return the states at steps 0, every, 2 every, ...: a scan of scans."""

    def step(x: Any, _: Any) -> Any:
        return _runge_kutta_4(tendency, x, dt), None

    def interval(x: Any, _: Any) -> Any:
        following, _ = lax.scan(step, x, None, length=every)
        return following, following

    return jnp.concatenate([x[None], lax.scan(interval, x, None, length=times - 1)[1]])


def cost(x: Any, x_b: Any, y: Any, every: int, dt: float, tendency: Any = _barred) -> Any:
    """Return J(x) = |x - x_b|^2 / 2 + sum_k |y_k - x_k|^2 / 2."""
    departures = y - observed_rows(x, y.shape[0], every, dt, tendency)
    return 0.5 * jnp.sum((x - x_b) ** 2) + 0.5 * jnp.sum(departures**2)


@partial(jax.jit, static_argnames=("every", "dt", "max_outer", "max_inner"))
def gauss_newton(
    x_b: Any, y: Any, tolerance: float, inner_tolerance: float, *, every: int, dt: float, max_outer: int = 20,
    max_inner: int = 100,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Minimize J by Gauss-Newton with conjugate gradients, without any globalization.

    Args:
        x_b: background, where the search starts.
        y: observations, shape (times, n).
        tolerance: stop when the gradient's norm is below this.
        inner_tolerance: relative residual of the conjugate gradients.
        every: steps between observation times.
        dt: time step.
        max_outer: limit on linearizations.
        max_inner: limit on conjugate-gradient iterations in each.

    Returns:
        The minimizer, the gradient's norm there, and the number of linearizations.
    """

    def residuals(x: Any) -> Any:
        return jnp.concatenate([(x - x_b)[None], observed_rows(x, y.shape[0], every, dt) - y])

    def conjugate_gradients(product: Any, b: Any) -> Any:
        def body(s: Any) -> Any:
            p, r, d, rr, k = s
            Hd = product(d)
            alpha = rr / (d @ Hd)
            r_next = r - alpha * Hd
            rr_next = r_next @ r_next
            return p + alpha * d, r_next, r_next + rr_next / rr * d, rr_next, k + 1

        target = inner_tolerance**2 * (b @ b)
        start = (jnp.zeros_like(b), b, b, b @ b, 0)
        return lax.while_loop(lambda s: (s[3] > target) & (s[4] < max_inner), body, start)[0]

    def body(s: Any) -> Any:
        x, _, k = s
        r, tangent = jax.linearize(residuals, x)
        adjoint = jax.linear_transpose(tangent, x)
        (gradient,) = adjoint(r)
        norm = jnp.sqrt(gradient @ gradient)
        b = jnp.where(norm <= tolerance, 0, -gradient)  # converged: no further inner iteration
        return x + conjugate_gradients(lambda d: adjoint(tangent(d))[0], b), norm, k + 1

    start = (x_b, jnp.asarray(jnp.inf, x_b.dtype), 0)
    return lax.while_loop(lambda s: (s[1] > tolerance) & (s[2] < max_outer), body, start)


def numpy_cost(x: Any, x_b: Any, y: Any, every: int, dt: float) -> float:
    """Return J(x) in plain NumPy."""
    n = x.size
    p = np.empty(n + 3)

    def tendency(x: Any) -> Any:
        p[2:-1], p[:2], p[-1] = x, x[-2:], x[0]
        slope = p[3:] - p[:-3]
        slope *= p[1:-2]
        slope -= x
        slope += FORCING
        return slope

    total = np.sum((x - x_b) ** 2) + np.sum((y[0] - x) ** 2)
    for row in y[1:]:
        for _ in range(every):
            x = _runge_kutta_4(tendency, x, dt)
        total += np.sum((row - x) ** 2)
    return 0.5 * float(total)
