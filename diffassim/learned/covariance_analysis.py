"""An analysis whose background-error covariance a network gives, anew for each forecast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from diffassim.core import tree
from diffassim.core.krylov import conjugate_gradients
from diffassim.core.pytree import static
from diffassim.covariances.base import require_covariance
from diffassim.learned.analysis import LearnedAnalysis

__all__ = ["LearnedCovarianceAnalysis"]


class LearnedCovarianceAnalysis(LearnedAnalysis):
    r"""A network says how wrong the forecast is, and the Kalman update follows from it.

    .. math::
        x_a = x_f + L\,(I + L^\top H'^\top R^{-1} H' L)^{-1} L^\top g,\qquad
        g = H'^\top R^{-1} (y - H(x_f)),\qquad B(x_f, \cdot) = L L^\top

    `LearnedAnalysis` has to learn two things from data: how errors of a forecast are correlated, and what follows from
    this for the observations at hand. The second is known, for any operator, any R and any gaps; here only the first is
    learned. Where the weights of a network are few or the data are, this is the better choice; it is also the one that
    bears another observing network than that of its training.

    The system is solved by conjugate gradients in the space of the control vector, without any matrix; derivatives are
    those of its solution.

    Args:
        network: callable pytree, (x, g) -> covariance, or with a memory (x, g, memory) -> (covariance, memory). Any
            `da.covariances` class that has `sqrt` will do; `LocalRoot` is what a network over a field can fill.
        memory: the network's memory at the start, or None.
        tolerance: of conjugate gradients, relative to the right-hand side.
        max_iterations: of conjugate gradients (static).

    Raises:
        ConfigurationError: when it analyses, if the network returns no covariance.
        ShapeError: likewise, if the covariance does not fit the state.

    Example:
        >>> import diffassim as da
        >>> from diffassim.learned import Network
        >>> y = da.Observations(jnp.full((1, 3), 2.0), [1], error=da.covariances.Diagonal(std=1.0))
        >>> still = da.models.FunctionModel(lambda x, t: x)
        >>> spread = Network(lambda s, x, g: da.covariances.Diagonal(std=s), jnp.asarray(1.0))
        >>> da.cycle(LearnedCovarianceAnalysis(spread), still, jnp.zeros(3), y)[0].state.round(4).tolist()
        [1.0, 1.0, 1.0]

    Source: Haarnoja et al. (2016), section 4, trains the covariance of a Kalman filter through the filter; Bocquet et
    al. (2024), section 2, learns the analysis of a single state.
    """

    tolerance: float = 1e-5
    max_iterations: int = static(default=100)

    def _increment(self, answer: Any, x: Any, departure: Callable[[Any], Any], g: Any) -> Any:
        require_covariance("the covariance that the network of LearnedCovarianceAnalysis returns", answer, x)
        to_state, whitened = answer.sqrt, jax.linearize(departure, x)[1]
        v = answer.control_like(x)
        to_control = jax.linear_transpose(to_state, v)
        to_departures = jax.linear_transpose(lambda v: whitened(to_state(v)), v)

        def product(v: Any) -> Any:
            return tree.axpy(1.0, to_departures(whitened(to_state(v)))[0], v)

        def solve(product: Any, b: Any) -> Any:
            return conjugate_gradients(product, b, rtol=self.tolerance, max_iterations=self.max_iterations).solution

        b = to_control(g)[0]
        return to_state(jax.lax.custom_linear_solve(product, b, solve, symmetric=True))
