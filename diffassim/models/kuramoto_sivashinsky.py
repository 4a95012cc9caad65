"""The equation of Kuramoto and Sivashinsky on a periodic line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from diffassim.core.errors import ShapeError, require_positive
from diffassim.models.base import Parameter, SpectralModel, Variable
from diffassim.models.numerics.exponential import exponential_runge_kutta_4
from diffassim.models.numerics.fourier import kept_modes, to_grid, to_modes, wavenumbers

__all__ = ["KuramotoSivashinsky"]


class KuramotoSivashinsky(SpectralModel):
    r"""Long waves that grow, short ones that are damped, and advection of u by itself that passes energy between them.

    .. math:: \partial_t u = -\tfrac12 \partial_x u^2 - \partial_x^2 u - \nu\,\partial_x^4 u

    Fourier modes, the product freed of aliases by the 2/3 rule, fourth-order exponential Runge-Kutta steps. The mean of
    u is conserved. State: u at n equidistant points, shape (..., n), n >= 4; chaotic for lengths above about 20.

    Args:
        length: L, period of the line.
        viscosity: \(\nu\), of the fourth derivative.
        dt: time step.

    Raises:
        ConfigurationError: if the length is not positive.
        ShapeError: if the state has fewer than 4 points.

    Example:
        >>> model = KuramotoSivashinsky(length=2 * math.pi, dt=1.0)
        >>> u = 1e-9 * jnp.sin(4 * math.pi / 12 * jnp.arange(12.0))
        >>> round(float(jnp.max(model.step(u, 0)) / jnp.max(u)) * math.exp(12), 5)  # grows by exp(k^2 - k^4)
        1.0

    Source: Kassam and Trefethen (2005), section 4, whose case is the default; n = 128 there.
    """

    length: Any = 32 * math.pi
    viscosity: Any = 1.0
    dt: Any = 0.25

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "length": Parameter(bounds=(0.0, float("inf")), long_name="period of the line"),
        "viscosity": Parameter(bounds=(0.0, float("inf")), long_name="coefficient of the fourth derivative"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("KuramotoSivashinsky.length", self.length)

    def tendency(self, u: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """Return du/dt."""
        linear, advection = self._terms(u)
        modes = to_modes(u, 1, self.split)
        return to_grid(linear.astype(modes.dtype) * modes + advection(modes), u.shape[-1:], self.split)

    def step(self, u: Float[Array, "... n"], t: Any) -> Float[Array, "... n"]:
        """Advance by dt."""
        linear, advection = self._terms(u)
        modes = exponential_runge_kutta_4(linear, advection, to_modes(u, 1, self.split), self.dt)
        return to_grid(modes, u.shape[-1:], self.split)

    def variables(self) -> Variable:
        """Return the metadata of the state."""
        return Variable("u", ("x",), "1", "Kuramoto-Sivashinsky state")

    def _terms(self, u: Array) -> tuple[Array, Callable[[Array], Array]]:
        """Return the linear term, one number for each mode, and the nonlinear one, from modes to modes."""
        n = u.shape[-1]
        if u.ndim < 1 or n < 4:
            raise ShapeError(f"KuramotoSivashinsky: the state needs at least 4 points, found shape {u.shape}")
        (k,) = wavenumbers((n,), self.length, u.dtype, self.split)
        kept = kept_modes((n,), u.dtype, self.split)
        slope = lax.complex(jnp.zeros_like(k), -0.5 * k * kept)

        def advection(modes: Complex[Array, "... m"]) -> Complex[Array, "... m"]:
            u = to_grid(kept.astype(modes.dtype) * modes, (n,), self.split)
            return slope * to_modes(jnp.square(u), 1, self.split)

        return jnp.square(k) - jnp.asarray(self.viscosity, k.dtype) * jnp.square(jnp.square(k)), advection
