"""The error of a forecast from an analysis, as a score to differentiate."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.core.pytree import Pytree, static
from diffassim.observations.container import as_streams, observed_rows
from diffassim.variational.costs.base import as_cost
from diffassim.variational.costs.window import innovations

__all__ = ["ForecastError"]


class ForecastError(Pytree):
    r"""Squared error of the forecast from a control vector, in the norm of the verification's error covariance.

    .. math::
        e(v) = \sum_i |C_i^{-1/2}(z_i - H_i(M_{0 \to k_i}(x_0(v))))|^2

    What verifies are `Observations`: an analysis of a later time (its values at that step, `error` the norm), or
    observations, withheld or of the time after the window. Their missing values do not count.

    `observation_impact(cost, solution, ForecastError(cost, verification))` is the forecast sensitivity to observations
    (FSOI): the share of each observed value in e(v_a) - e(0), the error of the forecast from the analysis minus that
    of the forecast from the background. The derivative of e by anything else in the cost is taken through `minimize`,
    see the example.

    Args:
        cost: a cost over a window with a model.
        verification: `Observations`, or a tuple of them; steps count from the window start and may lie beyond its end.
        steps: length of the forecast (static); default: the last step of the verification.

    Raises:
        ConfigurationError: if the cost has no model.
        ShapeError: if a verifying step is negative or beyond `steps`, or traced without `steps`.

    Example:
        How would the forecast error respond to the standard deviations of B and R, and to the model's growth rate?

        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> growth = da.models.FunctionModel(lambda x, t, a: a * x, arguments=1.0)
        >>> y = da.Observations(jnp.array([[2.0]]), [0], error=one)
        >>> cost = da.StrongConstraint4DVar(growth, jnp.zeros(1), one, y)
        >>> later = da.Observations(jnp.array([[3.0]]), [5], error=one)
        >>> error = lambda cost: ForecastError(cost, later)(da.minimize(cost).control)
        >>> g = jax.grad(error, allow_int=True)(cost)
        >>> float(g.B.std.round(6)), float(g.observations[0].error.std.round(6)), float(g.model.arguments.round(6))
        (-4.0, 4.0, -20.0)

    Source: Langland and Baker (2004), equation 1; Cardinali (2009).
    """

    cost: Any
    verification: Any
    steps: int | None = static(default=None)

    def __post_init__(self) -> None:
        if as_cost(self.cost).window() is None:
            raise ConfigurationError(
                f"ForecastError: {type(self.cost).__name__} has no model to forecast with; build a cost over a window "
                "(StrongConstraint4DVar) around the analysis, or give observation_impact a function of your own"
            )
        streams = as_streams(self.verification)
        known = [concrete(stream.last_rows) for stream in streams]
        steps = self.steps
        if any(k is None for k in known):
            if steps is None:
                raise ShapeError("ForecastError: give `steps`; the steps of the verification are traced here")
        else:
            given = [int(k) for rows in known if rows is not None for k in rows]
            steps = max(given, default=0) if steps is None else steps
            wrong = [k for k in given if not 0 <= k <= steps]
            if wrong:
                raise ShapeError(f"ForecastError: a verifying step {wrong[0]} lies outside of 0 to {steps}")
        self._set(verification=streams, steps=steps)

    def __call__(self, v: Any) -> Float[Array, ""]:
        """Return e(v)."""
        states = self.cost.trajectory(v, self.steps, at=observed_rows(self.verification))
        return tree.squared_norm(innovations(self.verification, states))
