"""Quality control: checks in their order, integer flags with the first reason, and what is left to assimilate."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from diffassim.core.checks import real_array
from diffassim.core.errors import AssimilationWarning, ConfigurationError, ShapeError, concrete
from diffassim.core.pytree import Pytree
from diffassim.observations.checks import Check, Passive, Subject
from diffassim.observations.container import Observations, as_streams
from diffassim.observations.flags import QCFlag

__all__ = ["Screening", "quality_control"]


class Screening(Pytree):
    """Screened observations, and why each of the others is left out.

    Args:
        observations: tuple of streams; a value whose flag is not 0 is masked.
        flags: for each stream, a `QCFlag` for every value, shaped like the values.
        departures: for each stream, y - H(x_b) of all values that were given, passive and rejected ones too; zero where
            nothing was observed or the prediction is not finite. None where no predictions were given.
    """

    observations: tuple[Observations, ...]
    flags: tuple[Int[Array, "time ..."], ...]
    departures: tuple[Any, ...]

    def counts(self) -> tuple[dict[QCFlag, int], ...]:
        """Return how many values have each flag, for each stream (flags that do not occur are left out)."""
        found = []
        for flags in self.flags:
            numbers, times = np.unique(np.asarray(flags), return_counts=True)
            found.append({QCFlag(int(n)): int(t) for n, t in zip(numbers, times, strict=True)})
        return tuple(found)

    def describe(self) -> str:
        """Return a table of the flags by stream, with a line where nothing is left to assimilate."""
        counts = self.counts()
        header = "".join(f"{f'stream {i}':>12s}" for i in range(len(counts)))
        lines = [f"{'flag':<18s}{header}"]
        for flag in sorted({flag for stream in counts for flag in stream}):
            row = "".join(f"{stream.get(flag, 0):>12d}" for stream in counts)
            lines.append(f"{f'{flag.value:>2d} {flag.name.lower()}':<18s}{row}")
        if not any(stream.get(QCFlag.PASS, 0) for stream in counts):
            lines.append("No observation is left: the analysis will be the background.")
        return "\n".join(lines)

    __str__ = describe


def quality_control(observations: Any, checks: Any, predicted: Any = None) -> Screening:
    r"""Apply checks in their order; the first reason to reject a value is its flag.

    What is missing has flag 10 before any check. A check looks only at values that no check before it has rejected, so
    that thinning, for instance, counts the survivors. `Passive` rejects nothing: its values are checked on and flagged
    by what fails them; without a failure they keep flag 1 and are masked at the end.

    Values that are masked are not kept in the screened streams; screen the original ones again for other checks. Flags
    are arrays: the call can stand inside `jit` (without the warning), and new thresholds compile nothing.

    Args:
        observations: `Observations`, or a tuple of streams; the values of each are one array.
        checks: a check, or a sequence of checks, for all streams; or a tuple with one of these for each stream.
        predicted: H(x_b), shaped like the values (a tuple for several streams); `cost.predicted(cost.control())`
            computes it. Needed by the checks against a background.

    Returns:
        `Screening`; its text is a table of counts.

    Raises:
        ShapeError: if values are no single array, predictions do not fit, or numbers of streams disagree.
        ConfigurationError: if a check needs predictions and there are none, or something else stands for a check.

    Warns:
        AssimilationWarning: (outside of traced code) if there were observed values, and all of them are rejected.

    Example:
        >>> import diffassim as da
        >>> from diffassim.observations import BackgroundCheck, Bounds
        >>> y = da.Observations(jnp.array([[1.0, 9.0, jnp.nan, 99.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> found = quality_control(y, [Bounds(upper=50.0), BackgroundCheck(3.0)], predicted=jnp.zeros((1, 4)))
        >>> found.flags[0].tolist(), found.observations[0].mask.tolist()
        ([[0, 19, 10, 12]], [[True, False, False, False]])

    Source: flags of the JEDI Unified Forward Operator, `QCflags.h`.
    """
    streams = as_streams(observations)
    each = _for_each("checks", checks if _nested(checks) else (checks,) * len(streams), streams)
    given = (None,) * len(streams) if predicted is None else predicted
    several = isinstance(given, tuple) or (isinstance(given, list) and len(streams) > 1)
    predictions = _for_each("predicted", tuple(given) if several else (given,), streams)
    found = [_screened(i, *parts) for i, parts in enumerate(zip(streams, each, predictions, strict=True))]
    screening = Screening(*(tuple(part) for part in zip(*found, strict=True))) if found else Screening((), (), ())
    _warn(streams, screening)
    return screening


def _nested(checks: Any) -> bool:
    return isinstance(checks, tuple) and any(not isinstance(part, Check) for part in checks)


def _sequence(checks: Any) -> Sequence[Check]:
    sequence = [checks] if isinstance(checks, Check) else checks
    wrong = sequence if not isinstance(sequence, list | tuple) else [c for c in sequence if not isinstance(c, Check)]
    if wrong or not isinstance(sequence, list | tuple):
        raise ConfigurationError(
            f"quality_control: checks must be a sequence of checks such as Bounds, found {wrong!r}"
        )
    return sequence


def _for_each(name: str, parts: Sequence[Any], streams: tuple[Any, ...]) -> Sequence[Any]:
    if len(parts) != len(streams):
        raise ShapeError(f"quality_control: {name} are given for {len(parts)} streams, but there are {len(streams)}")
    return parts


def _screened(number: int, stream: Observations, checks: Any, predicted: Any) -> tuple[Observations, Any, Any]:
    values = stream.values
    if not isinstance(values, jax.Array):
        raise ShapeError(
            f"quality_control: the values of stream {number} are a pytree; make a stream of each of its arrays"
        )
    if predicted is not None:
        predicted = real_array(f"quality_control: the predictions of stream {number}", predicted)
    if predicted is not None and jnp.shape(predicted) != values.shape:
        raise ShapeError(
            f"quality_control: the predictions of stream {number} have shape {jnp.shape(predicted)}, its values "
            f"{values.shape}"
        )
    finite = None if predicted is None else jnp.isfinite(predicted)
    sound = None if finite is None else jnp.where(finite, predicted, 0)
    departure = None if sound is None else jnp.where(stream.mask & finite, values - sound.astype(values.dtype), 0)
    flags = jnp.where(stream.mask, QCFlag.PASS, QCFlag.MISSING).astype(jnp.int32)
    for check in _sequence(checks):
        if check.needs_prediction and predicted is None:
            raise ConfigurationError(
                f"quality_control: {type(check).__name__} needs `predicted`, the observation equivalents of the "
                "background: cost.predicted(cost.control())"
            )
        alive = flags <= QCFlag.PASSIVE
        fails = check.fails(Subject(stream, departure, finite, alive))
        if jnp.shape(fails) != values.shape:
            raise ShapeError(
                f"quality_control: {type(check).__name__} gives shape {jnp.shape(fails)} for values of shape "
                f"{values.shape}"
            )
        # A passive value is checked on, and marking it once more is no failure.
        hit = fails & ((flags == QCFlag.PASS) if isinstance(check, Passive) else alive)
        flags = jnp.where(hit, jnp.asarray(check.flag, jnp.int32), flags)
    return stream.replace(mask=flags == QCFlag.PASS), flags, departure


def _warn(streams: tuple[Any, ...], screening: Screening) -> None:
    known = [concrete(flags) for flags in screening.flags]
    masks = [concrete(stream.mask) for stream in streams]
    if any(k is None for k in (*known, *masks)) or not any(m.any() for m in masks if m is not None):
        return
    if not any((flags <= QCFlag.PASSIVE).any() for flags in known if flags is not None):
        warnings.warn(
            "quality_control: all observations are rejected, the analysis will be the background. See `describe()` for "
            "the reasons; if the background check has rejected all, look at the background and its spread first",
            AssimilationWarning,
            stacklevel=3,
        )
