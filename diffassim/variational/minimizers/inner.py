"""The inner problem of Gauss-Newton: one of its quadratic models, minimized approximately."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.variational.minimizers.linearization import stored
from diffassim.variational.minimizers.primal import Around

__all__ = ["InnerProblem"]

# A simplified level has done its part where the gradient norm does not fall below this share of the last one.
SLOW = 0.7
CORRECTION = 30  # inner iterations of a second-order correction, which only has to find the steep directions
NEWTON_INNER = 3  # times as many inner iterations are allowed with the full Hessian: near the minimum they pay


class InnerProblem:
    """The levels of the inner problem: simplified models, the coarsest first, the full linearized model, its Hessian.

    Level `len(levels)` is the full linearized model. The one after it has the Hessian of J itself instead of
    Gauss-Newton's, with the second derivatives of the residuals that make the latter slow where the innovations at the
    minimum are large against what the observations add to the curvature; for costs with a window alone.

    Args:
        method: the `GaussNewton` whose settings hold.
        cost: the full cost, before its checkpoints are switched off.
        start: control vector (shapes only).
        unrolled: use loops that reverse mode can pass through.
        newton: whether there is a level with the full Hessian.
    """

    def __init__(self, method: Any, cost: Any, start: Any, unrolled: bool, newton: bool) -> None:
        self.method, self.inner, self.unrolled, self.newton = method, method.inner, unrolled, newton
        self.levels = [self._stored(level.cost(cost), start) for level in self.inner.levels]

    def _stored(self, cost: Any, start: Any) -> Any:
        return cost if self.method.store_linearization is False else stored(cost, start, self.method.memory) or cost

    def level(self, level: Any, gradient_norm: Any, last_gradient_norm: Any) -> Any:
        """Return the level after the last step's success: what a simplified model leaves is for the next one."""
        slow = (gradient_norm > SLOW * last_gradient_norm) & (level < len(self.levels))
        return level + slow.astype(jnp.int32)

    def work(self, level: Any, products: Any) -> tuple[Any, Any]:
        """Return the work of a step in gradients of the full cost, and in those of each simplified one."""
        count = len(self.levels)
        full = jnp.where(level < count, 0, jnp.where(level > count, 2, 1) * products)
        return full, jnp.where(jnp.arange(count, dtype=jnp.int32) == level, 1 + products, 0)

    def solve(
        self, level: Any, cost: Any, horizon: Any, around: Around, needed: Any, radius: Any, remembered: Any
    ) -> Any:  # fmt: skip
        """Return the step that minimizes the quadratic model of a level, approximately; zero where none is needed.

        Args:
            level: number of the level, a run-time integer.
            cost: the full cost over the current window.
            horizon: current window length, a run-time integer; None where it is that of the cost.
            around: the full residuals, linearized.
            needed: whether a step is needed.
            radius: trust radius.
            remembered: what the last inner loop has handed on.

        Returns:
            `TrustRegionStep`.
        """
        full, primal, v = len(self.levels), self.inner.primal, around.control

        # All levels are run under vmap; those that are not asked for end at once, without a gradient.
        def wanted(k: int) -> Around:
            active = needed & (level == k) if full or self.newton else needed
            vectors = (around.control, around.residuals, around.gradient)
            control, residuals, gradient = tree.select(active, vectors, tree.zeros_like(vectors))
            return around._replace(control=control, residuals=residuals, gradient=gradient)

        def simplified(k: int) -> Any:
            shorter = self.levels[k] if horizon is None else self.levels[k].with_window(horizon=horizon)
            _, tangent = jax.linearize(shorter.residuals, v)
            known = wanted(k)._replace(tangent=tangent, adjoint=jax.linear_transpose(tangent, v))
            return primal.step(known, radius, remembered, self.unrolled)

        def newton() -> Any:
            # Not linearized once: that would take twice as long to compile, for a few outer iterations.
            gradient = jax.grad(lambda v: cost(v))
            longer = primal.replace(max_iterations=NEWTON_INNER * primal.max_iterations)
            product = lambda p: jax.jvp(gradient, (v,), (p,))[1]  # noqa: E731
            return longer.minimize(product, wanted(full + 1).gradient, radius, remembered, self.unrolled)

        branches: list[Callable[[], Any]] = [partial(simplified, k) for k in range(full)]
        branches.append(lambda: self.inner.step(wanted(full), radius, remembered, self.unrolled))
        if self.newton:
            branches.append(newton)
        return branches[0]() if len(branches) == 1 else jax.lax.switch(level, branches)

    def corrected(self, around: Around, residuals: Any, wanted: Any) -> Any:
        r"""Return the step back into the valley, from residuals at a trial point and the linearization before it.

        A long step along a curved valley of J ends on its steep side, where J hides what was gained along it.
        Gauss-Newton from there, with the Jacobian that is there already, descends the side in a few products:
        \(\min_q |r(v + p) + A q|\).

        Args:
            around: the residuals, linearized at v.
            residuals: r(v + p).
            wanted: whether it is needed; zero otherwise.

        Returns:
            q and the number of products.

        Source: second-order correction, Nocedal and Wright (2006), section 15.6; for least squares, the geodesic
        acceleration of Transtrum and Sethna (2012).
        """
        (gradient,) = around.adjoint(residuals)
        dtype = jnp.result_type(*jax.tree.leaves(gradient))
        right = tree.select(wanted, gradient, tree.zeros_like(gradient))
        primal = self.inner.primal.replace(max_iterations=CORRECTION)
        step = primal.minimize(around.gauss_newton, right, jnp.asarray(jnp.inf, dtype), None, self.unrolled)
        return step.step, step.products
