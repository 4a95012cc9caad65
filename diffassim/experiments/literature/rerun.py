"""Run a row of the literature anew, over seeds, and compare it with what is documented."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.core.results import Result
from diffassim.covariances import Diagonal
from diffassim.ensemble import ParticleFilter
from diffassim.experiments.framework.assimilation import Record, assimilated, first_belief
from diffassim.experiments.literature.rows import OfClimatology, Persistence, Row
from diffassim.gaussian import Gaussian

__all__ = ["Outcome", "rerun"]

KEY = 2024
ALLOWANCE = 0.03  # share of the documented score, or two standard errors, by which a mean may be above it ...
SCATTER = 0.1  # ... at most: where runs scatter so much that two standard errors are more, the score is not reached
LOST = 2.0  # a run is lost if its error is more than this many times the documented one


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `rerun` found.

    Args:
        row: what was run.
        errors: time-mean error of each seed; that of a lost run may be NaN.
        spreads: time-mean spread of the analysed ensemble, zero where there is none.
        results: the largest `Result` code of each seed's analyses.
    """

    row: Row
    errors: np.ndarray
    spreads: np.ndarray
    results: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """Which runs are not lost: an error of at most twice the documented one."""
        return self.errors <= LOST * self.row.documented

    @property
    def lost(self) -> int:
        """Number of lost runs."""
        return int(np.sum(~self.kept))

    @property
    def mean(self) -> float:
        """Mean error of the runs that are not lost."""
        return float(np.mean(self.errors[self.kept])) if self.kept.any() else float("nan")

    @property
    def standard_error(self) -> float:
        """Of the mean, from the scatter of the seeds; NaN for a single one."""
        count = int(self.kept.sum())
        return float(np.std(self.errors[self.kept], ddof=1) / count**0.5) if count > 1 else float("nan")

    @property
    def allowance(self) -> float:
        """By how much the mean may be above a documented score: 3 % of it, or two standard errors up to 10 %."""
        scatter = min(2 * float(np.nan_to_num(self.standard_error)), SCATTER * self.row.documented)
        return max(ALLOWANCE * self.row.documented, scatter)

    @property
    def reached(self) -> str:
        """Whether the documented score is reached; lost runs decide first.

        'lost' if a run is lost, however good the others are; 'yes'; 'rerun' if only the rerun of the documenting
        program is reached (whose error counts too); or 'no'.
        """
        if self.lost:
            return "lost" if self.kept.any() else "no"
        if self.mean <= self.row.documented + self.allowance:
            return "yes"
        if self.row.rerun is None:
            return "no"
        score, error = self.row.rerun
        return "rerun" if self.mean <= score + max(self.allowance, 2 * error) else "no"

    def facts(self) -> dict[str, Any]:
        """Return everything as plain values, for tables and files."""
        score, error = self.row.rerun or (None, None)
        return {
            "case": self.row.case, "method": self.row.label, "members": self.row.members, "lag": self.row.lag,
            "cycles": self.row.length, "burn_in": self.row.setup.burn_in, "seeds": self.errors.size, "lost": self.lost,
            "mean": self.mean, "standard_error": self.standard_error, "spread": float(np.nanmean(self.spreads)),
            "published": self.row.documented, "rerun": score, "rerun_standard_error": error, "reached": self.reached,
            "note": self.row.note, "source": f"{self.row.setup.source}: {self.row.line}",
            "errors": self.errors.tolist(),
        }  # fmt: skip


def rerun(row: Row, seeds: int = 5, key: jax.Array | None = None, cycles: int | None = None) -> Outcome:
    """Run a row of the literature over seeds, each with its own truth, observations and members.

    Args:
        row: see `ROWS`.
        seeds: number of runs.
        key: random key; default: `jax.random.key(2024)`.
        cycles: observation times of one run; default: those of the row.

    Returns:
        `Outcome`.

    Raises:
        ConfigurationError: if there is no seed, or the cycles end within the burn-in.

    Example:
        >>> from diffassim.experiments.literature import find_rows
        >>> (row,) = find_rows("lorenz63", "ETKF 1.02, rotated, again")
        >>> outcome = rerun(row, seeds=2, cycles=200)
        >>> outcome.lost, 0.2 < outcome.mean < 1.2
        (0, True)
    """
    cycles = row.length if cycles is None else cycles
    if seeds < 1 or cycles <= row.setup.burn_in + row.lag:
        raise ConfigurationError(
            f"{row.name}: {seeds} seeds of {cycles} cycles, but at least one seed is needed, and more cycles than the "
            f"burn-in of {row.setup.burn_in}"
        )
    # In a batch, iterations end where those of all seeds have converged, and particles are resampled at every analysis.
    alone = row.lag > 0 or isinstance(row.method, ParticleFilter)
    run = partial(_run, row, cycles)
    together = partial(jax.lax.map, run) if alone else jax.vmap(run)
    found = jax.jit(together)(jax.random.split(jax.random.key(KEY) if key is None else key, seeds))
    return Outcome(row, *(np.asarray(each) for each in found))


def _run(row: Row, cycles: int, key: jax.Array) -> tuple[Any, Any, Any]:
    """Return time-mean error, time-mean spread and the largest result code of one run."""
    setup = row.setup
    keys = jax.random.split(key, 4)
    draws = setup.draw(keys[0], 1 + row.members)
    states = setup.truth(keys[3], jax.tree.map(lambda leaf: leaf[0], draws), cycles)
    truth = jax.tree.map(lambda leaf: leaf[1:], states)
    if isinstance(row.method, Persistence):
        analysis, spread, result = jax.tree.map(lambda leaf: leaf[:-1], states), jnp.zeros(cycles), Result.CONVERGED
    else:
        method = (
            row.method.build(Gaussian.from_samples(states)) if isinstance(row.method, OfClimatology) else row.method
        )
        members = jax.tree.map(lambda leaf: leaf[1:], draws)
        background = first_belief(method, setup.center, lambda center: Diagonal(std=setup.variance**0.5), members)
        record = Record(setup.observe(keys[1], truth, cycles), cycles, setup.interval, row.lag)
        _, found = assimilated(method, setup.model, background, record, key=keys[2])
        analysis, result = found.analysis.mean, found.result
        spread = jnp.zeros(record.analyses) if found.info is None else found.info.analysis_spread
        truth = jax.tree.map(lambda leaf: leaf[max(row.lag - 1, 0) :], truth)
    error = jnp.sqrt(jnp.mean(jnp.square(tree.flat_rows(tree.subtract(analysis, truth))), axis=1))
    kept = slice(setup.burn_in, None)
    return jnp.mean(error[kept]), jnp.mean(spread[kept]), Result.worst_code(result)
