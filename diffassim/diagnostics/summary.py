"""What became of a minimization, on one page."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from diffassim.core.pytree import Pytree, static
from diffassim.core.results import Result
from diffassim.variational.costs.terms import cost_terms, observed_counts
from diffassim.variational.minimizers.solution import require_single

__all__ = ["Summary", "summary"]


class Summary(Pytree):
    """Result of `summary`; its text is a table.

    Args:
        first: terms of J where the search started, by name, over the window of the first iteration.
        last: terms of J at the solution, over the full window.
        counts: observed values by name of the stream.
        result: `Result` code.
        iterations: outer iterations.
        work: evaluations of the full window's gradient.
        gradient_norm: |dJ/dv| where the search ended.
        grown: whether the search has shortened the window and grown it again.
    """

    first: dict[str, float] = static()
    last: dict[str, float] = static()
    counts: dict[str, int] = static()
    result: int = static()
    iterations: int = static()
    work: float = static()
    gradient_norm: float = static()
    grown: bool = static()

    @property
    def chi_square(self) -> dict[str, float]:
        """Squared whitened departures per observed value, by stream: about one (less what was fitted) if R is right."""
        return {name: 2 * self.last[name] / count for name, count in self.counts.items() if count}

    def __str__(self) -> str:
        chi_square = self.chi_square
        lines = [f"{'term of J':<16s} {'start':>12s} {'solution':>12s} {'values':>8s} {'chi2/value':>11s}"]
        for name, last in self.last.items():
            tail = f" {self.counts[name]:>8d}" if name in self.counts else ""
            tail += f" {chi_square[name]:>11.2f}" if name in chi_square else ""
            lines.append(f"{name:<16s} {self.first.get(name, np.nan):>12.5g} {last:>12.5g}{tail}")
        lines.append(f"{'J':<16s} {sum(self.first.values()):>12.5g} {sum(self.last.values()):>12.5g}")
        lines.append(
            f"{self.iterations} outer iterations, work of {self.work:.0f} gradients, |dJ/dv| = {self.gradient_norm:.1e}"
            + (", window shortened and grown again" if self.grown else "")
        )
        if self.counts and not any(self.counts.values()):
            lines.append("No observation counts (missing, rejected or masked): the analysis is the background.")
        return "\n".join([*lines, Result.describe(self.result)])


def summary(cost: Any, solution: Any) -> Summary:
    """Return the account of a minimization: each term of the cost before and after, chi-square, work, code, advice.

    Args:
        cost: the cost that was minimized.
        solution: its `Solution`; it need not have converged.

    Returns:
        `Summary`; `print` it.

    Raises:
        ShapeError: if it is a batch of solutions.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> cost = da.ThreeDVar(jnp.zeros(1), one, da.Observations(jnp.array([[2.0]]), [0], error=one))
        >>> print(summary(cost, da.minimize(cost)))  # doctest: +ELLIPSIS
        term of J               start     solution   values  chi2/value
        state                       0          0.5
        observations 0              2          0.5        1        1.00
        J                           2            1
        2 outer iterations, work of 4 gradients, |dJ/dv| = 0.0e+00
        CONVERGED: ...
    """
    require_single("summary", solution)
    search = solution.search
    terms, counts = _account(cost, solution.control)
    # Compiled code returns names in alphabetic order; those of the control vector come first.
    last = sorted(terms.items(), key=lambda item: (item[0].startswith("observations "), len(item[0]), item[0]))
    first = {} if search.terms is None else {name: float(h[0]) for name, h in search.terms.items()}
    horizons = np.asarray(search.horizon_history)[: int(search.iterations)]
    return Summary(
        first, {name: float(term) for name, term in last},
        {f"observations {i}": int(count) for i, count in enumerate(counts)},
        int(search.result), int(search.iterations), float(search.work), float(search.gradient_norm),
        bool((horizons != horizons[-1:]).any()),
    )  # fmt: skip


@jax.jit
def _account(cost: Any, v: Any) -> Any:
    return cost_terms(cost.residuals(v)), observed_counts(cost)
