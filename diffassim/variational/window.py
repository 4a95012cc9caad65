"""What all costs over a window of model steps share: checks, observed rows, counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ShapeError, concrete, require_finite
from diffassim.models.rollout import rollout
from diffassim.observations.container import as_streams
from diffassim.variational.parameters import control_like, with_parameters

__all__ = ["WindowCost", "innovations"]


class WindowCost:
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

    def __post_init__(self) -> None:
        name = type(self).__name__
        streams = as_streams(self.observations)
        last = [concrete(stream.steps) for stream in streams]
        steps = self.steps
        if steps is None:
            if any(known is None for known in last):
                raise ShapeError(f"{name}: give `steps`; the observation steps are traced here")
            steps = max([int(known.max()) for known in last if known is not None and known.size], default=0)
        for known in last:
            if known is not None and known.size and known.max() > steps:
                raise ShapeError(
                    f"{name}: an observation at step {known.max()} lies outside the window of {steps} steps"
                )
        if self.B is None and not self.parameters and not hasattr(self, "Q"):
            raise ShapeError(f"{name}: nothing to control; give B, or `parameters`, or both")
        require_finite(f"{name}: the background", self.background, "Fill or estimate missing state first.")
        background = jax.tree.map(jnp.asarray, self.background)
        if self.B is not None and hasattr(self.B, "check"):
            self.B.check(f"{name}.B", background)
        self._set(background=background, steps=steps, observations=streams)  # type: ignore[attr-defined]

    def control(self) -> dict[str, Any]:
        """Return the zero control vector: a dict with 'state' and, where parameters are sought, 'parameters'."""
        control = {}
        if self.B is not None:
            control["state"] = self.B.control_like(self.background)
        if self.parameters:
            control["parameters"] = control_like(self.model, self.parameters)
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
        return tree.add(self.background, self.B.sqrt(v["state"])) if self.B is not None else self.background

    def controlled_model(self, v: Mapping[str, Any]) -> Any:
        """Return the model with the parameters that belong to v."""
        return with_parameters(self.model, self.parameters, v["parameters"]) if self.parameters else self.model

    def forcing(self, v: Mapping[str, Any], steps: int) -> Any:
        """Return what is added to the state after each of the first `steps` steps, or None."""
        return None

    def trajectory(self, v: Mapping[str, Any], steps: int | None = None) -> Any:
        """Return all states from the window start on, `steps + 1` rows (default: to the window's end)."""
        steps = self.steps if steps is None else steps
        assert steps is not None
        return self._rollout(v, steps)

    def residuals(self, v: Mapping[str, Any]) -> Any:
        """Return (v, whitened innovations): the pytree whose squared norm is 2 J."""
        assert self.steps is not None
        at = jnp.concatenate([stream.steps for stream in self.observations])
        states = self._rollout(v, self.steps, at=at, limit=self.horizon)
        return v, innovations(self.observations, states, self.steps if self.horizon is None else self.horizon)

    def observation_count(self) -> Any:
        """Return how many observed values count within the horizon: the expectation of 2 J at the minimum."""
        total = jnp.asarray(0)
        for stream in self.observations:
            inside = stream.steps <= (self.steps if self.horizon is None else self.horizon)
            for mask in jax.tree.leaves(stream.mask):
                total = total + jnp.sum(mask & inside.reshape((-1,) + (1,) * (mask.ndim - 1)))
        return total

    def __call__(self, v: Mapping[str, Any]) -> Float[Array, ""]:
        """Return J(v)."""
        return 0.5 * tree.squared_norm(self.residuals(v))

    def _rollout(self, v: Mapping[str, Any], steps: int, **options: Any) -> Any:
        return rollout(
            self.controlled_model(v), self.state(v), steps,
            start=self.start, segment=self.segment, memory=self.memory, forcing=self.forcing(v, steps), **options,
        )  # fmt: skip


def innovations(streams: tuple[Any, ...], states: Any, last: Any = None) -> tuple[Any, ...]:
    """Return the whitened innovations of each stream.

    Args:
        streams: tuple of `Observations`.
        states: states at the steps of all streams, concatenated along the leading axis.
        last: last step that counts, a run-time integer; None: all count.

    Returns:
        One pytree for each stream, zero where nothing is observed.
    """
    edges = np.cumsum([0, *(stream.steps.shape[0] for stream in streams)])
    found = []
    for stream, a, b in zip(streams, edges[:-1], edges[1:], strict=True):
        rows = jax.tree.map(lambda leaf, a=a, b=b: leaf[a:b], states)
        inside = None if last is None else (stream.steps >= 0) & (stream.steps <= last)
        found.append(stream.innovation(rows, inside))
    return tuple(found)
