"""Any method over a record of equidistant observation times: from what it starts, and what it finds at each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from diffassim.core.errors import ConfigurationError
from diffassim.cycling import EnsembleWindowHistory, analysis_times, cycle, split_windows
from diffassim.ensemble import EnKS
from diffassim.ensemble.smoothers.enks import Lagged
from diffassim.gaussian import Gaussian, GaussianMethod, StaticMethod
from diffassim.methods import EnsembleWindowMethod, SequentialMethod, WindowMethod

__all__ = ["Estimate", "Found", "Record", "assimilated", "first_belief", "needs_members", "needs_window"]


class Estimate(NamedTuple):
    """What is known at each analysis; leaves have a leading axis of analyses.

    Args:
        mean: states.
        spread: standard deviations, like states; None where the method knows none.
        belief: members, `Gaussian` or `Particles`; None where they were not asked for, or the method has none.
    """

    mean: Any
    spread: Any = None
    belief: Any = None


class Found(NamedTuple):
    """What `assimilated` finds.

    Args:
        forecast: before the observations of the analysis time.
        analysis: after them.
        smoothed: at the time `lag` observation times before, after them; None for filters.
        result: result codes, one for each analysis.
        info: the method's account of each analysis; None for variational methods.
    """

    forecast: Estimate
    analysis: Estimate
    smoothed: Estimate | None
    result: Any
    info: Any


@dataclasses.dataclass(frozen=True)
class Record:
    """Observations at equidistant times, and the windows in which a method sees them.

    Args:
        observations: `Observations` or a tuple of streams, at the steps `interval`, 2 `interval`, ...
        cycles: number of observation times.
        interval: model steps from one to the next.
        lag: observation times in a window; 0 for methods that analyse one time after the other.
        shift: observation times from window to window.
    """

    observations: Any
    cycles: int
    interval: int
    lag: int = 0
    shift: int = 1

    @property
    def analyses(self) -> int:
        """Number of analyses: one for each observation time, or one for each window."""
        return (self.cycles - self.lag) // self.shift + 1 if self.lag else self.cycles


def needs_window(method: Any) -> bool:
    """Return whether a method, or a class of methods, analyses windows."""
    return issubclass(_class(method), WindowMethod | EnsembleWindowMethod)


def needs_members(method: Any) -> bool:
    """Return whether a method, or a class of methods, starts from members."""
    kind = _class(method)
    return not issubclass(kind, GaussianMethod) and (
        not issubclass(kind, WindowMethod) or kind.init is not WindowMethod.init
    )


def _class(method: Any) -> type[Any]:
    return method if isinstance(method, type) else type(method)


def first_belief(
    method: Any, center: Callable[[], Any], covariance: Callable[[Any], Any], members: Any
) -> Any:  # fmt: skip
    """Return what a method starts from: members, a Gaussian, or a state.

    Args:
        method: the method.
        center: returns the mean of the start.
        covariance: takes it, and returns the covariance of the start.
        members: draws from that distribution, leading axis of members.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> start = lambda: jnp.zeros(2), lambda x: da.covariances.Diagonal(std=2.0), jnp.ones((3, 2))
        >>> first_belief(da.ETKF(), *start).shape, first_belief(da.EKF(), *start).columns.tolist()
        ((3, 2), [[2.0, 0.0], [0.0, 2.0]])
    """
    if needs_members(method):
        return members
    x = center()
    return x if isinstance(method, StaticMethod | WindowMethod) else Gaussian.from_covariance(x, covariance(x))


def assimilated(
    method: Any,
    model: Any,
    belief: Any,
    record: Record,
    *,
    key: Any,
    start: Any = 0,
    beliefs: bool = False,
) -> tuple[Any, Found]:
    """Cycle a method over a record.

    A long record may be assimilated in parts, each with the belief that the part before handed on: `start` is then the
    number of the model step before the first one of the part, and of overlapping windows only the last `shift`
    observation times of the first window may be observed, because the part before has used the others.

    Args:
        method: any method that `cycle` takes.
        model: forward model.
        belief: what the method starts from (`first_belief`), or what this function returned for the part before.
        record: the observations; their steps count from the start of the part.
        key: random key, the same for all parts.
        start: number of the first step.
        beliefs: whether members (`Gaussian`, `Particles`) are kept.

    Returns:
        What is known at the end, to go on with, and `Found`.

    Raises:
        ConfigurationError: if a method needs a window and the record has none, or the other way round.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> y = da.Observations(jnp.zeros((3, 40)), [2, 4, 6], error=da.covariances.Diagonal(std=1.0))
        >>> members = 8 + jax.random.normal(jax.random.key(0), (10, 40))
        >>> _, found = assimilated(da.ETKF(), da.models.Lorenz96(), members, Record(y, 3, 2), key=jax.random.key(1))
        >>> found.analysis.mean.shape, found.smoothed
        ((3, 40), None)
    """
    if needs_window(method) != bool(record.lag):
        kind = type(method).__name__
        raise ConfigurationError(
            f"{kind} analyses windows: give their length in observation times, lag = 1 or more"
            if needs_window(method)
            else f"{kind} analyses one time after the other: it takes no window, lag = 0"
        )
    options = {"key": key, "start": start}
    if isinstance(method, EnsembleWindowMethod | SequentialMethod):
        options |= {"members": beliefs, "priors": beliefs}
    if isinstance(method, SequentialMethod):
        belief, history = cycle(method, model, belief, analysis_times(record.observations), **options)
        return belief, _of_times(method, history)
    steps, shift = record.lag * record.interval, record.shift * record.interval
    windows = split_windows(record.observations, steps, record.analyses, shift=shift)
    belief, history = cycle(method, model, belief, windows, steps=steps, shift=shift, at=[0, steps], **options)
    return belief, _of_windows(history)


def _of_times(method: Any, history: Any) -> Found:
    before, after = (
        Estimate(moments.mean, moments.spread, members)
        for moments, members in ((history.background, history.priors), (history.analysis, history.members))
    )
    smoothed = None
    if isinstance(method, EnKS):  # rows of the past, after the axis of time
        smoothed = _of_row(after, method.lag)
        before, after = _of_row(before, 0), _of_row(after, 0)
    return Found(before, after, smoothed, history.info.result, history.info)


def _of_windows(history: Any) -> Found:
    if isinstance(history, EnsembleWindowHistory):
        before, after = (
            [Estimate(*_row((moments.mean, moments.spread, members), row)) for row in (0, 1)]
            for moments, members in ((history.background, history.priors), (history.analysis, history.members))
        )
        return Found(before[1], after[1], after[0], history.info.result, history.info)
    forecast, smoothed, analysis = (
        Estimate(_row(rows, k)) for rows, k in ((history.background, 1), (history.analysis, 0), (history.analysis, 1))
    )
    return Found(forecast, analysis, smoothed, history.search.result, None)


def _row(rows: Any, k: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:, k], rows)


def _of_row(estimate: Estimate, k: int) -> Estimate:
    """Return the estimate of a row of `Lagged` members, of which moments have it in front of the members' axis."""
    kept = estimate.belief
    members = jax.tree.map(lambda leaf: leaf[:, :, k], kept.members) if isinstance(kept, Lagged) else None
    return Estimate(_row(estimate.mean, k), _row(estimate.spread, k), members)
