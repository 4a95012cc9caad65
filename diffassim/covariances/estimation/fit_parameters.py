"""Maximum likelihood estimation of the parameters of a covariance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from diffassim.core.errors import DataError, require_positive
from diffassim.core.results import Result

__all__ = ["Fitted", "fit_parameters"]

ROUNDING = 1e-9  # relative change of the likelihood that the search takes as none


class Fitted(NamedTuple):
    """Parameters found by `fit_parameters`.

    `value` is the function at the minimum. `relative_error` is the standard error of each parameter divided by it (the
    root of the diagonal of the inverse Hessian in log parameters), NaN where the Hessian is not positive definite: the
    data do not determine the parameter.
    """

    parameters: Any
    value: float
    relative_error: Any
    iterations: int
    result: Result


def fit_parameters(function: Callable[[Any], Any], start: Any, *, max_iterations: int = 200) -> Fitted:
    r"""Minimize a negative log-likelihood over positive parameters (standard deviations, lengths, factors).

    The search is L-BFGS in the logarithms, so that parameters stay positive and their units do not matter. The inverse
    of the Hessian at the minimum, the observed information, gives the standard errors.

    Args:
        function: pytree of positive numbers -> scalar, such as
            `lambda p: negative_log_likelihood(samples, Gaussian(p["std"], p["length"], grid))`.
        start: first guess, a pytree of a few positive floating-point numbers or arrays.
        max_iterations: limit of the search.

    Returns:
        `Fitted`; its `result` is `CONVERGED` or `MAX_ITERATIONS`.

    Raises:
        ConfigurationError: if a first guess is not positive.
        DataError: if the function is not finite at the first guess or at the end of the search.

    Example:
        >>> from diffassim.covariances import Diagonal, negative_log_likelihood
        >>> found = fit_parameters(lambda std: negative_log_likelihood(jnp.array([[3.0], [4.0]]), Diagonal(std)), 1.0)
        >>> round(float(found.parameters), 4), round(found.relative_error, 4)  # sqrt(12.5), 1 / sqrt(2 * 2)
        (3.5355, 0.5)

    Source: Dee and da Silva (1999), section 3; Liu and Nocedal (1989) for the search.
    """
    import optax

    require_positive("fit_parameters: start", start)
    flat, unravel = ravel_pytree(jax.tree.map(lambda p: jnp.log(jnp.asarray(p)), start))

    def of_log(z: Array) -> Array:
        return function(jax.tree.map(jnp.exp, unravel(z)))

    search = optax.lbfgs()
    gradient_at = optax.value_and_grad_from_state(of_log)

    @jax.jit
    def run(z: Array) -> Any:
        def more(carry: Any) -> Array:
            _, _, iteration, change, value = carry
            return (
                (iteration < max_iterations)
                & (change > ROUNDING * jnp.maximum(jnp.abs(value), 1))
                & jnp.isfinite(value)
            )

        def advance(carry: Any) -> Any:
            z, memory, iteration, _, _ = carry
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                value, gradient = gradient_at(z, state=memory)
                step, memory = search.update(gradient, memory, z, value=value, grad=gradient, value_fn=of_log)
            z = z + step
            after = optax.tree.get(memory, "value")
            return z, memory, iteration + 1, jnp.abs(value - after), after

        first = of_log(z)
        carry = (z, search.init(z), jnp.asarray(0), jnp.full((), jnp.inf, first.dtype), first)
        z, _, iteration, change, value = jax.lax.while_loop(more, advance, carry)
        return first, z, iteration, change, value, jax.hessian(of_log)(z)

    first, z, iteration, change, value, hessian = run(flat)
    if not np.isfinite(float(first)):
        raise DataError("fit_parameters: the function is not finite at the first guess; check the data and the guess")
    if not (np.isfinite(float(value)) and np.isfinite(np.asarray(z)).all()):
        raise DataError("fit_parameters: the search left the region where the function is finite; give a closer guess")
    try:
        np.linalg.cholesky(np.asarray(hessian))
        error = np.sqrt(np.diag(np.linalg.inv(np.asarray(hessian))))
    except np.linalg.LinAlgError:
        error = np.full(flat.shape, np.nan)
    converged = float(change) <= ROUNDING * max(abs(float(value)), 1)
    errors = jax.tree.map(lambda e: float(e) if e.ndim == 0 else np.asarray(e), unravel(jnp.asarray(error)))
    return Fitted(
        jax.tree.map(jnp.exp, unravel(z)), float(value), errors, int(iteration),
        Result.CONVERGED if converged else Result.MAX_ITERATIONS,
    )  # fmt: skip
