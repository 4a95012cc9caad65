"""Which observations made a score better or worse: sensitivities and impacts through the implicit gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.pytree import Pytree
from diffassim.covariances.base import Covariance
from diffassim.variational.costs.base import as_cost
from diffassim.variational.minimizers.implicit import hessian_solve
from diffassim.variational.minimizers.linearization import stored
from diffassim.variational.minimizers.solution import require_converged

__all__ = ["ObservationImpact", "departures_at", "observation_impact", "with_values"]


class ObservationImpact(Pytree):
    """Sensitivity and impact of each observed value, by stream.

    Args:
        sensitivity: derivative of the score by each observed value, shaped like the values.
        impact: share of each value in the change of the score by the analysis; negative where it lowered the score.
        total: sum of all impacts.
        change: score of the analysis minus score of the background, which `total` approximates.
        observed: whether a value is observed, shaped like the values.
    """

    sensitivity: tuple[Any, ...]
    impact: tuple[Any, ...]
    total: Any
    change: Any
    observed: tuple[Any, ...] = ()

    @property
    def by_stream(self) -> tuple[Any, ...]:
        """Sum of the impacts of each stream."""
        return tuple(sum((jnp.sum(leaf) for leaf in jax.tree.leaves(i)), jnp.zeros_like(self.total))
                     for i in self.impact)  # fmt: skip

    @property
    def beneficial(self) -> tuple[Any, ...]:
        """Share of each stream's observed values that lowered the score (NaN where nothing is observed)."""
        return tuple(self._share(i, m) for i, m in zip(self.impact, self.observed, strict=True))

    def _share(self, impact: Any, observed: Any) -> Any:
        good = [jnp.sum((i < 0) & m) for i, m in zip(*map(jax.tree.leaves, (impact, observed)), strict=True)]
        return sum(good, jnp.asarray(0)).astype(self.total.dtype) / _count(observed).astype(self.total.dtype)

    def __str__(self) -> str:
        lines = [f"{'impact of':<16s} {'sum':>12s} {'values':>8s} {'per value':>12s} {'beneficial':>11s}"]
        streams = zip(self.by_stream, self.beneficial, map(_count, self.observed), strict=True)
        for i, (total, share, count) in enumerate(streams):
            n = int(count)
            mean = float(total) / n if n else 0.0
            good = f"{100 * float(share):.0f} %" if n else "-"
            lines.append(f"{f'observations {i}':<16s} {float(total):>12.4g} {n:>8d} {mean:>12.3g} {good:>11s}")
        lines.append(f"{'total':<16s} {float(self.total):>12.4g}; the score changed by {float(self.change):.4g}")
        return "\n".join(lines)


def _count(observed: Any) -> Any:
    return sum((jnp.sum(m) for m in jax.tree.leaves(observed)), jnp.asarray(0))


def observation_impact(
    cost: Any, solution: Any, score: Callable[[Any], Any], tolerance: float = 1e-6
) -> ObservationImpact:
    r"""Return the impact of each observation on a score of the analysis or of a forecast from it.

    .. math::
        \mathrm{d}_i = (y_i - H_i(x_b)) \Big[K^\top \tfrac12 (\nabla s(v_a) + \nabla s(0))\Big]_i

    K^T is applied through the implicit function theorem: one solve with the full Hessian at the solution, whatever the
    number of observations. The mean of the gradients at analysis and background makes the sum of all impacts equal to
    the change of the score, s(v_a) - s(0), for linear problems and quadratic scores; otherwise both are reported.
    The sensitivities are those of the score at the analysis alone.

    Args:
        cost: the cost that was minimized.
        solution: `Solution`, converged.
        score: control vector v -> a number, smaller is better: a `ForecastError` (compiled once), or a function that
            uses `cost.state(v)` or `cost.trajectory(v, steps)`.
        tolerance: tenfold relative residual of the solves.

    Returns:
        `ObservationImpact`; its text is a table by stream.

    Raises:
        DataError: if the search met something that is not finite.

    Warns:
        AssimilationWarning: if the search did not converge: the implicit derivative presupposes a minimum.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> cost = da.ThreeDVar(jnp.zeros(1), one, da.Observations(jnp.array([[2.0]]), [0], error=one))
        >>> found = observation_impact(cost, da.minimize(cost), lambda v: (cost.state(v)[0] - 3.0) ** 2)
        >>> found.impact[0].round(6).tolist(), float(found.change.round(6))
        ([[-5.0]], -5.0)

    Source: Langland and Baker (2004), equation 5; Tremolet (2008) for the adjoint of the minimization.
    """
    cost = as_cost(cost)
    require_converged("observation_impact", solution)
    v, origin = solution.control, tree.zeros_like(solution.control)
    slope = partial(_slope, score) if isinstance(score, Pytree) else jax.value_and_grad(score)
    (value_a, at_analysis), (value_b, at_background) = slope(v), slope(origin)
    mean = tree.scale(0.5, tree.add(at_analysis, at_background))
    sensitivity, averaged, departures = _pull_back(cost, v, at_analysis, mean, origin, tolerance)
    impact = jax.tree.map(jnp.multiply, averaged, departures)
    total = sum((jnp.sum(leaf) for leaf in jax.tree.leaves(impact)), jnp.zeros((), value_a.dtype))
    observed = tuple(stream.mask for stream in cost.streams())
    return ObservationImpact(sensitivity, impact, total, value_a - value_b, observed)


_slope = jax.jit(lambda score, v: jax.value_and_grad(score)(v))


@jax.jit
def _pull_back(cost: Any, v: Any, first: Any, second: Any, origin: Any, tolerance: Any) -> tuple[Any, ...]:
    kept = stored(cost, v) or cost
    values = tuple(stream.values for stream in cost.streams())

    def by_values(v_bar: Any) -> Any:
        w = hessian_solve(cost, v, v_bar, tolerance)
        return jax.grad(lambda values: -jax.jvp(lambda v: with_values(kept, values)(v), (v,), (w,))[1])(values)

    return by_values(first), by_values(second), departures_at(cost, origin)


def with_values(cost: Any, values: tuple[Any, ...]) -> Any:
    """Return the cost with other observed values under the same masks."""
    streams = zip(cost.streams(), values, strict=True)
    return cost.with_streams(tuple(stream.replace(values=value) for stream, value in streams))


def departures_at(cost: Any, v: Any) -> Any:
    """Return y - H(x), zero where nothing is observed: the innovation under unit weights, read off the residuals."""
    streams = tuple(stream.replace(error=_Unit(), loss=None) for stream in cost.streams())
    return cost.with_streams(streams).residuals(v)[1]


class _Unit(Covariance):
    """An observation error that leaves departures as they are."""

    def masked(self, mask: Any) -> Any:
        return self

    def whiten(self, x: Any) -> Any:
        return x

    def check(self, name: str, x: Any) -> None:
        return
