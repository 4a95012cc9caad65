"""Linear advection on a periodic line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.models.base import Parameter, SpectralModel, Variable
from diffassim.models.numerics.fourier import frequencies, to_grid, to_modes

__all__ = ["LinearAdvection"]


class LinearAdvection(SpectralModel):
    r"""The transport equation \(\partial_t u + a\,\partial_x u = 0\), solved exactly on the grid's Fourier modes.

    Each step multiplies mode k by \(e^{-2\pi i k C / n}\), C = a dt / spacing the Courant number: no damping and no
    dispersion at any C, an exact shift by C points where C is an integer, linear and conserving the sum. The mode at
    the grid scale (n even) keeps the real part of its phase, so that the step stays real. A finite-volume scheme would
    conserve the sum as well, but upwind damps and Lax-Wendroff disperses at every C that is not an integer.

    Args:
        velocity: a, in grid-length units per time unit; may be negative.
        spacing: grid spacing.
        dt: time step.

    Example:
        >>> LinearAdvection(velocity=1.0).step(jnp.arange(4.0), 0).round(12).tolist()
        [3.0, 0.0, 1.0, 2.0]

    Source: Trefethen (2000), chapter 3.
    """

    velocity: Any = 1.0
    spacing: Any = 1.0
    dt: Any = 1.0

    parameters: ClassVar[Mapping[str, Parameter]] = {"velocity": Parameter(long_name="advection velocity")}

    def step(self, u: Float[Array, "... n"], t: Any) -> Float[Array, "... n"]:
        """Advance by dt."""
        n = u.shape[-1]
        courant = jnp.asarray(self.velocity * self.dt / self.spacing, u.dtype)
        (k,) = frequencies((n,), self.split)
        phase = (2 * jnp.pi / n) * courant * k.astype(u.dtype)
        sine = jnp.where(2 * k == n, 0, jnp.sin(phase))
        factor = lax.complex(jnp.cos(phase), -sine).reshape((1,) * (u.ndim - 1) + (-1,))
        return to_grid(to_modes(u, 1, self.split) * factor, (n,), self.split)

    def variables(self) -> Variable:
        """Return the metadata of the state."""
        return Variable("u", ("x",), "1", "advected tracer")
