"""How likely are the observations of a window? Laplace's approximation at the minimum of a cost."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from diffassim.core.errors import ConfigurationError
from diffassim.core.linalg import gram_factor
from diffassim.methods.likelihood import log_density
from diffassim.variational.costs.base import as_cost, require_departures
from diffassim.variational.minimizers.solution import require_converged

__all__ = ["log_likelihood"]

BATCH = 64  # products with the linearized model or its adjoint that are made at once


def log_likelihood(cost: Any, solution: Any) -> Float[Array, ""]:
    r"""Return the log density of all observations of a cost, with its control vector integrated out.

    .. math::
        \log p(y) \approx -J(v_a) - \tfrac12 \log\det(I + A^\top A) - \tfrac12 (\log\det R + m \log 2\pi)

    with A the derivative of the whitened innovations at the minimum: the cost and the prior around it as a Gaussian.
    It is exact where everything is linear, and then equal to the sum over a Kalman filter's analyses of the window; in
    weak-constraint form the model error is integrated out with the state. It is differentiable in everything inside of
    the cost, through the solution as well, so that it is a loss for what only observations tell: R, B, Q, parameters of
    the model, weights of a network.

    The matrix is written out in the smaller of both spaces: as many products with the linearized model or its adjoint
    as there are control variables or observed values, and memory for the square of that number.

    Args:
        cost: the cost that was minimized; its control vector is whitened.
        solution: `Solution` of `minimize(cost, ...)`, at whose control vector it is evaluated.

    Returns:
        A number; NaN where R does not know its determinant, or with a robust loss, whose density is not normalized.

    Raises:
        ConfigurationError: if the cost is not whitened (weak constraint in state form), knows no observations, or has
            residuals that are not (controls, innovations).
        DataError: if the search met something that is not finite.

    Warns:
        AssimilationWarning: if the search did not converge.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> cost = da.ThreeDVar(jnp.zeros(1), one, da.Observations(jnp.array([[2.0]]), [0], error=one))
        >>> round(float(log_likelihood(cost, da.minimize(cost))), 4)  # of 2 under N(0, 2)
        -2.2655

    Source: Tierney and Kadane (1986), section 2; for its use in data assimilation Carrassi et al. (2017).
    """
    cost = as_cost(cost)
    if not cost.whitened:
        raise ConfigurationError(f"log_likelihood: {type(cost).__name__} is not whitened; use cost.forcing_form(v)")
    if not cost.streams():
        raise ConfigurationError(f"log_likelihood: {type(cost).__name__} knows no observations; see `Cost.streams`")
    require_converged("log_likelihood", solution)
    v = solution.control
    require_departures("log_likelihood", jax.eval_shape(cost.residuals, v))
    departures, tangent = jax.linearize(lambda v: cost.residuals(v)[1], v)
    flat_v, to_control = ravel_pytree(v)
    flat_d, to_departures = ravel_pytree(departures)
    if flat_v.size <= flat_d.size:
        V = _rows(lambda w: ravel_pytree(tangent(to_control(w)))[0], flat_v)
    else:
        transposed = jax.linear_transpose(tangent, v)
        V = _rows(lambda d: ravel_pytree(transposed(to_departures(d)))[0], flat_d)
    half_logdet = jnp.sum(jnp.log(jnp.diagonal(gram_factor(V))))
    return log_density(-cost(v) - half_logdet.astype(flat_d.dtype), cost.controlled_observations(v))


def _rows(product: Any, like: Any) -> Float[Array, "k l"]:
    """Return the products with all unit vectors, one a row."""

    def of_unit(i: Any) -> Any:
        return product(jnp.zeros_like(like).at[i].set(1))

    return jax.lax.map(of_unit, jnp.arange(like.size, dtype=jnp.int32), batch_size=BATCH)
