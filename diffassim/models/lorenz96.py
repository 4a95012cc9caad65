"""The model of Lorenz (1996)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float

from diffassim.core.errors import ShapeError
from diffassim.core.linear import linear_map
from diffassim.models.base import Model, Parameter, Variable
from diffassim.models.integrators import runge_kutta_4
from diffassim.models.stencil import halo

__all__ = ["Lorenz96", "advection"]


class Lorenz96(Model):
    r"""Advection, damping and forcing on a latitude circle:

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
        if x.ndim < 1 or x.shape[-1] < 4:
            raise ShapeError(f"Lorenz96: the state needs at least 4 variables on its last axis, found shape {x.shape}")
        return advection(x) - x + self.forcing

    def step(self, x: Float[Array, "... n"], t: Any) -> Float[Array, "... n"]:
        """Advance by dt."""
        return runge_kutta_4(self.tendency, x, self.dt)

    def variables(self) -> Variable:
        """Return the metadata of the state."""
        return Variable("x", ("site",), "1", "Lorenz-96 state")


@jax.custom_jvp
def advection(x: Float[Array, "... n"]) -> Float[Array, "... n"]:
    r"""Return \((x_{i+1} - x_{i-2})\,x_{i-1}\).

    The adjoint is written as a gather, because the derived one scatters into padded arrays at twice the time.
    """
    ahead, far_behind, behind = halo(x, (1, -2, -1))
    return (ahead - far_behind) * behind


@advection.defjvp
def _advection_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (u,) = primals, tangents
    return advection(x), linear_map(_tangent, _adjoint, u, x)


def _tangent(u: Any, x: Any) -> Any:
    u_ahead, u_far, u_behind = halo(u, (1, -2, -1))
    ahead, far, behind = halo(x, (1, -2, -1))
    return (u_ahead - u_far) * behind + (ahead - far) * u_behind


def _adjoint(w: Any, x: Any) -> Any:
    w_behind, w_ahead, w_far = halo(w, (-1, 1, 2))
    far_behind, behind, ahead, far_ahead = halo(x, (-2, -1, 1, 2))
    return far_behind * w_behind - ahead * w_far + (far_ahead - behind) * w_ahead
