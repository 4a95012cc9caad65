"""Derivatives of a minimizer with respect to everything in its cost, by the implicit function theorem."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import reverse_only, second_derivatives
from diffassim.core.krylov import conjugate_gradients
from diffassim.core.results import Result
from diffassim.variational.minimizers.base import as_minimizer
from diffassim.variational.minimizers.linearization import stored
from diffassim.variational.minimizers.solution import Minimum

__all__ = ["hessian_solve", "implicit_minimum"]

# Least relative residual of the Hessian solve: for gradients through a search, and where more is asked for.
_TOLERANCE = {"float64": 1e-8, "float32": 1e-4}
_ROUNDING = {"float64": 1e-12, "float32": 1e-6}
_SHARE = 0.1  # of the search's tolerance: the solve is no more exact than the point at which it is made
_MAX_ITERATIONS = 1000


@partial(jax.custom_vjp, nondiff_argnums=())
def implicit_minimum(cost: Any, method: Any, start: Any) -> Minimum:
    r"""Return `method.search(cost, start)`, with the implicit derivative of its control vector.

    At a minimizer \(\nabla_v J(v^*, c) = 0\), hence
    \(\mathrm{d}v^*/\mathrm{d}c = -(\nabla^2_{vv} J)^{-1}\,\nabla^2_{vc} J\) for everything c in the cost. Reverse mode
    solves \(\nabla^2_{vv} J\, w = \bar v\) by conjugate gradients with full (not Gauss-Newton) Hessian products and
    returns \(-\nabla_c (w^\top \nabla_v J)\): memory does not depend on how many iterations the search took, and
    neither the start nor the method has an influence but for accuracy: the solve's relative residual is a tenth of the
    method's `tolerance`, so that it is no less exact than the search. Derivatives of the derivative have a rule too.

    Where the Hessian is not positive definite, or the solve fails, the gradient is NaN rather than wrong.

    Args:
        cost: the cost, a pytree; receives gradients in all its floating-point leaves.
        method: `Minimizer`.
        start: control vector to start from.

    Returns:
        `Minimum`; only `control` carries derivatives.
    """
    return method.search(cost, start)


def _forward(cost: Any, method: Any, start: Any) -> tuple[Minimum, Any]:
    found = implicit_minimum(cost, method, start)  # itself differentiable, for derivatives of derivatives
    return found, (cost, found.control, as_minimizer(method).tolerance)


def _backward(kept: Any, bars: Minimum) -> tuple[Any, None, None]:
    with second_derivatives("the gradient through a minimization"):
        return _cotangent(kept, bars), None, None


def _cotangent(kept: Any, bars: Minimum) -> Any:
    cost, v, tolerance = kept
    least = _TOLERANCE[str(jnp.result_type(*jax.tree.leaves(v)))] / _SHARE
    w = hessian_solve(cost, v, bars.control, jnp.maximum(tolerance, least))

    def slope(cost: Any) -> Any:
        kept = stored(cost, v) or cost
        if reverse_only(cost, v):
            return tree.dot(jax.grad(lambda v: cost(v))(v), w)
        return jax.jvp(lambda v: kept(v), (v,), (w,))[1]

    value, pull_back = jax.vjp(slope, cost)
    (cost_bar,) = pull_back(-jnp.ones_like(value))
    return cost_bar


def hessian_solve(cost: Any, v: Any, v_bar: Any, tolerance: Any) -> Any:
    r"""Return \((\nabla^2 J)^{-1} \bar v\) with the full Hessian at v, or NaN where it is not positive definite.

    Args:
        cost: the cost.
        v: control vector, a minimizer.
        v_bar: right-hand side, shaped like v.
        tolerance: the minimizer's tolerance; the relative residual of the solve is a tenth of it.
    """
    dtype = jnp.result_type(*jax.tree.leaves(v))
    tolerance = jnp.maximum(_SHARE * jnp.asarray(tolerance, dtype), _ROUNDING[str(dtype)])
    return _solve(_hessian(cost, v), v_bar, jax.lax.stop_gradient(tolerance))


def _hessian(cost: Any, v: Any) -> Any:
    """Return the product with the Hessian of the cost at v; the trajectory is kept where it fits in memory."""
    whole = stored(cost, v)
    gradient = jax.grad(lambda v: cost(v))
    if reverse_only(cost, v):  # the Hessian is symmetric, so that its transpose will do
        pull_back = jax.vjp(gradient, v)[1]
        return lambda w: pull_back(w)[0]
    if whole is not None:
        return jax.linearize(jax.grad(lambda v: whole(v)), v)[1]
    return lambda w: jax.jvp(gradient, (v,), (w,))[1]


def _solve(product: Any, b: Any, tolerance: Any) -> Any:
    def solve(matvec: Any, b: Any) -> Any:
        found = conjugate_gradients(matvec, b, rtol=tolerance, max_iterations=_MAX_ITERATIONS)
        failed = (found.result != Result.CONVERGED) & (tree.norm(b) > 0)
        return jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), found.solution)

    return jax.lax.custom_linear_solve(product, b, solve, symmetric=True)


implicit_minimum.defvjp(_forward, _backward)
