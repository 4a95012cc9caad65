"""The checks of quality control, each one concept."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from diffassim.core.errors import ConfigurationError, ShapeError, concrete, require_positive
from diffassim.core.linalg import safe_sqrt
from diffassim.core.pytree import Pytree, static
from diffassim.observations.flags import QCFlag

__all__ = [
    "BackgroundCheck",
    "Bounds",
    "Check",
    "Domain",
    "Exclude",
    "GrossErrors",
    "HFailed",
    "Passive",
    "Subject",
    "like",
    "places_of",
]


class Subject(NamedTuple):
    """What a check sees of one stream: the observations, y - H(x_b), whether H(x_b) is finite, who is not rejected."""

    stream: Any
    departure: Any
    finite: Any
    alive: Bool[Array, "time ..."]


class Check(Pytree):
    """Base of the checks: a subclass has a `flag`, says whether it needs predictions, and which values fail.

    A check of your own is a few lines:

    Example:
        >>> class Even(Check):
        ...     flag = QCFlag.PRE_QC
        ...     def fails(self, subject):
        ...         return subject.stream.values % 2 == 0
        >>> import diffassim as da
        >>> y = da.Observations(jnp.array([[1.0, 2.0]]), [0], error=da.covariances.Diagonal(std=1.0))
        >>> da.observations.quality_control(y, [Even()]).flags[0].tolist()
        [[0, 11]]
    """

    flag: ClassVar[QCFlag] = QCFlag.PRE_QC
    needs_prediction: ClassVar[bool] = False

    def fails(self, subject: Subject) -> Bool[Array, "time ..."]:
        """Return which values fail, shaped like the values."""
        raise NotImplementedError(f"{type(self).__name__} does not define fails(subject)")


class Bounds(Check):
    """Flag 12: the observed value lies outside of [lower, upper].

    Args:
        lower: least plausible value, a number or an array that broadcasts to the values.
        upper: greatest plausible value.

    Raises:
        ConfigurationError: if the bounds leave no room.
    """

    lower: Any = -jnp.inf
    upper: Any = jnp.inf
    flag: ClassVar[QCFlag] = QCFlag.BOUNDS

    def __post_init__(self) -> None:
        _require_room("Bounds", self.lower, self.upper)

    def fails(self, subject: Subject) -> Bool[Array, "time ..."]:
        """Return which values are out of bounds."""
        values = subject.stream.values
        return ~((values >= like(self.lower, values)) & (values <= like(self.upper, values)))


class Domain(Check):
    """Flag 13: the place lies outside of the box [lower, upper].

    Args:
        lower: least coordinates, shape (D,).
        upper: greatest coordinates, shape (D,). Places are the last axis of `where`, one for each value or each row.
        places: takes the places from `where` if that holds more, for example `lambda w: w["place"]` (static).

    Raises:
        ConfigurationError: if the box is empty.
    """

    lower: Any
    upper: Any
    places: Any = static(default=None)
    flag: ClassVar[QCFlag] = QCFlag.DOMAIN

    def __post_init__(self) -> None:
        _require_room("Domain", self.lower, self.upper)

    def fails(self, subject: Subject) -> Bool[Array, "time ..."]:
        """Return which values are measured outside."""
        where = places_of("Domain", subject.stream, self.places)
        inside = jnp.all((where >= like(self.lower, where)) & (where <= like(self.upper, where)), axis=-1)
        return _to_values(~inside, subject.stream.values)


class Exclude(Check):
    """Flag 14: on a list of what is not to be used.

    Args:
        listed: booleans that broadcast to the values, for example `np.isin(station, black_list)`.
    """

    listed: Any
    flag: ClassVar[QCFlag] = QCFlag.EXCLUDED

    def fails(self, subject: Subject) -> Bool[Array, "time ..."]:
        """Return what is listed."""
        return _booleans(type(self).__name__, self.listed, subject.stream.values)


class Passive(Check):
    """Flag 1: monitored only. The values are checked and have departures, but are not assimilated.

    Args:
        monitored: booleans that broadcast to the values; default: all.
    """

    monitored: Any = True
    flag: ClassVar[QCFlag] = QCFlag.PASSIVE

    def fails(self, subject: Subject) -> Bool[Array, "time ..."]:
        """Return what is monitored only."""
        return _booleans(type(self).__name__, self.monitored, subject.stream.values)


class HFailed(Check):
    """Flag 15: the observation equivalent of the background is not finite."""

    flag: ClassVar[QCFlag] = QCFlag.H_FAILED
    needs_prediction: ClassVar[bool] = True

    def fails(self, subject: Subject) -> Bool[Array, "time ..."]:
        """Return where H(x_b) is not finite."""
        return ~subject.finite


class BackgroundCheck(Check):
    r"""Flag 19: the departure from the background is larger than the errors explain.

    .. math:: |y - H(x_b)| > \tau \sqrt{(H B H^\top)_{ii} + R_{ii}}

    Args:
        threshold: \(\tau\), a number or an array that broadcasts to the values.
        background_std: square root of the diagonal of \(H B H^\top\), a number or an array that broadcasts to the
            values; `variational.background_spread` computes it from B, or from an ensemble. Default: zero.

    Raises:
        ConfigurationError: if the threshold is not positive, or a standard deviation is negative.

    Source: Lorenc and Hammon (1988); Andersson and Jaervinen (1999), section 2.
    """

    threshold: Any = 3.0
    background_std: Any = 0.0
    flag: ClassVar[QCFlag] = QCFlag.FIRST_GUESS
    needs_prediction: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_positive("BackgroundCheck.threshold", self.threshold, "It counts standard deviations.")
        known = concrete(self.background_std)
        if known is not None and not (known >= 0).all():
            raise ConfigurationError("BackgroundCheck.background_std must not be negative or NaN")

    def fails(self, subject: Subject) -> Bool[Array, "time ..."]:
        """Return which values are too far from the background."""
        departure = subject.departure
        variance = like(self.background_std, departure) ** 2 + subject.stream.error.variance(departure)
        return jnp.abs(departure) > like(self.threshold, departure) * safe_sqrt(variance)


class GrossErrors(Check):
    """Flag 26: by a robust loss, the value is a gross error with more than a given probability.

    With departures from an analysis (`cost.predicted(solution.control)`) it reads off what variational quality control
    has decided.

    Args:
        loss: `VariationalQC`, or another loss with a `weight`.
        weight: least weight of a value that passes, between 0 and 1.

    Raises:
        ConfigurationError: if the weight is not between 0 and 1.

    Source: Ingleby and Lorenc (1993).
    """

    loss: Any
    weight: Any = 0.5
    flag: ClassVar[QCFlag] = QCFlag.BAYESIAN
    needs_prediction: ClassVar[bool] = True

    def __post_init__(self) -> None:
        known = concrete(self.weight)
        if known is not None and not ((known > 0) & (known < 1)).all():
            raise ConfigurationError(f"GrossErrors.weight must lie between 0 and 1, found {self.weight}")

    def fails(self, subject: Subject) -> Bool[Array, "time ..."]:
        """Return which values have lost their weight."""
        departure = subject.departure
        r = departure / safe_sqrt(subject.stream.error.variance(departure))
        return self.loss.weight(r) < like(self.weight, departure)


def like(value: Any, leaf: Any) -> Any:
    """Return a number or array in the dtype of a leaf, with axes of length one in front up to its rank."""
    value = jnp.asarray(value).astype(leaf.dtype)
    return value.reshape((1,) * (leaf.ndim - value.ndim) + value.shape)


def _to_values(found: Any, values: Any) -> Any:
    found = found.reshape(found.shape + (1,) * (values.ndim - found.ndim))
    return jnp.broadcast_to(found, values.shape)


def _booleans(name: str, given: Any, values: Any) -> Any:
    given = jnp.asarray(given)
    if given.dtype != bool:
        raise ConfigurationError(f"{name}: needs booleans, found {given.dtype}")
    try:
        return jnp.broadcast_to(given, values.shape)
    except ValueError as error:
        raise ShapeError(
            f"{name}: booleans of shape {given.shape} do not fit values of shape {values.shape}"
        ) from error


def places_of(name: str, stream: Any, places: Any) -> Any:
    """Return the places of a stream, taken from `where` by a function where that holds more."""
    where = stream.where if places is None else places(stream.where)
    if where is None or not hasattr(where, "ndim"):
        raise ConfigurationError(
            f"{name}: needs one array of places; Observations.where holds {type(where).__name__}, give `places`"
        )
    return where


def _require_room(name: str, lower: Any, upper: Any) -> None:
    low, high = concrete(lower), concrete(upper)
    if low is not None and high is not None and not (low <= high).all():
        raise ConfigurationError(f"{name}: lower {lower} must not exceed upper {upper}")
