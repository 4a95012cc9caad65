"""Intervals that hold their coverage while the law of the errors drifts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, ShapeError, concrete, require_positive
from diffassim.core.pytree import Pytree

__all__ = ["AdaptiveConformal", "ConformalState"]


class ConformalState(Pytree):
    """What an adaptive interval knows.

    Args:
        factor: half width of the next interval, in units of the given spread.
        scale: running mean of the departures in these units, which makes the rate one of relative changes.
    """

    factor: Any
    scale: Any


class AdaptiveConformal(Pytree):
    r"""Intervals \(c_t \pm q_t s_t\) whose half width follows a quantile of the departures, whatever their law.

    .. math:: q_{t+1} = q_t + \eta\, b_t\, (1[\,|y_t - c_t| > q_t s_t\,] - \alpha)

    with a running scale b of the departures. After a miss the interval widens, after a hit it narrows a little, so that
    in the long run a share alpha is missed: whatever happens, T steps with a constant b and departures below Q miss a
    share that differs from alpha by at most (Q / b + 2 eta) / (eta T). No exchangeability is needed, hence
    innovations of a filter whose model or observations drift will do. The spread s may be an ensemble's, or one.

    Args:
        level: 1 - alpha.
        rate: eta.
        memory: weight of the past in the scale b; 1 keeps the first.

    Raises:
        ConfigurationError: if the level, the rate or the memory lies outside of its range.

    Example:
        >>> interval = AdaptiveConformal(level=0.9)
        >>> state = interval.update(interval.init(1.6, 1.0), jnp.array(3.0), jnp.array(0.0), jnp.array(1.0))
        >>> bool(state.factor > 1.6)  # it was missed
        True

    Source: Gibbs and Candes (2021); in this form Angelopoulos, Candes and Tibshirani (2023), section 2.1.
    """

    level: Any = 0.9
    rate: Any = 0.1
    memory: Any = 0.99

    def __post_init__(self) -> None:
        for name, value, low, high in (("level", self.level, 0, 1), ("rate", self.rate, 0, 10)):
            if (known := concrete(value)) is not None and not np.all((low < known) & (known < high)):
                raise ConfigurationError(f"AdaptiveConformal: {name}={value} must lie between {low} and {high}")
        if (known := concrete(self.memory)) is not None and not np.all((known >= 0) & (known <= 1)):
            raise ConfigurationError(f"AdaptiveConformal: memory={self.memory} must lie between 0 and 1")

    def init(self, factor: Any, scale: Any = 1.0) -> ConformalState:
        """Return the first state: a half width in units of the spread, and the size of departures in them.

        Raises:
            ConfigurationError: if the factor is negative, or the scale not positive.
        """
        require_positive("AdaptiveConformal.init: scale", scale)
        if (known := concrete(factor)) is not None and not np.all(np.isfinite(known) & (known >= 0)):
            raise ConfigurationError(f"AdaptiveConformal.init: factor must be finite and not negative, found {factor}")
        first = [
            jnp.asarray(real_array(f"AdaptiveConformal.init: {n}", v))
            for n, v in (("factor", factor), ("scale", scale))
        ]
        shape = jnp.broadcast_shapes(*(each.shape for each in first))
        return ConformalState(*(jnp.broadcast_to(each, shape).astype(jnp.result_type(float)) for each in first))

    def interval(self, state: ConformalState, center: Any, spread: Any) -> tuple[Any, Any]:
        """Return lower and upper end of the next interval."""
        half = jnp.maximum(state.factor, 0) * spread
        return center - half, center + half

    def update(self, state: ConformalState, value: Any, center: Any, spread: Any) -> ConformalState:
        """Return the state after a value was seen.

        What is missing (NaN) changes nothing, nor does a center that is not finite or a spread that is not positive:
        nothing was said then that a value could agree with.
        """
        told = jnp.isfinite(center) & jnp.isfinite(spread) & (spread > 0)
        seen = jnp.isfinite(value) & told
        departure = jnp.abs(jnp.where(seen, value, 0) - jnp.where(seen, center, 0))
        size = departure / jnp.where(seen, spread, 1)
        missed = (size > state.factor).astype(state.factor.dtype)
        scale = self.memory * state.scale + (1 - self.memory) * size
        factor = state.factor + self.rate * state.scale * (missed - (1 - self.level))
        return jax.tree.map(lambda new, old: jnp.where(seen, new, old), ConformalState(factor, scale), state)

    def run(self, state: ConformalState, values: Any, centers: Any, spreads: Any) -> tuple[ConformalState, Any]:
        """Follow a record; return the last state, and whether each value lay in the interval issued before it.

        Args:
            state: see `init`.
            values: what came, shape (time, ...); NaN is missing. Components share the state if it is a scalar and
                are then followed one after the other.
            centers: forecasts, likewise.
            spreads: their spreads, likewise.

        Returns:
            State, and 1 for a hit, 0 for a miss, NaN where nothing was seen or said, shaped like the values.

        Raises:
            ShapeError: if centers or spreads do not broadcast to the values, or the state to one of them.
        """
        values, centers, spreads = (
            jnp.asarray(real_array(f"AdaptiveConformal.run: {name}", each))
            for name, each in (("values", values), ("centers", centers), ("spreads", spreads))
        )
        for name, shape, over in (
            ("centers", centers.shape, values.shape),
            ("spreads", spreads.shape, values.shape),
            ("the state", jnp.shape(state.factor), values.shape[1:]),
        ):
            if len(shape) > len(over) or any(a not in (1, b) for a, b in zip(shape[::-1], over[::-1], strict=False)):
                raise ShapeError(f"AdaptiveConformal.run: {name} of shape {shape} do not fit values of shape {over}")

        def step(state: ConformalState, item: Any) -> tuple[ConformalState, Any]:
            value, center, spread = item
            low, high = self.interval(state, center, spread)
            told = jnp.isfinite(value) & jnp.isfinite(high - low) & (spread > 0)
            hit = jnp.where(told, ((value >= low) & (value <= high)).astype(low.dtype), jnp.nan)
            return self.update(state, value, center, spread), hit

        flat = [jnp.broadcast_to(each, values.shape) for each in (centers, spreads)]
        dtype = jnp.result_type(state.factor, values)
        state = jax.tree.map(lambda leaf: leaf.astype(dtype), state)
        if jnp.ndim(state.factor) == 0:
            series = [each.reshape(-1) for each in (values, *flat)]
            state, hits = lax.scan(step, state, tuple(series))
            return state, hits.reshape(values.shape)
        state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, values.shape[1:]), state)
        return lax.scan(step, state, (values, *flat))
