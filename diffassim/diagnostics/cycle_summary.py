"""What became of a cycled ensemble, on one page."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from diffassim.core.errors import ShapeError
from diffassim.core.pytree import Pytree, static
from diffassim.core.results import Result
from diffassim.core.tree import flat_rows

__all__ = ["CycleSummary", "cycle_summary"]

CONSISTENT = (0.8, 1.25)  # of chi-square, and of spread over error: nothing to say inside


class CycleSummary(Pytree):
    """Result of `cycle_summary`; its text is a table. Means are taken over the sound analyses after the burn-in.

    Args:
        analyses: analysis times of the record.
        counted: how many of them are in the means.
        empty: analyses without any observed value.
        lost: analyses from the first that is not finite on.
        lost_at: step of the first of them; None if all are sound.
        failed_members: members that were not finite, summed over the analyses before that one.
        background_spread, analysis_spread: root of the variance averaged over state and time.
        background_error, analysis_error: root-mean-square error of the mean, averaged over time; None without truth.
        chi_square: mean of innovation squared over its expected variance; NaN without observations.
        chi_square_error: standard error of that mean, as if times were independent.
    """

    analyses: int = static()
    counted: int = static()
    empty: int = static()
    lost: int = static()
    lost_at: int | None = static()
    failed_members: int = static()
    background_spread: float = static()
    analysis_spread: float = static()
    background_error: float | None = static()
    analysis_error: float | None = static()
    chi_square: float = static()
    chi_square_error: float = static()

    @property
    def advice(self) -> str:
        """What the numbers suggest, in a sentence."""
        low, high = CONSISTENT
        ratio = None if self.analysis_error is None else self.analysis_spread / max(self.analysis_error, 1e-300)
        if self.lost:
            return Result.describe(int(Result.DIVERGED))
        if not np.isfinite(self.chi_square):
            return "nothing was observed"
        if self.chi_square > high or (ratio is not None and ratio < low):
            return "the ensemble claims less error than there is: raise inflation, localize more, or check R and model"
        if self.chi_square < low or (ratio is not None and ratio > high):
            return "the ensemble claims more error than there is: lower inflation, or look at R"
        return "spread and innovations are consistent"

    def __str__(self) -> str:
        def row(name: str, spread: float, error: float | None) -> str:
            told = "" if error is None else f" {error:>12.5g} {spread / max(error, 1e-300):>12.2f}"
            return f"{name:<12s} {spread:>12.5g}{told}"

        told = "" if self.analysis_error is None else f" {'error':>12s} {'spread/error':>12s}"
        lines = [
            f"{'':<12s} {'spread':>12s}{told}",
            row("background", self.background_spread, self.background_error),
            row("analysis", self.analysis_spread, self.analysis_error),
            f"chi-square per observed value {self.chi_square:.3f} +- {self.chi_square_error:.3f}",
            f"{self.counted} of {self.analyses} analyses counted, {self.empty} without observations, "
            f"{self.failed_members} failed members"
            + ("" if self.lost_at is None else f"; {self.lost} lost, from step {self.lost_at} on"),
        ]
        return "\n".join([*lines, self.advice])


def cycle_summary(history: Any, truth: Any = None, burn_in: int = 0) -> CycleSummary:
    """Return the account of a cycled ensemble: spread, error, consistency of the innovations, what was lost, advice.

    Args:
        history: what `da.cycle` returned for a sequential method.
        truth: true states at `history.step`, like `history.analysis.mean`; None leaves the errors out.
        burn_in: analyses at the start that do not count.

    Returns:
        `CycleSummary`; `print` it.

    Raises:
        ShapeError: if it is a batch of cycles, the truth does not fit, or the burn-in leaves nothing.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.zeros((3, 4)), [1, 2, 3], error=da.covariances.Diagonal(std=1.0))
        >>> members = jax.random.normal(jax.random.key(0), (20, 4))
        >>> still = da.models.FunctionModel(lambda x, t: x)
        >>> _, history = da.cycle(da.ETKF(), still, members, y)
        >>> cycle_summary(history, truth=jnp.zeros((3, 4))).counted
        3
    """
    codes = np.asarray(history.info.result)
    if codes.ndim != 1:
        raise ShapeError(
            f"cycle_summary: found cycles of shape {codes.shape}; take one, jax.tree.map(lambda leaf: leaf[i], history)"
        )
    if not 0 <= burn_in < codes.size:
        raise ShapeError(f"cycle_summary: burn_in={burn_in} leaves nothing of {codes.size} analyses")
    lost = np.flatnonzero(codes == Result.DIVERGED)
    sound = lost[0] if lost.size else codes.size
    counted = slice(min(burn_in, sound), sound)
    info = jax.tree.map(np.asarray, history.info)
    observed = info.count[counted] > 0
    chi_square = info.chi_square[counted][observed]
    errors = [None if truth is None else _error(part.mean, truth, counted) for part in _parts(history)]
    spreads = [_root_mean_square(flat_rows(part.spread), counted) for part in _parts(history)]
    return CycleSummary(
        analyses=codes.size, counted=counted.stop - counted.start, empty=int(np.sum(info.count == 0)),
        lost=codes.size - int(sound), lost_at=int(history.step[sound]) if lost.size else None,
        failed_members=int(np.sum(info.non_finite[:sound])),
        background_spread=spreads[0], analysis_spread=spreads[1],
        background_error=errors[0], analysis_error=errors[1],
        chi_square=float(np.mean(chi_square)) if chi_square.size else float("nan"),
        chi_square_error=float(np.std(chi_square) / chi_square.size**0.5) if chi_square.size else float("nan"),
    )  # fmt: skip


def _parts(history: Any) -> tuple[Any, Any]:
    return history.background, history.analysis


def _root_mean_square(rows: Any, counted: slice) -> float:
    """Mean over time of the root of the mean square of each row; NaN without rows."""
    rows = np.asarray(rows)[counted]
    return float(np.mean(np.sqrt(np.mean(rows**2, axis=1)))) if len(rows) else float("nan")


def _error(mean: Any, truth: Any, counted: slice) -> float:
    found, expected = ([np.shape(leaf) for leaf in jax.tree.leaves(x)] for x in (truth, mean))
    if found != expected:
        raise ShapeError(f"cycle_summary: truth has shapes {found}, but the analysed means have {expected}")
    return _root_mean_square(np.asarray(flat_rows(mean)) - np.asarray(flat_rows(truth)), counted)
