"""A generative prior as the background term of a variational cost."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from diffassim.core.checks import count_of
from diffassim.core.pytree import Pytree, static
from diffassim.covariances.base import NotAvailableError
from diffassim.learned.priors.base import GenerativePrior
from diffassim.variational.costs.strong_constraint import StrongConstraint4DVar
from diffassim.variational.costs.three_d_var import ThreeDVar

__all__ = ["DecodedPrior", "prior_cost"]


class DecodedPrior(Pytree):
    r"""Stands for B: the control vector is the noise v ~ N(0, I) from which the prior's flow makes a state.

    Args:
        prior: generative prior of states.
        origin: the cost's background, the state that belongs to v = 0.
        steps: noise levels of the flow (static).
    """

    prior: GenerativePrior
    origin: Any
    steps: int = static(default=24)

    def control_like(self, x: Any) -> Any:
        """Return the zero control vector."""
        return jnp.zeros_like(x)

    def solve(self, x: Any) -> Any:
        """Raise `NotAvailableError`: no state is led back to its noise."""
        raise NotAvailableError("DecodedPrior has no solve: the flow is not turned around; start from control vectors")

    def sqrt(self, v: Any) -> Any:
        """Return the state that belongs to v, less the background."""
        return self.prior.decode(v, self.steps) - self.origin


def prior_cost(
    prior: GenerativePrior, observations: Any, model: Any = None, *, levels: int = 24, **options: Any
) -> StrongConstraint4DVar:
    r"""Return the cost of 3D-Var or strong-constraint 4D-Var with a generative prior in place of x_b and B.

    .. math:: J(v) = \tfrac12 |v|^2 + \tfrac12 \sum_i |R_i^{-1/2} (y_i - H_i(M_{0 \to k_i}(G(v))))|^2

    G is the flow of the probability from noise to states, so that \(|v|^2 / 2\) is the prior's term exactly. J is a sum
    of squares like every other cost: all minimizers, implicit gradients (with respect to the network's weights as
    well), and the posterior products in the space of v work with it. For a Gaussian prior it is the classical cost.

    Args:
        prior: generative prior of the state at the window start.
        observations: `Observations`, or a tuple of them.
        model: forward model; None: all observations hold at step 0.
        levels: noise levels of the flow (static).
        **options: of `StrongConstraint4DVar`.

    Example:
        >>> import diffassim as da
        >>> from diffassim.learned import Network
        >>> from diffassim.learned.priors import DiffusionPrior
        >>> gaussian = DiffusionPrior(Network(lambda w, x: 0 * x[:1], None), jnp.array([1.0]), jnp.array([1.0]))
        >>> y = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> da.minimize(prior_cost(gaussian, y)).state.round(1).tolist()  # exactly 2 with many levels
        [2.0]

    Source: the control transform of Lorenc (1988) with a learned, nonlinear G, after Bora et al. (2017), section 3.
    """
    levels = count_of("prior_cost: levels", levels, least=2)
    background = prior.decode(jnp.zeros_like(jnp.asarray(prior.center)), levels)
    B = DecodedPrior(prior, background, levels)
    if model is None:
        return ThreeDVar(background, B, observations)
    return StrongConstraint4DVar(model, background, B, observations, **options)
