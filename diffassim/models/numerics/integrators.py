"""Time stepping of ordinary differential equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["runge_kutta_4"]


def runge_kutta_4(tendency: Callable[[Any], Any], x: Any, dt: Any) -> Any:
    r"""Take one step of the classical fourth-order Runge-Kutta scheme.

    Args:
        tendency: x -> dx/dt, pytree to pytree.
        x: state, a pytree of arrays.
        dt: time step.

    Returns:
        The state at time dt later.

    Example:
        >>> round(runge_kutta_4(lambda x: -x, 1.0, 0.1), 7)
        0.9048375

    Source: Hairer, Norsett and Wanner (1993), table II.1.2.
    """

    def moved(slope: Any, fraction: float) -> Any:
        return jax.tree.map(lambda a, b: a + fraction * dt * b, x, slope)

    k1 = tendency(x)
    k2 = tendency(moved(k1, 0.5))
    k3 = tendency(moved(k2, 0.5))
    k4 = tendency(moved(k3, 1.0))
    return jax.tree.map(lambda a, b, c, d, e: a + dt / 6 * (b + 2 * c + 2 * d + e), x, k1, k2, k3, k4)
