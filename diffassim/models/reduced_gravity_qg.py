"""The 1.5-layer quasi-geostrophic model of a wind-driven gyre in a closed basin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ShapeError
from diffassim.core.kernels import kernel
from diffassim.models.base import Model, Parameter, Variable
from diffassim.models.numerics.arakawa import arakawa_jacobian
from diffassim.models.numerics.helmholtz import laplacian, solve_helmholtz
from diffassim.models.numerics.integrators import runge_kutta_4

__all__ = ["ReducedGravityQG"]


class ReducedGravityQG(Model):
    r"""One active layer over a deep one at rest, driven by the curl of the wind: eddies in two gyres and a jet.

    .. math::
        \partial_t q = -\psi_x - \varepsilon J(\psi, q) - r \Delta \psi + A_2 \Delta^2 \psi - A_4 \Delta^3 \psi
            - 2 \pi \tau \sin(2 \pi y), \qquad q = \Delta \psi - F \psi, \quad \psi = \Delta \psi = \Delta^2 \psi = 0
            \text{ on the walls}

    On the unit square, with five-point Laplacians, Arakawa's Jacobian, centered differences and classical Runge-Kutta
    steps. \(\psi\) is found from q directly (`solve_helmholtz`), so that the discrete equation holds to rounding. One
    unit of time is that in which a planetary wave would cross the basin, were it not for F; the default parameters are
    those of the published twin experiment, which has 129 x 129 points and observes every four steps.

    State: \(\psi\), shape (..., n, n), axes (y, x), walls included, n >= 4. Values on the walls are not read, and are
    zero afterwards.

    Args:
        froude: F, squared ratio of the basin's size to the radius of deformation.
        rossby: \(\varepsilon\), factor of the advection.
        drag: r, bottom friction.
        viscosity: \(A_2\), of Laplacian friction.
        hyperviscosity: \(A_4\), of biharmonic friction.
        wind: \(\tau\), amplitude of the wind's curl in units of 2 pi.
        dt: time step.

    Raises:
        ShapeError: if the state is not square, or has fewer than 4 points a side.

    Example:
        >>> model = ReducedGravityQG()
        >>> psi = model.step(jnp.zeros((17, 17)), 0)  # the wind starts two gyres
        >>> bool(psi[4, 8] > 0), bool(psi[12, 8] < 0), float(jnp.abs(psi[0]).max())
        (True, True, 0.0)

    Source: Sakov and Oke (2008), appendix; its program EnKF-Matlab for the forcing and the boundary values.
    """

    froude: Any = 1600.0
    rossby: Any = 1e-5
    drag: Any = 0.0
    viscosity: Any = 0.0
    hyperviscosity: Any = 2e-12
    wind: Any = 1.0
    dt: Any = 1.25

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "froude": Parameter(bounds=(0.0, float("inf")), long_name="squared ratio of basin size and deformation radius"),
        "rossby": Parameter(bounds=(0.0, float("inf")), long_name="factor of the advection"),
        "drag": Parameter(bounds=(0.0, float("inf")), long_name="bottom friction"),
        "viscosity": Parameter(bounds=(0.0, float("inf")), long_name="coefficient of Laplacian friction"),
        "hyperviscosity": Parameter(bounds=(0.0, float("inf")), long_name="coefficient of biharmonic friction"),
        "wind": Parameter(long_name="amplitude of the wind's curl"),
    }

    def tendency(self, psi: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
        r"""Return \(\partial_t \psi\)."""
        self._check(psi)
        return _with_walls(self._slope(psi[..., 1:-1, 1:-1]))

    def step(self, psi: Float[Array, "... n n"], t: Any) -> Float[Array, "... n n"]:
        """Advance by dt."""
        self._check(psi)
        inner = runge_kutta_4(self._slope, psi[..., 1:-1, 1:-1], jnp.asarray(self.dt, psi.dtype))
        return _with_walls(inner)

    def potential_vorticity(self, psi: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
        """Return q, zero on the walls."""
        self._check(psi)
        inner = psi[..., 1:-1, 1:-1]
        h = 1 / (psi.shape[-1] - 1)
        return _with_walls(laplacian(inner, h) - jnp.asarray(self.froude, psi.dtype) * inner)

    def variables(self) -> Variable:
        """Return the metadata of the state."""
        return Variable("psi", ("y", "x"), "1", "stream function")

    def _check(self, psi: Array) -> None:
        if psi.ndim < 2 or psi.shape[-1] != psi.shape[-2] or psi.shape[-1] < 4:
            raise ShapeError(
                "ReducedGravityQG: the state must have two trailing axes of equal length, at least 4; found "
                f"{psi.shape}"
            )

    def _slope(self, psi: Array) -> Array:
        """Return the tendency of the stream function at the inner points."""
        names = ("froude", "rossby", "drag", "viscosity", "hyperviscosity", "wind")
        return _tendency(psi, {name: jnp.asarray(getattr(self, name), psi.dtype) for name in names})


@kernel()  # compiled once for the four stages
def _tendency(psi: Array, p: dict[str, Array]) -> Array:
    n = psi.shape[-1] + 1
    h = 1 / n
    y = jnp.arange(1, n, dtype=psi.dtype) * h
    curl = (-2 * math.pi * p["wind"] * jnp.sin(2 * math.pi * y)).reshape((1,) * (psi.ndim - 2) + (-1, 1))
    padded = jnp.pad(psi, [(0, 0)] * (psi.ndim - 1) + [(1, 1)])
    psi_x = (padded[..., 2:] - padded[..., :-2]) * (0.5 * n)
    zeta = laplacian(psi, h)
    zeta_2 = laplacian(zeta, h)
    zeta_4 = laplacian(zeta_2, h)
    # J(psi, q) = J(psi, zeta), because J(psi, psi) = 0
    advection = psi_x + p["rossby"] * arakawa_jacobian(psi, zeta, h)
    friction = p["drag"] * zeta - p["viscosity"] * zeta_2 + p["hyperviscosity"] * zeta_4
    return solve_helmholtz(curl - advection - friction, h, p["froude"])


def _with_walls(x: Array) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 1), (1, 1)])
