"""Two-dimensional flow without divergence on a periodic square, also as Kolmogorov flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from diffassim.core.errors import ConfigurationError, ShapeError, concrete, require_positive
from diffassim.core.pytree import static
from diffassim.models.base import Parameter, SpectralModel, Variable
from diffassim.models.numerics.exponential import exponential_runge_kutta_4
from diffassim.models.numerics.fourier import frequencies, kept_modes, to_grid, to_modes, wavenumbers

__all__ = ["NavierStokes"]


class NavierStokes(SpectralModel):
    r"""The Navier-Stokes equations in two dimensions for the vorticity \(\omega = \partial_x v - \partial_y u\).

    .. math::
        \partial_t \omega = -(\partial_x^2 - \partial_y^2)(u v) + \partial_x \partial_y (u^2 - v^2)
            + \nu \Delta \omega - \alpha \omega - \chi \kappa \cos(\kappa y), \qquad
        (u, v) = (-\partial_y, \partial_x) \Delta^{-1} \omega, \quad \kappa = 2 \pi m / L

    The first two terms are \(-\mathbf{u} \cdot \nabla \omega\), in the form that needs the fewest transforms, four. The
    last one is the curl of the force \(\chi \sin(\kappa y)\) along x, the flow of Kolmogorov. Fourier modes, products
    freed of aliases by the 2/3 rule, fourth-order exponential Runge-Kutta steps. Without viscosity, drag and force the
    tendency conserves energy and enstrophy; the mean vorticity is conserved unless there is drag.

    State: vorticity at n x n points, shape (..., n, n), axes (y, x), n >= 4.

    Args:
        viscosity: \(\nu\), in squared length per time.
        drag: \(\alpha\), in 1 per time.
        force: \(\chi\), acceleration.
        wavenumber: m, waves of the force along y (static).
        length: L, side of the square.
        dt: time step.

    Raises:
        ConfigurationError: if the length is not positive, or the wavenumber is not a positive integer.
        ShapeError: if the state is not square, has fewer than 4 points a side, or too few for the force.

    Example:
        >>> model = NavierStokes(viscosity=0.1, dt=1.0)
        >>> wave = jnp.cos(2 * math.pi / 8 * jnp.arange(8.0))
        >>> vortices = wave[:, None] * wave[None, :]  # of Taylor and Green: decay by exp(-2 nu t)
        >>> bool(jnp.allclose(model.step(vortices, 0), math.exp(-0.2) * vortices, atol=1e-6))
        True

    Source: Basdevant (1983), equation 12, for the form of the advection; Chandler and Kerswell (2013), section 2, for
    the flow; Kassam and Trefethen (2005) for the steps.
    """

    viscosity: Any = 1e-2
    drag: Any = 0.0
    force: Any = 0.0
    wavenumber: int = static(default=4)
    length: Any = 2 * math.pi
    dt: Any = 0.02

    space_axes: ClassVar[int] = 2
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "viscosity": Parameter(bounds=(0.0, float("inf")), long_name="kinematic viscosity"),
        "drag": Parameter(bounds=(0.0, float("inf")), long_name="linear drag"),
        "force": Parameter(long_name="amplitude of the force"),
        "length": Parameter(bounds=(0.0, float("inf")), long_name="side of the square"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("NavierStokes.length", self.length)
        if not isinstance(self.wavenumber, int) or self.wavenumber < 1:
            raise ConfigurationError(f"NavierStokes: wavenumber must be a positive integer, found {self.wavenumber}")

    def tendency(self, vorticity: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
        """Return the vorticity's derivative in time."""
        linear, nonlinear = self._terms(vorticity)
        modes = to_modes(vorticity, 2, self.split)
        return to_grid(linear.astype(modes.dtype) * modes + nonlinear(modes), vorticity.shape[-2:], self.split)

    def step(self, vorticity: Float[Array, "... n n"], t: Any) -> Float[Array, "... n n"]:
        """Advance by dt."""
        linear, nonlinear = self._terms(vorticity)
        modes = exponential_runge_kutta_4(linear, nonlinear, to_modes(vorticity, 2, self.split), self.dt)
        return to_grid(modes, vorticity.shape[-2:], self.split)

    def velocity(self, vorticity: Float[Array, "... n n"]) -> Float[Array, "2 ... n n"]:
        """Return (u, v), the components along x (the last axis) and y."""
        self._check(vorticity)
        modes = to_modes(vorticity, 2, self.split)
        factors = _velocity_factors(*wavenumbers(vorticity.shape[-2:], self.length, vorticity.dtype, self.split))
        u, v = (f.reshape((1,) * (modes.ndim - 2) + f.shape) for f in factors)
        return to_grid(jnp.stack([u * modes, v * modes]), vorticity.shape[-2:], self.split)

    def variables(self) -> Variable:
        """Return the metadata of the state."""
        return Variable("vorticity", ("y", "x"), "1", "relative vorticity")

    def _check(self, vorticity: Array) -> None:
        shape = vorticity.shape[-2:]
        if len(shape) < 2 or shape[0] != shape[1] or shape[0] < 4:
            raise ShapeError(
                f"NavierStokes: the state must have two trailing axes of equal length, at least 4; found "
                f"{vorticity.shape}"
            )

    def _terms(self, vorticity: Array) -> tuple[Array, Callable[[Array], Array]]:
        """Return the linear term, one number for each mode, and the nonlinear one, from modes to modes."""
        self._check(vorticity)
        shape, dtype = vorticity.shape[-2:], vorticity.dtype
        n = shape[0]
        y, x = wavenumbers(shape, self.length, dtype, self.split)
        kept = kept_modes(shape, dtype, self.split)
        u, v = _velocity_factors(y, x)
        to_velocity = jnp.stack([kept.astype(u.dtype) * u, kept.astype(v.dtype) * v])
        # of u v and of u^2 - v^2
        of_products = (jnp.stack([jnp.square(x) - jnp.square(y), -x * y]) * kept[None]).astype(u.dtype)
        force = self._force(n, dtype, y)

        def nonlinear(modes: Complex[Array, "... n m"]) -> Complex[Array, "... n m"]:
            leading = (1,) * (modes.ndim - 2)
            factors, back = (f.reshape((2, *leading, *f.shape[1:])) for f in (to_velocity, of_products))
            u, v = to_grid(factors * modes[None], shape, self.split)
            products = to_modes(jnp.stack([u * v, (u - v) * (u + v)]), 2, self.split)
            return jnp.sum(back * products, axis=0) + force.reshape((*leading, *force.shape))

        linear = -jnp.asarray(self.viscosity, dtype) * (jnp.square(x) + jnp.square(y)) - jnp.asarray(self.drag, dtype)
        return linear.reshape((1,) * (vorticity.ndim - 2) + linear.shape), nonlinear

    def _force(self, n: int, dtype: Any, y: Array) -> Complex[Array, "n m"]:
        m = self.wavenumber
        known = concrete(self.force)
        along_y, along_x = frequencies((n, n), self.split)
        waves = ((jnp.abs(along_y) == m) & (along_x == 0)).astype(dtype)
        if known is not None and not known.any():
            return lax.complex(jnp.zeros_like(waves), jnp.zeros_like(waves))
        if 2 * m >= n:
            raise ShapeError(
                f"NavierStokes: {n} points cannot carry the force's wavenumber {m}; take more than {2 * m}"
            )
        amplitude = -0.5 * n * n * jnp.asarray(self.force, dtype) * y[m, 0]
        return lax.complex(amplitude * waves, jnp.zeros_like(waves))


def _velocity_factors(y: Array, x: Array) -> tuple[Array, Array]:
    """Return what turns modes of the vorticity into those of u and v, zero for the mean."""
    squared = jnp.square(x) + jnp.square(y)
    inverse = jnp.where(squared > 0, 1, 0) / jnp.where(squared > 0, squared, 1)
    zero = jnp.zeros_like(squared)
    return lax.complex(zero, y * inverse), lax.complex(zero, -x * inverse)
