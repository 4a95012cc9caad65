"""The model of Lorenz (1963)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ShapeError
from diffassim.models.base import Model, Parameter, Variable
from diffassim.models.numerics.integrators import runge_kutta_4

__all__ = ["Lorenz63"]


class Lorenz63(Model):
    r"""The three-variable convection model.

    .. math:: \dot x = \sigma(y - x),\quad \dot y = x(\rho - z) - y,\quad \dot z = x y - \beta z

    State: array of shape (..., 3). Fourth-order Runge-Kutta steps of length `dt`.

    Args:
        sigma: Prandtl number.
        rho: relative Rayleigh number.
        beta: geometric factor.
        dt: time step.

    Example:
        >>> Lorenz63().tendency(jnp.array([1.0, 1.0, 1.0])).round(4).tolist()
        [0.0, 26.0, -1.6667]

    Source: Lorenz (1963), equations 25 to 27.
    """

    sigma: Any = 10.0
    rho: Any = 28.0
    beta: Any = 8.0 / 3.0
    dt: Any = 0.01

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "sigma": Parameter(bounds=(0.0, float("inf")), long_name="Prandtl number"),
        "rho": Parameter(bounds=(0.0, float("inf")), long_name="relative Rayleigh number"),
        "beta": Parameter(bounds=(0.0, float("inf")), long_name="geometric factor"),
    }

    def tendency(self, x: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
        """Return dx/dt."""
        if x.shape[-1:] != (3,):
            raise ShapeError(f"Lorenz63: the state has 3 components on its last axis, found shape {x.shape}")
        a, b, c = x[..., 0], x[..., 1], x[..., 2]
        return jnp.stack([self.sigma * (b - a), a * (self.rho - c) - b, a * b - self.beta * c], axis=-1)

    def step(self, x: Float[Array, "... 3"], t: Any) -> Float[Array, "... 3"]:
        """Advance by dt."""
        return runge_kutta_4(self.tendency, x, self.dt)

    def variables(self) -> Variable:
        """Return the metadata of the state."""
        return Variable("x", ("component",), "1", "Lorenz-63 state (x, y, z)")
