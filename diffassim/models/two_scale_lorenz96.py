"""The two-scale model of Lorenz (1996): slow variables coupled to fast ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core.errors import ShapeError
from diffassim.core.pytree import Pytree
from diffassim.models.base import Model, Parameter, Variable
from diffassim.models.lorenz96 import STENCIL
from diffassim.models.numerics.integrators import runge_kutta_4
from diffassim.models.numerics.stencil import PeriodicStencil

__all__ = ["TwoScaleLorenz96", "TwoScaleState"]


class TwoScaleState(Pytree):
    """Slow variables, shape (..., n), and the m fast variables of each, shape (..., n, m)."""

    slow: Float[Array, "... n"]
    fast: Float[Array, "... n m"]


class TwoScaleLorenz96(Model):
    r"""Slow variables X and fast variables Y on one circle.

    .. math::
        \dot X_k &= (X_{k+1} - X_{k-2}) X_{k-1} - X_k + F - \frac{h c}{b} \sum_j Y_{j,k} \\
        \dot Y_j &= c b\,(Y_{j-1} - Y_{j+2})\,Y_{j+1} - c\,Y_j + \frac{h c}{b} X_{k(j)}

    where j runs through all n m fast variables as one periodic line. Fourth-order Runge-Kutta steps of length `dt`.

    Args:
        forcing: F.
        coupling: h.
        time_scale: c, how much faster the fast variables are.
        space_scale: b, how much smaller they are.
        dt: time step.

    Raises:
        ShapeError: if slow and fast parts do not belong together.

    Example:
        >>> x = TwoScaleState(jnp.full(4, 10.0), jnp.zeros((4, 10)))
        >>> TwoScaleLorenz96().tendency(x).fast[0, 0].item()
        10.0

    Source: Lorenz (1996), equations 2 and 3; Wilks (2005), equations 1 and 2; Brajard et al. (2021), section 4.
    """

    forcing: Any = 10.0
    coupling: Any = 1.0
    time_scale: Any = 10.0
    space_scale: Any = 10.0
    dt: Any = 0.005

    parameters: ClassVar[Mapping[str, Parameter]] = {
        "forcing": Parameter(long_name="external forcing of the slow variables"),
        "coupling": Parameter(bounds=(0.0, float("inf")), long_name="coupling constant h"),
        "time_scale": Parameter(bounds=(0.0, float("inf")), long_name="time-scale ratio c"),
        "space_scale": Parameter(bounds=(0.0, float("inf")), long_name="space-scale ratio b"),
    }

    def tendency(self, x: TwoScaleState) -> TwoScaleState:
        """Return dx/dt."""
        if x.fast.shape[:-1] != x.slow.shape or x.slow.shape[-1] < 4:
            raise ShapeError(
                f"TwoScaleLorenz96: fast variables of shape {x.fast.shape} do not belong to slow ones of shape "
                f"{x.slow.shape} (n >= 4, fast (n, m))"
            )
        c, b = self.time_scale, self.space_scale
        exchange = self.coupling * c / b
        line = x.fast.reshape((*x.slow.shape[:-1], -1))
        fast = _FAST(line, {"c": c, "b": b}).reshape(x.fast.shape)
        slow = STENCIL(x.slow, {"forcing": self.forcing})
        return TwoScaleState(slow - exchange * jnp.sum(x.fast, axis=-1), fast + exchange * x.slow[..., None])

    def step(self, x: TwoScaleState, t: Any) -> TwoScaleState:
        """Advance by dt."""
        return runge_kutta_4(self.tendency, x, self.dt)

    def variables(self) -> TwoScaleState:
        """Return the metadata of the state."""
        return TwoScaleState(
            Variable("slow", ("site",), "1", "slow variables"),
            Variable("fast", ("site", "subsite"), "1", "fast variables"),
        )  # type: ignore[arg-type]


def _formula(y: tuple[Array, ...], parameters: Any) -> Array:
    behind, here, ahead, far_ahead = y
    c, b = parameters["c"], parameters["b"]
    return c * (b * (behind - far_ahead) * ahead - here)


_FAST = PeriodicStencil(_formula, offsets=(-1, 0, 1, 2))
