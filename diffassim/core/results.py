"""Result codes: what an iterative algorithm reports from inside jit, and the advice that belongs to each code."""

from __future__ import annotations

import enum
from typing import Any

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
        for kind in (cls.NON_FINITE, cls.STALLED, cls.MAX_ITERATIONS):
            count = int((codes == kind).sum())
            if count:
                return f"{kind.name}{f' ({count} of {codes.size})' if codes.size > 1 else ''}: {kind.advice}"
        return None

    @classmethod
    def describe(cls, code: Any) -> str:
        """Return 'NAME: advice' for a code or for the worst code of an array."""
        result = cls(int(np.max(np.asarray(code))))
        return f"{result.name}: {result.advice}"


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
        "the cost or its gradient is not finite at the starting point, or where a step of a descent method led; check "
        "the background, the observations and the model's stability over the window (a shorter window, a smaller dt or "
        "a smaller learning rate often helps). The best state so far is returned."
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
