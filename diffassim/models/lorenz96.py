"""The model of Lorenz (1996)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Array, Float

from diffassim.core.errors import ShapeError
from diffassim.models.base import Model, Parameter, Variable
from diffassim.models.numerics.stencil import PeriodicStencil
from diffassim.models.numerics.stencil_runge_kutta import stencil_runge_kutta_4

__all__ = ["STENCIL", "Lorenz96"]


class Lorenz96(Model):
    r"""Advection, damping and forcing on a latitude circle.

    .. math:: \dot x_i = (x_{i+1} - x_{i-2})\,x_{i-1} - x_i + F,\qquad i \text{ periodic}

    State: array of shape (..., n), n >= 4. Fourth-order Runge-Kutta steps of length `dt`; one time unit is about five
    days of the atmosphere.

    Args:
        forcing: F, a number or an array that broadcasts to the state; chaotic for F = 8.
        dt: time step.

    Raises:
        ShapeError: if the state has fewer than 4 variables.

    Example:
        >>> import jax.numpy as jnp
        >>> Lorenz96().tendency(jnp.full(5, 8.0)).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0]

    Source: Lorenz (1996), equation 1; Lorenz and Emanuel (1998).
    """

    forcing: Any = 8.0
    dt: Any = 0.05

    parameters: ClassVar[Mapping[str, Parameter]] = {"forcing": Parameter(long_name="external forcing")}

    def tendency(self, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return dx/dt."""
        _check(x)
        return STENCIL(x, {"forcing": self.forcing})

    def step(self, x: Float[Array, "... n"], t: Any) -> Float[Array, "... n"]:
        """Advance by dt."""
        _check(x)
        return stencil_runge_kutta_4(STENCIL, x, self.dt, {"forcing": self.forcing})

    def variables(self) -> Variable:
        """Return the metadata of the state."""
        return Variable("x", ("site",), "1", "Lorenz-96 state")


def _check(x: Array) -> None:
    if x.ndim < 1 or x.shape[-1] < 4:
        raise ShapeError(f"Lorenz96: the state needs at least 4 variables on its last axis, found shape {x.shape}")


def _formula(x: tuple[Array, ...], parameters: Any) -> Array:
    far_behind, behind, here, ahead = x
    return (ahead - far_behind) * behind - here + parameters["forcing"]


STENCIL = PeriodicStencil(_formula, offsets=(-2, -1, 0, 1))
