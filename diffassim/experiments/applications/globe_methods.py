"""The methods of the twin experiment on the sphere, each a function from one day to the next."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from diffassim.core.errors import AssimilationWarning
from diffassim.core.results import Result
from diffassim.cycling import FourDVar, cycle, split_windows
from diffassim.ensemble import ETKF, LETKF, AsynchronousFilter, GaspariCohn, RelaxToPriorSpread
from diffassim.experiments.applications.globe_setting import DAY, WINDOW
from diffassim.grids.sphere import Sphere
from diffassim.models import FunctionModel, rollout
from diffassim.variational import GaussNewton, PerfectModel, StrongConstraint4DVar, ThreeDVarFGAT

__all__ = [
    "BATCH", "ENSEMBLES", "METHODS", "VARIATIONAL", "Day", "climatology_day", "ensemble_day", "free_day",
    "global_filter", "interpolation_day", "local_filter", "truth_rows", "variational_day",
]  # fmt: skip

METHODS = (
    "climatology", "free run", "optimal interpolation", "3D-Var", "4D-Var", "ETKF, not localized", "LETKF",
)  # fmt: skip
VARIATIONAL = {"3D-Var": ThreeDVarFGAT, "4D-Var": StrongConstraint4DVar}
ENSEMBLES = METHODS[5:]
BATCH = 256  # grid points that the local filter analyses together
# A fifth of a standard deviation of the background, of all thousand or so directions together.
SEARCH = GaussNewton(tolerance=0.2, growth=None, max_iterations=10)


class Day(NamedTuple):
    """What a method makes of the windows of a day.

    Args:
        belief: what it hands on to the next day.
        background: states at the end of each window before its observations are used, leading axis window.
        analysis: the same after it.
        spread: standard deviation that the method expects of the analysis error; None where it expects none.
        failed: whether a window has failed, shape (windows,).
    """

    belief: Any
    background: Any
    analysis: Any
    spread: Any
    failed: Int[np.ndarray, " windows"]


def truth_rows(model: Any, x: Any, steps: int) -> Any:
    """Return the states of the steps 0 to `steps` of a run."""
    return _run(model, x, steps)


def climatology_day(mean: Any) -> Day:
    """Return the mean of the climate for all windows."""
    rows = _repeated(mean)
    return Day(mean, rows, rows, None, np.zeros(DAY // WINDOW, int))


def free_day(model: Any, x: Any) -> Day:
    """Run on without observations."""
    rows = jax.tree.map(lambda leaf: leaf[WINDOW::WINDOW], truth_rows(model, x, DAY))
    return Day(jax.tree.map(lambda leaf: leaf[-1], rows), rows, rows, None, _lost(rows))


def interpolation_day(mean: Any, B: Any, observations: Any) -> Day:
    """Interpolate the departures of each window's observations from the mean of the climate, as if simultaneous.

    Args:
        mean: of the climate.
        B: covariance of the climate.
        observations: streams of a day.
    """
    still = FunctionModel(_target, arguments=mean)
    method = FourDVar(B, SEARCH, cost=PerfectModel(ThreeDVarFGAT))
    history = _cycled(method, still, mean, observations, [0])
    analysis = jax.tree.map(lambda leaf: leaf[:, 0], history.analysis)
    return Day(mean, _repeated(mean), analysis, None, _failed(history.search.result, analysis))


def variational_day(form: Any, B: Any, model: Any, x: Any, observations: Any) -> Day:
    """Analyse the windows of a day by a variational method, and run on from each analysis.

    Args:
        form: class of the cost.
        B: background-error covariance.
        model: forward model.
        x: background at the start of the day.
        observations: streams of a day.
    """
    method = FourDVar(B, SEARCH, cost=PerfectModel(form))
    history = _cycled(method, model, x, observations, [WINDOW])
    background, analysis = (
        jax.tree.map(lambda leaf: leaf[:, 0], part) for part in (history.background, history.analysis)
    )
    failed = _failed(history.search.result, analysis)
    return Day(jax.tree.map(lambda leaf: leaf[-1], analysis), background, analysis, None, failed)


def ensemble_day(method: Any, model: Any, ensemble: Any, observations: Any) -> tuple[Day, Any]:
    """Analyse the windows of a day by an ensemble filter, and run the members on.

    Args:
        method: filter, with its inflation.
        model: forward model.
        ensemble: members at the start of the day.
        observations: streams of a day.

    Returns:
        The day, and the analysed members at the end of each window, leading axes (window, member).
    """
    windows = split_windows(observations, WINDOW, DAY // WINDOW)
    ensemble, history = _filtered(method, model, ensemble, windows)
    background, analysis, spread, members = (
        jax.tree.map(lambda leaf: leaf[:, 0], part)
        for part in (history.background.mean, history.analysis.mean, history.analysis.spread, history.members)
    )
    return Day(ensemble, background, analysis, spread, _failed(history.info.result, analysis)), members


def local_filter(sphere: Sphere, radius: Any, alpha: Any) -> LETKF:
    """Return the LETKF with a radius (of Gaspari and Cohn, km) and a relaxation to the prior spread."""
    return LETKF(
        RelaxToPriorSpread(jnp.asarray(alpha)), localization=GaspariCohn(jnp.asarray(radius)), grid=sphere, batch=BATCH
    )


def global_filter(alpha: Any) -> ETKF:
    """Return the ETKF with a relaxation to the prior spread."""
    return ETKF(RelaxToPriorSpread(jnp.asarray(alpha)))


@jax.jit
def _filtered(method: Any, model: Any, ensemble: Any, windows: Any) -> Any:
    # Places and radius are traced here: one program serves all radii and all places of the satellite.
    return cycle(AsynchronousFilter(method), model, ensemble, windows, steps=WINDOW, at=[WINDOW], members=True)


def _cycled(method: Any, model: Any, x: Any, observations: Any, at: list[int]) -> Any:
    windows = split_windows(observations, WINDOW, DAY // WINDOW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssimilationWarning)  # the table counts the windows that have failed
        return cycle(method, model, x, windows, steps=WINDOW, at=at)[1]


def _run(model: Any, x: Any, steps: int) -> Any:
    return _rollout(model, x, steps)


_rollout = jax.jit(lambda model, x, steps: rollout(model, x, steps), static_argnums=2)


def _target(x: Any, t: Any, mean: Any) -> Any:
    return mean


def _repeated(x: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (DAY // WINDOW, *jnp.shape(leaf))), x)


def _lost(rows: Any) -> Int[np.ndarray, " windows"]:
    """Return 1 for each window whose fields are not finite."""
    sound = [np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in map(np.asarray, jax.tree.leaves(rows))]
    return (~np.logical_and.reduce(sound)).astype(int)


def _failed(codes: Array, rows: Any) -> Int[np.ndarray, " windows"]:
    """Return 1 for each window whose analysis did not succeed, or is not finite."""
    return np.maximum(_lost(rows), (np.asarray(codes).reshape(len(codes)) != Result.CONVERGED).astype(int))
