"""What a minimization returns."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffassim.core.errors import AssimilationWarning, DataError, ShapeError, concrete
from diffassim.core.pytree import Pytree
from diffassim.core.results import Result

__all__ = ["Minimum", "Solution", "require_converged", "require_single"]


class Minimum(Pytree):
    """What a minimizer reports from inside jit: the control vector it found, and how the search went.

    Args:
        control: control vector v.
        cost_history: cost at the start of each iteration, over the horizon of that iteration; NaN after the last.
        horizon_history: window length (model steps) that counted in each iteration; -1 after the last.
        gradient_norm: |dJ/dv| where the search ended.
        iterations: number of outer iterations.
        work: cost of the search in evaluations of the full window's gradient (a product with Gauss-Newton's Hessian
            counts as one, with the full one as two).
        result: `Result` code.
        terms: the terms of the cost by name, each like `cost_history`, which is their sum; see `cost_terms`.
        simplified_work: evaluations of the gradients of simplified costs, one number for each level; None without any.
        attempts: 1, or 2 where the window was grown again, one observation time after the other, because the first
            minimum looked doubtful; None where windows are not grown.
    """

    control: Any
    cost_history: Float[Array, " iterations"]
    horizon_history: Int[Array, " iterations"]
    gradient_norm: Float[Array, ""]
    iterations: Int[Array, ""]
    work: Float[Array, ""]
    result: Int[Array, ""]
    terms: Any = None
    simplified_work: Any = None
    attempts: Any = None

    def after(self, before: Minimum) -> Minimum:
        """Return the account of a search that went on where another one had ended (outside of traced code)."""
        count = int(before.iterations)

        def joined(first: Any, then: Any) -> Any:
            return jnp.concatenate([first[:count], then])

        return before.replace(  # what only the search before can tell stays
            control=self.control,
            gradient_norm=self.gradient_norm,
            result=self.result,
            cost_history=joined(before.cost_history, self.cost_history),
            horizon_history=joined(before.horizon_history, self.horizon_history),
            iterations=before.iterations + self.iterations,
            work=before.work + self.work,
            terms=jax.tree.map(joined, before.terms, self.terms),
            simplified_work=jax.tree.map(jnp.add, before.simplified_work, self.simplified_work),
            attempts=None if self.attempts is None else jnp.maximum(before.attempts, self.attempts),
        )


class Solution(Pytree):
    """The analysis and the account of how it was found.

    Args:
        state: analysis at the window start.
        control: whitened control vector; derivatives pass through it.
        model: the model with the analysed parameters (the given one where none were sought).
        cost: J at the analysis.
        search: the `Minimum` the minimizer reported; no derivatives pass through it.
        operators: the streams' operators with the analysed parameters; None where none were sought.
    """

    state: Any
    control: Any
    model: Any
    cost: Float[Array, ""]
    search: Minimum
    operators: Any = None

    @property
    def result(self) -> Any:
        """Result code (an integer array; one per window under vmap)."""
        return self.search.result

    @property
    def converged(self) -> Any:
        """Whether the gradient fell below the tolerance (also where the minimum looks inconsistent)."""
        code = self.search.result
        return (code == Result.CONVERGED) | (code == Result.INCONSISTENT)

    def describe(self) -> str:
        """Return the result code's name and advice (the worst code of a batch)."""
        return Result.describe(self.search.result)


def require_converged(name: str, solution: Solution) -> None:
    """Check, outside of traced code, that what is derived at a solution has a meaning there.

    Args:
        name: of the function that asks, for the message.
        solution: the `Solution` of one search.

    Raises:
        ShapeError: if it is a batch of solutions.
        DataError: if the search met something that is not finite.

    Warns:
        AssimilationWarning: if the search did not converge.
    """
    require_single(name, solution)
    code = concrete(solution.search.result)
    if code is None:
        return
    failure = Result.describe_failures(code)
    if code == Result.NON_FINITE:
        raise DataError(f"{name}: the solution is not a minimum. {failure}")
    if failure is not None:
        warnings.warn(f"{name}: the solution is not a minimum. {failure}", AssimilationWarning, stacklevel=3)


def require_single(name: str, solution: Solution) -> None:
    """Raise `ShapeError` if the solution is a batch of them."""
    code = solution.search.result
    if code.ndim:
        raise ShapeError(
            f"{name}: found a batch of {code.size} solutions; take one with jax.tree.map(lambda leaf: leaf[i], "
            "solution), or call it inside jax.vmap over costs and solutions"
        )
