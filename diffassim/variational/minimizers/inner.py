"""The inner problem of Gauss-Newton: one of its quadratic models, minimized approximately."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.variational.minimizers.dual import dual_step
from diffassim.variational.minimizers.linearization import stored
from diffassim.variational.minimizers.trust_region import truncated_cg

__all__ = ["InnerProblem"]

# A simplified level has done its part where the gradient norm does not fall below this share of the last one.
SLOW = 0.7


class InnerProblem:
    """The levels of the inner problem: simplified models, the coarsest first, and at last the full linearized model.

    Args:
        method: the `GaussNewton` whose settings hold.
        cost: the full cost, before its checkpoints are switched off.
        start: control vector (shapes only).
        unrolled: use loops that reverse mode can pass through.
    """

    def __init__(self, method: Any, cost: Any, start: Any, unrolled: bool) -> None:
        self.method, self.unrolled = method, unrolled
        self.levels = [self._stored(level.cost(cost), start) for level in method.levels]

    def _stored(self, cost: Any, start: Any) -> Any:
        return cost if self.method.store_linearization is False else stored(cost, start, self.method.memory) or cost

    def level(self, level: Any, gradient_norm: Any, last_gradient_norm: Any) -> tuple[Any, Any, Any]:
        """Return the level after the last step's success, whether it is the full one, and flags by level."""
        count = len(self.levels)
        slow = gradient_norm > SLOW * last_gradient_norm
        level = jnp.minimum(level + slow.astype(jnp.int32), count)
        return level, level == count, jnp.arange(count, dtype=jnp.int32) == level

    def solve(
        self, level: Any, horizon: Any, v: Any, linearized: tuple[Any, Any], residuals: Any, gradient: Any,
        needed: Any, radius: Any, preconditioner: Any,
    ) -> Any:  # fmt: skip
        """Return the step that minimizes the quadratic model of a level, approximately; zero where none is needed.

        Args:
            level: number of the level, a run-time integer.
            horizon: current window length, a run-time integer; None where the cost has no window.
            v: control vector.
            linearized: tangent and adjoint of the full residuals at v.
            residuals: full residuals at v.
            gradient: gradient of the full cost at v.
            needed: whether a step is needed.
            radius: trust radius.
            preconditioner: `LimitedMemory`, or None.

        Returns:
            `TrustRegionStep`.
        """
        tolerance = jnp.asarray(self.method.inner_tolerance, radius.dtype)
        if self.method.dual:
            tangent, adjoint = linearized
            v, departures = tree.select(needed, residuals, tree.zeros_like(residuals))
            of_control = tree.zeros_like(v)
            return dual_step(
                lambda p: tangent(p)[1], lambda d: adjoint((of_control, d))[0],
                v, departures, radius, tolerance, self.method.max_inner, self.unrolled,
            )  # fmt: skip

        def steps(k: int, tangent: Any, adjoint: Any) -> Any:
            # All levels are run under vmap; those that are not asked for end at once.
            wanted = needed if not self.levels else needed & (level == k)
            right = tree.select(wanted, gradient, tree.zeros_like(gradient))
            return truncated_cg(
                lambda p: adjoint(tangent(p))[0], right, radius, tolerance, self.method.max_inner, self.unrolled,
                preconditioner,
            )  # fmt: skip

        def simplified(k: int) -> Any:
            cost = self.levels[k] if horizon is None else self.levels[k].replace(horizon=horizon)
            _, tangent = jax.linearize(cost.residuals, v)
            return steps(k, tangent, jax.linear_transpose(tangent, v))

        full = len(self.levels)
        if not full:
            return steps(full, *linearized)
        branches = [lambda k=k: simplified(k) for k in range(full)]
        return jax.lax.switch(level, [*branches, lambda: steps(full, *linearized)])
