"""Result codes: what an iterative algorithm reports from inside jit, and the advice that belongs to each code."""

from __future__ import annotations

import enum
from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = ["Result"]


class Result(enum.IntEnum):
    """How a computation ended. Compiled code returns the integer; `describe` turns it into a sentence.

    Example:
        >>> Result(0).name
        'CONVERGED'
        >>> Result.describe(3).startswith('NON_FINITE')
        True
    """

    CONVERGED = 0
    MAX_ITERATIONS = 1
    STALLED = 2
    NON_FINITE = 3
    LINEAR_SOLVE = 4
    INCONSISTENT = 5
    DIVERGED = 6
    COLLAPSED = 7

    @property
    def advice(self) -> str:
        """What the code means and what to do about it."""
        return _ADVICE[self]

    @classmethod
    def describe_failures(cls, codes: Any) -> str | None:
        """Return what went wrong in the searches of a batch, the gravest kind first, or None if all converged.

        Example:
            >>> print(Result.describe_failures([0, 2, 0, 2])[:20])
            STALLED (2 of 4): no
        """
        codes = np.asarray(codes)
        for kind in _SEVERITY:
            if kind in (cls.CONVERGED, cls.INCONSISTENT):
                continue
            count = int((codes == kind).sum())
            if count:
                return f"{kind.name}{f' ({count} of {codes.size})' if codes.size > 1 else ''}: {kind.advice}"
        return None

    @classmethod
    def describe(cls, code: Any) -> str:
        """Return 'NAME: advice' for a code or for the worst code of an array."""
        result = cls.worst(code)
        return f"{result.name}: {result.advice}"

    @classmethod
    def worst(cls, codes: Any) -> Result:
        """Return the gravest of several codes, which is not the one with the largest number.

        Raises:
            ValueError: if a number is no code, or there are none.

        Example:
            >>> Result.worst([5, 3, 0]).name
            'NON_FINITE'
        """
        return min((cls(int(code)) for code in np.unique(np.asarray(codes))), key=_SEVERITY.index)

    @classmethod
    def worst_code(cls, codes: Any) -> Any:
        """Return `worst` as an array, for codes that may be traced.

        Example:
            >>> int(Result.worst_code(jnp.array([5, 3, 0])))
            3
        """
        order = jnp.asarray([int(kind) for kind in _SEVERITY], jnp.int32)
        rank = jnp.argsort(order)  # by number: the place in the order
        return order[jnp.min(rank[jnp.asarray(codes)])]


# The gravest first. Numbers are those of output files and say nothing about it.
_SEVERITY = (
    Result.NON_FINITE, Result.DIVERGED, Result.COLLAPSED, Result.STALLED, Result.MAX_ITERATIONS, Result.LINEAR_SOLVE,
    Result.INCONSISTENT, Result.CONVERGED,
)  # fmt: skip

_ADVICE = {
    Result.CONVERGED: "the gradient norm fell below the tolerance; for an ensemble: all members are finite.",
    Result.MAX_ITERATIONS: (
        "the iteration limit was reached before the gradient norm fell below the tolerance; raise the limit, loosen "
        "the tolerance, or start closer. Implicit gradients through this solution are not reliable."
    ),
    Result.STALLED: (
        "no step lowers the cost any more although the gradient is not small; the cost may be rough at the precision "
        "of its dtype (try float64 or a looser tolerance) or not differentiable at this point."
    ),
    Result.NON_FINITE: (
        "the cost or its gradient is not finite at the starting point, or where a step of a descent method led. Look "
        "at the start first: cost(cost.control()), its terms by stream, the trajectory from the background. Check for "
        "a parameter on its bound, a factor of B or R that is singular, an operator outside of its domain, or a model "
        "that is unstable over the window (try a shorter one, a smaller dt or learning rate); check_model names "
        "the operation whose value or derivative is not finite. The best state so far is returned."
    ),
    Result.LINEAR_SOLVE: (
        "the linear solve for the implicit gradient did not converge; the Hessian may be singular or indefinite here. "
        "Raise its iteration limit or converge the minimization further."
    ),
    Result.INCONSISTENT: (
        "a minimum was found, but its cost is far above what the observation errors allow (chi-square); it is probably "
        "a local minimum, or R or B is too small."
    ),
    Result.DIVERGED: (
        "a member of the ensemble (or the mean or covariance of a Gaussian) is not finite; check the observations and "
        "their errors, and try more members, another inflation, a localization or a smaller dt."
    ),
    Result.COLLAPSED: (
        "nearly all weight lies on one particle; try more particles, more jitter, fewer or less precise observations "
        "at a time, or the optimal proposal where there is model error."
    ),
}
