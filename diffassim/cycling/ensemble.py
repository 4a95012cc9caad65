"""Cycled sequential assimilation: forecast to the next observation time, analysis, and so on, in one scan."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from diffassim.core import tree
from diffassim.core.checks import forward_mode, start_step
from diffassim.core.errors import AssimilationWarning, concrete
from diffassim.core.pytree import Pytree
from diffassim.core.results import Result
from diffassim.cycling.times import AnalysisTimes, analysis_times
from diffassim.methods.account import AnalysisInfo
from diffassim.methods.sequential import require_key
from diffassim.models.base import FunctionModel, require_forcing
from diffassim.models.rollout import rollout

__all__ = ["EnsembleHistory", "Moments", "cycle_ensemble", "propagator", "report_divergence"]

FORECAST = 1_000_003


class Moments(Pytree):
    """Mean and spread of an ensemble, or of what else a method hands on.

    Args:
        mean: mean, like a state.
        spread: standard deviation of every component (of the sample, for an ensemble), like a state.
    """

    mean: Any
    spread: Any


class EnsembleHistory(Pytree):
    """What `cycle_ensemble` keeps of every analysis (leading axis: analysis time).

    Args:
        step: number of the model step at which the analysis is valid (`start` included).
        background: moments of the ensemble before the analysis.
        analysis: moments after it (inflation included).
        info: the method's account.
        members: the analysed members, shape (time, member, ...), or `Gaussian` or `Particles` with a leading time axis,
            where they were asked for.
        priors: the same before each analysis, where they were asked for.
    """

    step: Int[Array, " time"]
    background: Moments
    analysis: Moments
    info: AnalysisInfo
    members: Any = None
    priors: Any = None

    @property
    def log_likelihood(self) -> Float[Array, ""]:
        """Log density of all observed values of the record, from one forecast to the next; see `AnalysisInfo`."""
        return jnp.sum(self.info.log_likelihood, axis=-1)


def cycle_ensemble(
    method: Any,
    model: Any,
    ensemble: Any,
    observations: Any,
    *,
    key: Any = None,
    start: Any = 0,
    members: bool = False,
    priors: bool = False,
) -> tuple[Any, EnsembleHistory]:
    """Forecast an ensemble, or what else a method hands on, to each observation time in turn, and analyse there.

    `da.cycle` calls it for a method that analyses one time after the other. The whole cycle is one scan: it compiles
    once for the shapes of a record, can be batched over experiments, and losses pass through it; reverse mode keeps one
    ensemble for each analysis.

    To stop and go on later, cycle over a part of the times and pass on what it returns, with the same key; the result
    is the same, bit by bit:

        times = da.analysis_times(observations)
        ensemble, first = da.cycle(method, model, ensemble, times[:500], key=key)
        ensemble, second = da.cycle(method, model, ensemble, times[500:], key=key, start=first.step[-1])

    Args:
        method: sequential method, for example `ETKF`, `EKF` or `ParticleFilter`.
        model: forward model, `step(x, t) -> x` for one member.
        ensemble: members at the start, a pytree with a leading member axis, or what the method's `init` takes in their
            place (a `Gaussian`, `Particles`); step 0 of the observations.
        observations: `Observations`, a tuple of streams, or `AnalysisTimes` (needed where the steps are traced).
        key: random key; each analysis draws from the key folded with the number of its step. A key that is used again
            for the same steps draws the same numbers: experiments that should be independent need keys of their own.
        start: number of the first step, passed to the model as t (run-time integer).
        members: whether to keep the analysed members (`Gaussian`, `Particles`) of all times (static).
        priors: whether to keep the members before each analysis as well (static).

    Returns:
        The ensemble after the last analysis, and `EnsembleHistory`.

    Raises:
        ShapeError: if the ensemble has fewer than two members or does not fit the observations.
        ConfigurationError: if the method draws random numbers and there is no key.

    Warns:
        AssimilationWarning: (outside of traced code) if the ensemble is not finite any more; all later analyses carry
            the code `DIVERGED`.

    Example:
        >>> import diffassim as da
        >>> y = da.Observations(jnp.zeros((3, 40)), [2, 4, 6], error=da.covariances.Diagonal(std=1.0))
        >>> ensemble = 8 + jax.random.normal(jax.random.key(0), (10, 40))
        >>> ensemble, history = da.cycle(da.ETKF(), da.models.Lorenz96(), ensemble, y)
        >>> history.analysis.mean.shape, history.step.tolist()
        ((3, 40), [2, 4, 6])
    """
    name = type(method).__name__
    require_key(f"cycle: {name}", method.random, key)
    start = start_step("cycle", start)
    ensemble = method.init(ensemble)
    times = observations if isinstance(observations, AnalysisTimes) else analysis_times(observations)
    method.check(ensemble, times.streams)
    method, numbers = method.prepared(ensemble, times.streams, times.rows, times.real)
    gaps = concrete(times.gaps)
    require_forcing("cycle", model, start, 0 if gaps is None else int(gaps.sum()))
    with forward_mode(f"cycle with {name}", "UKF and the ensemble filters need no derivatives"):
        ensemble, history = _cycle(method, model, ensemble, times, numbers, key, start, members, priors)
    report_divergence(history.info.result, history.step)
    return ensemble, history


def propagator(model: Any, times: AnalysisTimes, step: Any, gap: Any) -> Callable[..., Any]:
    """Return the function that takes one state from `step` on over `gap` steps; see `SequentialMethod.forecast`.

    Args:
        model: forward model.
        times: what the gap is one of.
        step: number of the first step.
        gap: run-time number of steps.
    """

    def propagate(x: Any, changed: Callable[..., Any] | None = None) -> Any:
        if times.longest == 0:
            return x
        stepped = model if changed is None else FunctionModel(changed(model.step))
        # Where the gaps differ, steps beyond the gap are skipped one by one.
        options = (
            {"at": [times.longest], "segment": times.longest}
            if times.uniform
            else {"at": gap[None], "limit": gap, "segment": 1}
        )
        return jax.tree.map(lambda leaf: leaf[0], rollout(stepped, x, times.longest, start=step, **options))

    return propagate


def _keys(key: Any, step: Any) -> tuple[Any, Any]:
    """Return the keys of the analysis at a step and of the forecast that leads to it."""
    analysis = jax.random.fold_in(key, step)
    return analysis, jax.random.fold_in(analysis, FORECAST)  # far from the numbers that a split would use


def _run(
    prepared: Any, model: Any, ensemble: Any, times: AnalysisTimes, numbers: Any, key: Any, start: Any, members: bool,
    priors: bool,
) -> Any:  # fmt: skip
    def body(carry: Any, now: Any) -> tuple[Any, EnsembleHistory]:
        (ensemble, step), (gap, rows, real, number) = carry, now
        method = prepared if number is None else prepared.at(number)
        step_key, forecast_key = (None, None) if key is None else _keys(key, step + gap)
        prior = method.forecast(forecast_key, propagator(model, times, step, gap), ensemble)
        if not times.uniform or times.longest == 0:  # over no step there is no forecast, and no model error
            prior = tree.select(gap > 0, prior, ensemble)
        step = step + gap
        posterior, info = method.analyze(step_key, prior, times.observations(rows, real))
        (mean, spread), info = method.estimate(posterior, info)
        background, analysis = Moments(*method.moments(prior)), Moments(mean, spread)
        kept = posterior if members else None, prior if priors else None
        return (posterior, step), EnsembleHistory(step, background, analysis, info, *kept)

    body = jax.checkpoint(body, prevent_cse=False)
    (ensemble, _), history = lax.scan(body, (ensemble, start), (times.gaps, times.rows, times.real, numbers))
    return ensemble, history


_cycle = jax.jit(_run, static_argnums=(7, 8))


def report_divergence(result: Any, steps: Any) -> None:
    """Warn, where the result codes of a cycle are known, that its analyses are not finite from some step on."""
    codes, steps = concrete(result), concrete(steps)
    if codes is None or steps is None or not (codes == Result.DIVERGED).any():
        return
    first = np.flatnonzero(codes == Result.DIVERGED)[0]
    warnings.warn(
        f"cycle: not finite from the analysis at step {steps[first]} on ({first} of {codes.size} analyses are sound). "
        f"{Result.describe(Result.DIVERGED)}",
        AssimilationWarning,
        stacklevel=4,
    )
