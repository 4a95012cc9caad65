"""The one call that minimizes a variational cost."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import forward_mode, real_array
from diffassim.core.errors import AssimilationError, AssimilationWarning, ShapeError, concrete, require_finite
from diffassim.core.results import Result
from diffassim.variational.costs.base import as_cost
from diffassim.variational.minimizers.base import as_minimizer
from diffassim.variational.minimizers.gauss_newton import GaussNewton
from diffassim.variational.minimizers.implicit import implicit_minimum
from diffassim.variational.minimizers.solution import Solution

__all__ = ["MinimizationError", "minimize"]


class MinimizationError(AssimilationError):
    """The search met a cost or gradient that is not finite; `solution` holds the best state so far."""

    def __init__(self, message: str, solution: Solution) -> None:
        super().__init__(message)
        self.solution = solution


def minimize(cost: Any, method: Any = None, *, start: Any = None, unrolled: bool = False) -> Solution:
    """Minimize a variational cost.

    The call is compiled once for each structure of cost and method; new observations, backgrounds, covariances and
    parameters of the same shapes reuse it. It can stand inside `jit`, `vmap` and `grad`.

    Gradients through the solution are implicit by default (see `implicit_minimum`): their memory does not depend on
    the number of iterations, and they presuppose a converged search.

    Args:
        cost: a variational cost, for example `StrongConstraint4DVar`, or a `Cost` of your own.
        method: `Minimizer`; default `GaussNewton()`.
        start: control vector to start from; default: the background (v = 0).
        unrolled: differentiate through the iterations of the search instead.

    Returns:
        `Solution`.

    Raises:
        MinimizationError: (outside of traced code) if the search met a cost or gradient that is not finite.
        ShapeError: if `start` does not have the control vector's structure.
        DataError: if `start` is not finite, or not real.
        ConfigurationError: if the method needs forward-mode derivatives of a model that has none, or cost or method is
            none.

    Warns:
        AssimilationWarning: (outside of traced code) if the search did not converge; the message has the advice.

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(jnp.array([[3.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> B = da.covariances.Diagonal(std=1.0)
        >>> x_a = lambda x_b: da.minimize(da.ThreeDVar(x_b, B, obs)).state[0]
        >>> float(jax.grad(x_a)(jnp.array([1.0]))[0])
        0.5
    """
    cost, method = as_cost(cost), as_minimizer(GaussNewton() if method is None else method)
    if start is not None:
        expected = jax.eval_shape(cost.control)
        require_finite("minimize: `start`", start)
        if not tree.same_shapes(expected, start):
            raise ShapeError(
                f"minimize: `start` has the shapes {tree.describe_shapes(start)}, but the control vector has "
                f"{tree.describe_shapes(expected)}"
            )
        start = jax.tree.map(
            lambda given, own: jnp.asarray(real_array("minimize: `start`", given)).astype(own.dtype), start, expected
        )
    with forward_mode(f"minimize with {type(method).__name__}", "LBFGS() and Descent(...) do without"):
        solution = _minimize(cost, method, start, unrolled) if unrolled else _in_stages(cost, method, start)
    _report(solution)
    return solution


def _in_stages(cost: Any, method: Any, start: Any) -> Solution:
    """Minimize, and go on with what the method has in store where the search is known not to have converged."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((cost, method, start, jnp.zeros(()))))
    first, *others = (method,) if traced else method.stages(cost.control() if start is None else start)
    solution = _minimize(cost, first, start, False)
    for following in others:
        if solution.converged or solution.result == Result.NON_FINITE:
            break
        further = _minimize(cost, following, solution.control, False)
        if not further.cost <= solution.cost:
            break
        solution = further.replace(search=further.search.after(solution.search))
    return solution


def _search(cost: Any, method: Any, start: Any, unrolled: bool) -> Solution:
    start = cost.control() if start is None else start
    found = method.search(cost, start, unrolled=True) if unrolled else implicit_minimum(cost, method, start)
    v = found.control
    operators = None
    if isinstance(v, dict) and "operators" in v:
        operators = tuple(stream.operator for stream in cost.controlled_observations(v))
    search = jax.lax.stop_gradient(found)
    value = 0.5 * tree.squared_norm(cost.residuals(v))
    return Solution(cost.state(v), v, cost.controlled_model(v), value, search, operators)


_minimize = jax.jit(_search, static_argnums=3)


def _report(solution: Solution) -> None:
    code = concrete(solution.search.result)
    if code is None:
        return
    failures = Result.describe_failures(code)
    if failures is None:
        return
    if (code == Result.NON_FINITE).any():
        raise MinimizationError(failures, solution)
    warnings.warn(failures, AssimilationWarning, stacklevel=3)
