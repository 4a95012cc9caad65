"""A loss that passes through an analysis: how well does the forecast from it predict observations it has not seen?"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.pytree import Pytree, static
from diffassim.models.rollout import rollout
from diffassim.variational.costs.strong_constraint import StrongConstraint4DVar
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.minimize import minimize

__all__ = ["ForecastMisfit", "WindowSample"]


class WindowSample(Pytree):
    """One training sample: a background, the window's observations, and the observations that follow it.

    Args:
        background: state at the window start.
        window: `Observations` to assimilate.
        future: `Observations` to predict, steps counted from the window start.
        start: number of the window's first step.
    """

    background: Any
    window: Any
    future: Any
    start: Any = 0


class ForecastMisfit(Pytree):
    r"""Mean squared whitened misfit of the forecast that starts from the analysis.

    .. math:: L(\theta) = \frac1m \sum_i |R_i^{-1/2}(y_i - H_i(M_\theta(x_a(\theta))))|^2 ,\qquad
        x_a(\theta) = x_b + B^{1/2} \arg\min_v J(v; \theta)

    The derivative with respect to the model parameters \(\theta\) has two parts, through the forecast and, by the
    implicit function theorem, through the analysis. Only observations enter: no truth.

    Args:
        B: background-error covariance of the analysis.
        steps: window length (static).
        lead: model steps from the window start to the last future observation (static).
        minimizer: see `minimize`.

    Source: loss through the solution of an inner variational problem, Farchi et al. (2021), section 2; the implicit
    derivative as in `diffassim.variational.minimizers.implicit`.
    """

    B: Any
    steps: int = static()
    lead: int = static()
    minimizer: Any = GaussNewton()

    def __call__(self, model: Any, sample: WindowSample) -> Float[Array, ""]:
        """Return the loss of one sample (batch it with `jax.vmap`)."""
        cost = StrongConstraint4DVar(
            model, sample.background, self.B, sample.window, start=sample.start, steps=self.steps
        )
        x_a = minimize(cost, self.minimizer).state
        states = rollout(model, x_a, self.lead, start=sample.start, at=sample.future.rows)
        misfit = tree.squared_norm(sample.future.innovation(states))
        return misfit / jnp.maximum(sample.future.count(), 1).astype(misfit.dtype)

    def batch(self, model: Any, samples: WindowSample) -> Float[Array, ""]:
        """Return the mean loss of samples with a leading axis."""
        return jnp.mean(jax.vmap(self, in_axes=(None, 0))(model, samples))
