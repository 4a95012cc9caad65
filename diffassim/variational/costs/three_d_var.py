"""3D-Var: one state, one time, no model."""

from __future__ import annotations

from typing import Any

from diffassim.models.base import Model
from diffassim.variational.costs.strong_constraint import StrongConstraint4DVar

__all__ = ["ThreeDVar"]


class _NoModel(Model):
    """The identity: nothing moves within the window."""

    dt: float = 1.0

    def step(self, x: Any, t: Any) -> Any:
        return x


def ThreeDVar(background: Any, B: Any, observations: Any) -> StrongConstraint4DVar:
    r"""Return the 3D-Var cost \(J(v) = \tfrac12|v|^2 + \tfrac12|R^{-1/2}(y - H(x_b + B^{1/2} v))|^2\).

    It is strong-constraint 4D-Var over a window of no steps, so all that holds there holds here.

    Args:
        background: background state x_b, a pytree of arrays.
        B: background-error covariance.
        observations: `Observations` at step 0, or a tuple of them.

    Returns:
        The cost.

    Raises:
        ShapeError: if an observation is not at step 0, or B does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> da.minimize(da.ThreeDVar(jnp.array([1.0]), da.covariances.Diagonal(std=1.0), obs)).state.tolist()
        [2.0]

    Source: Lorenc (1986); Parrish and Derber (1992).
    """
    return StrongConstraint4DVar(_NoModel(), background, B, observations, steps=0)
