"""What all costs over a window of model steps share: checks, observed rows, counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import count_of, real_state, start_step
from diffassim.core.errors import DataError, ShapeError, concrete, require_finite
from diffassim.covariances.base import require_covariance
from diffassim.models.base import require_forcing
from diffassim.models.rollout import rollout
from diffassim.observations.container import as_streams, observed_rows, rows_by_stream
from diffassim.observations.operators import check_operator
from diffassim.variational.costs.base import Cost, Window
from diffassim.variational.costs.parameters import (
    check_parameters,
    control_like,
    operator_control,
    with_operator_parameters,
    with_parameters,
)

__all__ = ["WindowCost", "innovations"]


class WindowCost(Cost):
    """Base of the costs whose residuals are (v, whitened innovations along a rollout); the fields are the subclass's.

    A subclass is a `Pytree` with the fields below. What it adds to the control vector it names in `control`, and how
    it moves the model in `forcing`.
    """

    model: Any
    background: Any
    B: Any
    observations: Any
    parameters: Mapping[str, Any] | None
    start: Any
    horizon: Any
    steps: int | None
    segment: int | None
    memory: int | None

    has_model_error: ClassVar[bool] = False  # whether errors of the model are sought as well

    def __post_init__(self) -> None:
        name = type(self).__name__
        streams = as_streams(self.observations)
        last = [concrete(stream.last_rows) for stream in streams]
        steps = None if self.steps is None else count_of(f"{name}: steps", self.steps)
        start = start_step(name, self.start)
        if steps is None:
            if any(known is None for known in last):
                raise ShapeError(f"{name}: give `steps`; the observation steps are traced here")
            steps = max([int(known.max()) for known in last if known is not None and known.size], default=0)
        for known in last:
            if known is not None and known.size and known.max() > steps:
                raise ShapeError(
                    f"{name}: an observation at step {known.max()} lies outside the window of {steps} steps (one "
                    "between two steps needs both)"
                )
        sought = self.parameters or any(stream.parameters for stream in streams)
        if self.B is None and not sought and not self.has_model_error:
            raise ShapeError(f"{name}: nothing to control; give B, or `parameters`, or both")
        require_forcing(name, self.model, start, steps)
        background = real_state(f"{name}: the background", self.background)
        require_finite(f"{name}: the background", background, "Fill or estimate missing state first.")
        if self.parameters:
            check_parameters("parameters", self.model, self.parameters)
        for stream in streams:
            check_operator(stream.operator, name, background, stream.where)
            if stream.parameters:
                check_parameters("parameters", stream.operator, stream.parameters)
        if self.B is not None:
            require_covariance(f"{name}.B", self.B, background)
            _require_fixed(name, self.B, background)
        self._set(background=background, steps=steps, start=start, observations=streams)  # type: ignore[attr-defined]

    def control(self) -> dict[str, Any]:
        """Return the zero control vector: a dict with 'state', 'parameters' and 'operators', where they are sought."""
        control: dict[str, Any] = {}
        if self.B is not None:
            control["state"] = self.B.control_like(self.background)
        if self.parameters:
            control["parameters"] = control_like(self.model, self.parameters, self.background)
        operators = operator_control(self.observations, self.background)
        if operators is not None:
            control["operators"] = operators
        return control

    def state(self, v: Mapping[str, Any], at: Any = None) -> Any:
        """Return the state at the window start, x_b + B^(1/2) v, or at step `at` of the window (run-time integer).

        Raises:
            ShapeError: if the step lies outside the window.
        """
        if at is not None:
            assert self.steps is not None
            known = concrete(at)
            if known is not None and not (known.ndim == 0 and 0 <= known <= self.steps):
                raise ShapeError(f"{type(self).__name__}: at = {at} is no step of the window of {self.steps} steps")
            rows = self._rollout(v, self.steps, at=jnp.asarray(at, jnp.int32)[None])
            return jax.tree.map(lambda leaf: leaf[0], rows)
        return tree.moved(self.background, self.B.sqrt(v["state"])) if self.B is not None else self.background

    def streams(self) -> tuple[Any, ...]:
        """Return the observations, a tuple of streams."""
        return self.observations

    def with_streams(self, streams: tuple[Any, ...]) -> Self:
        """Return the cost with other observations."""
        return self.replace(observations=streams)  # type: ignore[attr-defined]

    def window(self) -> Window:
        """Return the run along which the cost compares."""
        assert self.steps is not None
        return Window(
            self.model, self.background, self.steps, self.start, self.horizon, self.segment, self.memory
        )  # fmt: skip

    def with_window(self, **changes: Any) -> Self:
        """Return the cost with other fields of its `window`."""
        return self.replace(**changes)  # type: ignore[attr-defined]

    def covariances(self) -> dict[str, Any]:
        """Return B as that of 'state', and those of 'parameters' where they are sought."""
        found = {"state": self.B, "parameters": self.parameters}
        return {name: covariance for name, covariance in found.items() if covariance}

    def controlled_model(self, v: Mapping[str, Any]) -> Any:
        """Return the model with the parameters that belong to v."""
        return with_parameters(self.model, self.parameters, v["parameters"]) if self.parameters else self.model

    def controlled_observations(self, v: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the streams with the operators' parameters that belong to v."""
        return with_operator_parameters(self.observations, v.get("operators"))

    def forcing(self, v: Mapping[str, Any], steps: int) -> Any:
        """Return what is added to the state after each of the first `steps` steps, or None."""
        return None

    def trajectory(self, v: Mapping[str, Any], steps: int | None = None, at: Any = None) -> Any:
        """Return all states from the window start on, `steps + 1` rows (default: to the window's end), or rows `at`."""
        steps = self.steps if steps is None else steps
        assert steps is not None
        return self._rollout(v, steps) if at is None else self._rollout(v, steps, at=at)

    def residuals(self, v: Mapping[str, Any]) -> Any:
        """Return (v, whitened innovations): the pytree whose squared norm is 2 J."""
        assert self.steps is not None
        return v, innovations(self.controlled_observations(v), self._observed(v), self.window().last)

    def predicted(self, v: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the observation equivalents H(x), one pytree for each stream, like its values."""
        streams = self.controlled_observations(v)
        return tuple(
            s.predict(rows) for s, rows in zip(streams, rows_by_stream(streams, self._observed(v)), strict=True)
        )

    def observation_count(self) -> Any:
        """Return how many observed values count within the horizon: the expectation of 2 J at the minimum."""
        total = jnp.asarray(0)
        for stream in self.observations:
            inside = stream.last_rows <= self.window().last
            for mask in jax.tree.leaves(stream.mask):
                total = total + jnp.sum(mask & inside.reshape((-1,) + (1,) * (mask.ndim - 1)))
        return total

    def _observed(self, v: Mapping[str, Any]) -> Any:
        """Return the states that the observations are compared with."""
        assert self.steps is not None
        return self._rollout(v, self.steps, at=observed_rows(self.observations), limit=self.horizon)

    def _rollout(self, v: Mapping[str, Any], steps: int, **options: Any) -> Any:
        return rollout(
            self.controlled_model(v), self.state(v), steps,
            start=self.start, segment=self.segment, memory=self.memory, forcing=self.forcing(v, steps), **options,
        )  # fmt: skip


def _require_fixed(name: str, B: Any, background: Any) -> None:
    """Raise `DataError` if B would move what is no floating-point number, or the state holds a random key."""
    leaves = jax.tree.leaves(background)
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves):
        raise DataError(
            f"{name}: a random key cannot be part of a state that is analysed; let the model fold its step number "
            "into a key of its own: jax.random.fold_in(key, t)"
        )
    if all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        return
    moved = [v.dtype for v in jax.tree.leaves(jax.eval_shape(B.control_like, background))]
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in moved):
        raise DataError(
            f"{name}: B would change components that are counters or masks, of type "
            f"{[str(leaf.dtype) for leaf in leaves]}; hold these fixed, B=Blocks({{..., name: Zero()}})"
        )


def innovations(streams: tuple[Any, ...], states: Any, last: Any = None) -> tuple[Any, ...]:
    """Return the whitened innovations of each stream.

    Args:
        streams: tuple of `Observations`.
        states: states at the `observed_rows` of the streams, along the leading axis.
        last: last row that counts, a run-time integer; None: all count.

    Returns:
        One pytree for each stream, zero where nothing is observed.
    """
    found = []
    for stream, rows in zip(streams, rows_by_stream(streams, states), strict=True):
        inside = None if last is None else (stream.steps >= 0) & (stream.last_rows <= last)
        found.append(stream.innovation(rows, inside))
    return tuple(found)
