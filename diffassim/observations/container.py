"""Observations: values, mask, times, places, operator and error, all of them run-time arrays."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete
from diffassim.core.pytree import Pytree
from diffassim.observations.normalize import (
    broadcast_mask,
    check_error,
    checked_fraction,
    checked_steps,
    checked_where,
    filled,
    observed,
    values_of,
    without_bad_places,
)
from diffassim.observations.operators import Identity, as_operator
from diffassim.observations.times import between, last_rows, steps_and_fractions

__all__ = ["Observations", "as_streams", "observed_rows", "on_steps", "rows_by_stream"]


class Observations(Pytree):
    r"""Observations \(y_i = H(x_{k_i}, w_i) + \varepsilon_i\), \(\varepsilon_i \sim N(0, R)\), of one stream.

    Every number is a run-time array: new values, times, places or masks of the same shape never compile anew. NaN
    means missing; missing entries are stored as zeros with `mask` False and have exactly no influence. Several kinds
    of observations are a tuple of `Observations`.

    Between two steps, \(k_i + f_i\) with a `fraction` \(0 \le f_i < 1\), the state is interpolated in time,

    .. math:: y_i = H((1 - f_i)\, x_{k_i} + f_i\, x_{k_i + 1}, w_i) + \varepsilon_i,

    or, where every value of a row has a fraction of its own, its equivalent: \((1 - f) H(x_k, w) + f H(x_{k+1}, w)\),
    which is the same for linear H and needs two states for a row, however many values it has. An observation counts in
    a window, or within a horizon, if the later row lies in it. At f = 0 that row is not used, and the derivative by
    the fraction is zero. `from_times` computes steps and fractions.

    Args:
        values: observed values with a leading time axis, shape (time, ...), or a pytree of such arrays.
        steps: model steps after the window start at which they are valid (0 is the window start itself), integers of
            shape (time,), in any order; repeated steps are allowed. With shape (window, time), as `split_windows`
            makes them, every array (R's as well) has a leading axis of windows, over which `cycle` or `vmap` runs.
        operator: observation operator H(x, where); a plain function will do. Default: the whole state.
        error: observation-error covariance R, from `diffassim.covariances`: of one time, or with a row for each time.
            An error may be NaN where the value is missing.
        mask: True where observed, shaped like the values or broadcastable to them; None: wherever the value is finite.
        where: places (or other run-time arguments of H) with a leading time axis; None for operators without. A place
            that is not finite is missing as well: its value where it has the values' axes, otherwise the whole row.
        loss: robust loss of the whitened departures, `Huber` or `VariationalQC`; None: Gaussian errors. It acts on
            each whitened component, so R should be uncorrelated.
        fraction: part of a step after `steps`, in [0, 1): shaped like `steps`, or like the values if they are one
            array. None: all are valid on steps.
        parameters: background-error covariance of parts of the operator by path, for example the coefficients of
            `Biased`: variational costs estimate them with the state, other methods leave them as they are.

    Raises:
        ShapeError: if leading axes do not agree.
        ConfigurationError: if the error is no covariance, or a singular one.
        NotAvailableError: if the error covariance cannot leave out what is missing.
        DataError: if a value is infinite, the error of an observed value is NaN, a step is negative or not an integer,
            or a fraction is outside of [0, 1).

    Example:
        >>> import diffassim as da
        >>> obs = da.Observations(np.array([[1.0, np.nan]]), steps=[0], error=da.covariances.Diagonal(std=1.0))
        >>> obs.mask.tolist(), int(obs.count())
        ([[True, False]], 1)
    """

    values: Any
    steps: Int[Array, " time"]
    operator: Any = Identity()
    error: Any = None
    mask: Any = None
    where: Any = None
    loss: Any = None
    fraction: Any = None
    parameters: Any = None

    def __post_init__(self) -> None:
        values = values_of(self.values)
        steps = checked_steps(self.steps)
        where = checked_where(self.where)
        for name, given in (("values", values), ("where", where)):
            for leaf in jax.tree.leaves(given):
                if jnp.shape(leaf)[: steps.ndim] != steps.shape:
                    times = f"{steps.shape[0]} times" if steps.ndim == 1 else f"(windows, times) {steps.shape}"
                    raise ShapeError(
                        f"Observations: {name} has shape {jnp.shape(leaf)}, but steps has {times}; the first axis of "
                        "both is time"
                    )
        given = broadcast_mask(self.mask, values)
        mask = jax.tree.map(observed, values, given)
        for leaf in jax.tree.leaves(values):
            array = concrete(leaf)
            if array is not None and np.isinf(array).any():
                raise DataError(
                    f"Observations: values hold {np.isinf(array).sum()} infinite entries; use NaN for missing"
                )
        mask, where = without_bad_places(mask, where, steps)
        values = jax.tree.map(filled, values, mask)
        if self.error is None:
            raise DataError("Observations: `error` is missing; give R, e.g. da.covariances.Diagonal(std=...)")
        check_error(self.error, values, mask, steps)
        fraction = checked_fraction(self.fraction, steps, values)
        self._set(
            values=values, steps=steps, mask=mask, operator=as_operator(self.operator), where=where, fraction=fraction
        )

    @classmethod
    def from_times(
        cls, values: Any, times: Any, dt: Any, origin: Any = None, *, rounding: float = 1e-6, **fields: Any
    ) -> Observations:
        """Build from real times, on or between the model's steps.

        Args:
            values: as above.
            times: time of each row of the values: numbers in the unit of `dt`, or datetime64.
            dt: length of a model step, a number or timedelta64.
            origin: time of step 0, the window start; default 0.
            rounding: part of a step below which a time is on a step.
            **fields: the other fields (`operator`, `error`, ...).

        Returns:
            `Observations`.

        Example:
            >>> import diffassim as da
            >>> one = da.covariances.Diagonal(std=1.0)
            >>> obs = da.Observations.from_times(jnp.zeros((2, 3)), [0.1, 0.25], dt=0.1, error=one)
            >>> obs.steps.tolist(), obs.fraction.round(6).tolist()
            ([1, 2], [0.0, 0.5])
        """
        steps, fraction = steps_and_fractions(times, dt, origin, rounding)
        return cls(values, steps, fraction=fraction, **fields)

    @property
    def last_rows(self) -> Int[Array, " time"]:
        """Last row of a trajectory that each time needs: its step, or the one after it where it lies between two."""
        if self.fraction is None:
            return self.steps
        steps, fraction = concrete(self.steps), concrete(self.fraction)
        if steps is None or fraction is None:
            return last_rows(self.steps, self.fraction)
        with jax.ensure_compile_time_eval():  # inside of jit as well, known rows stay known
            return jnp.asarray(last_rows(steps, fraction))

    @property
    def rows(self) -> Int[Array, " rows"]:
        """Rows of a trajectory that `predict` takes: `steps`, and with fractions `last_rows` after them."""
        return self.steps if self.fraction is None else jnp.concatenate([self.steps, self.last_rows])

    def predict(self, states: Any) -> Any:
        """Return the observation equivalents of states with a leading axis, one state for each entry of `rows`."""
        if self.fraction is None:
            return self._equivalents(states)
        times = self.steps.shape[0]
        first, second = (jax.tree.map(lambda leaf, s=s: leaf[s], states) for s in (slice(times), slice(times, None)))
        if self.fraction.ndim == 1:
            return self._equivalents(between(first, second, self.fraction))
        return between(self._equivalents(first), self._equivalents(second), self.fraction)

    def _equivalents(self, states: Any) -> Any:
        if self.where is None:
            return jax.vmap(lambda x: self.operator(x))(states)
        return jax.vmap(lambda x, w: self.operator(x, w))(states, self.where)

    def innovation(self, states: Any, active: Any = None) -> Any:
        r"""Return the whitened, masked departures \(R^{-1/2}(y - H(x))\), zero where nothing was observed.

        With a robust loss they are transformed so that their squared norm is twice the loss.

        Args:
            states: states at `rows`, with a leading axis.
            active: optional booleans of shape (time,): times that count.

        Returns:
            Pytree like `values`.

        Raises:
            ShapeError: if H returns something shaped unlike the values.
        """
        predicted = self.predict(states)
        self._check_prediction(predicted)
        mask = self.mask
        if active is not None:
            mask = jax.tree.map(lambda m: m & active.reshape((-1,) + (1,) * (m.ndim - 1)), mask)
        # Double where: a prediction that is not finite at a missing place must not reach the gradient.
        departure = jax.tree.map(
            lambda m, y, h: jnp.where(m, y - jnp.where(m, h, y), 0).astype(h.dtype), mask, self.values, predicted
        )
        whitened = self.error.masked(mask).whiten(departure)
        whitened = jax.tree.map(lambda m, r: jnp.where(m, r, 0), mask, whitened)
        return whitened if self.loss is None else jax.tree.map(self.loss, whitened)

    def with_operator(self, operator: Any) -> Observations:
        """Return the same observations with another operator, without checking them again."""
        changed = copy.copy(self)
        changed._set(operator=operator)
        return changed

    def count(self) -> Int[Array, ""]:
        """Return how many values are observed."""
        return sum((jnp.sum(m) for m in jax.tree.leaves(self.mask)), jnp.asarray(0))

    def _check_prediction(self, predicted: Any) -> None:
        if not tree.same_shapes(self.values, predicted):
            raise ShapeError(
                f"Observations: H(x) gives shape {tree.describe_shapes(predicted)} (with the time axis), but the "
                f"values have shape {tree.describe_shapes(self.values)}"
            )


def as_streams(observations: Any) -> tuple[Any, ...]:
    """Return observations as a tuple of streams, whether they are one `Observations` or a tuple (or list) of them.

    Raises:
        ConfigurationError: if an entry is something else.
    """
    streams = tuple(observations) if isinstance(observations, tuple | list) else (observations,)
    for stream in streams:
        if not hasattr(stream, "operator") or not hasattr(stream, "steps"):
            raise ConfigurationError(
                f"observations must be `Observations` or a tuple of them (one for each stream), found "
                f"{type(stream).__name__}"
            )
    return streams


def observed_rows(observations: Any) -> Int[Array, " rows"]:
    """Return the rows of a trajectory that all streams need, one stream after the other.

    Args:
        observations: `Observations`, or a tuple of them.

    Example:
        >>> import diffassim as da
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> on_steps = da.Observations(jnp.zeros((2, 1)), [0, 3], error=one)
        >>> observed_rows((on_steps, on_steps.replace(fraction=[0.0, 0.5]))).tolist()
        [0, 3, 0, 3, 0, 4]
    """
    rows = [stream.rows for stream in as_streams(observations)]
    return jnp.concatenate(rows) if rows else jnp.zeros(0, jnp.int32)


def rows_by_stream(streams: tuple[Any, ...], states: Any) -> list[Any]:
    """Return the part of states at the `observed_rows` of all streams that belongs to each.

    Args:
        streams: tuple of `Observations`.
        states: pytree with a leading axis of rows.
    """
    edges = np.cumsum([0, *(stream.rows.shape[0] for stream in streams)])
    return [jax.tree.map(lambda leaf, a=a, b=b: leaf[a:b], states) for a, b in itertools.pairwise(edges)]


def on_steps(name: str, stream: Observations) -> Observations:
    """Return a stream without fractions, for a method that analyses one step at a time.

    Raises:
        ConfigurationError: if a fraction is not zero (or not known), naming `name`.
    """
    known = concrete(stream.fraction)
    if stream.fraction is None:
        return stream
    if known is None or known.any():
        raise ConfigurationError(
            f"{name}: observations between two steps cannot be analysed on one; take a smaller dt whose steps meet "
            "them, put them on the nearest step (fraction=None) if that error is small against R, or analyse windows "
            "(4D-Var, 4DEnVar), which interpolate"
        )
    return stream.replace(fraction=None)
