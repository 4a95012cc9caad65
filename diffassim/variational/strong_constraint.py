"""Strong-constraint 4D-Var: the model is perfect, its initial state (and parameters) are sought."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffassim.core import tree
from diffassim.core.errors import ShapeError, concrete, require_finite
from diffassim.core.pytree import Pytree, static
from diffassim.models.rollout import rollout
from diffassim.variational.parameters import control_like, with_parameters

__all__ = ["StrongConstraint4DVar"]


class StrongConstraint4DVar(Pytree):
    r"""Cost of strong-constraint 4D-Var in the whitened control vector v.

    .. math::
        J(v) = \tfrac12 |v|^2 + \tfrac12 \sum_i |R_i^{-1/2}(y_i - H_i(M_{0 \to k_i}(x_b + B^{1/2} v_x; p(v_p))))|^2

    v = 0 is the background. J is minus the log posterior density up to a constant. With `parameters`, the control
    vector also holds model parameters (or network weights), each with its own background-error covariance around the
    value the model carries; with B None only those are sought.

    Args:
        model: forward model, `step(x, t) -> x`.
        background: background state x_b at the window start, a pytree of arrays.
        B: background-error covariance of the state, or None to keep the state at its background.
        observations: `Observations`, or a tuple of them (several streams).
        parameters: background-error covariance by name of a model attribute.
        start: number of the window's first step, passed to the model as t (run-time integer).
        steps: window length in model steps (static); default: the last observed step.
        horizon: run-time number of steps; later observations do not count. Default: the whole window.
        segment: steps between the checkpoints of the adjoint (static), see `rollout`.

    Raises:
        ShapeError: if an observation lies outside the window, or B does not fit the background.
        DataError: if the background is not finite.

    Example:
        >>> import diffassim as da
        >>> model, x_b = da.models.Lorenz96(), jnp.full(40, 8.0).at[0].set(8.1)
        >>> obs = da.Observations(jnp.zeros((2, 40)), [1, 2], error=da.covariances.Diagonal(std=1.0))
        >>> cost = da.StrongConstraint4DVar(model, x_b, da.covariances.Diagonal(std=1.0), obs)
        >>> cost.steps, cost.state(cost.control()).shape
        (2, (40,))

    Source: Le Dimet and Talagrand (1986); control transform of Lorenc (1988), notation of Ide et al. (1997).
    """

    model: Any
    background: Any
    B: Any
    observations: Any
    parameters: Mapping[str, Any] | None = None
    start: Any = 0
    horizon: Any = None
    steps: int | None = static(default=None)
    segment: int | None = static(default=None)

    def __post_init__(self) -> None:
        streams = self.observations if isinstance(self.observations, tuple) else (self.observations,)
        last = [concrete(stream.steps) for stream in streams]
        steps = self.steps
        if steps is None:
            if any(known is None for known in last):
                raise ShapeError("StrongConstraint4DVar: give `steps`; the observation steps are traced here")
            steps = max([int(known.max()) for known in last if known is not None and known.size], default=0)
        for known in last:
            if known is not None and known.size and known.max() > steps:
                raise ShapeError(
                    f"StrongConstraint4DVar: an observation at step {known.max()} lies outside the window of {steps} "
                    "steps"
                )
        if self.B is None and not self.parameters:
            raise ShapeError("StrongConstraint4DVar: nothing to control; give B, or `parameters`, or both")
        require_finite(
            "StrongConstraint4DVar: the background", self.background, "Fill or estimate missing state first."
        )
        background = jax.tree.map(jnp.asarray, self.background)
        if self.B is not None and hasattr(self.B, "check"):
            self.B.check("StrongConstraint4DVar.B", background)
        self._set(background=background, steps=steps, observations=streams)

    def control(self) -> dict[str, Any]:
        """Return the zero control vector: a dict with 'state' and, where parameters are sought, 'parameters'."""
        control = {}
        if self.B is not None:
            control["state"] = self.B.control_like(self.background)
        if self.parameters:
            control["parameters"] = control_like(self.model, self.parameters)
        return control

    def state(self, v: Mapping[str, Any]) -> Any:
        """Return the state at the window start, x_b + B^(1/2) v."""
        return tree.add(self.background, self.B.sqrt(v["state"])) if self.B is not None else self.background

    def controlled_model(self, v: Mapping[str, Any]) -> Any:
        """Return the model with the parameters that belong to v."""
        return with_parameters(self.model, self.parameters, v["parameters"]) if self.parameters else self.model

    def trajectory(self, v: Mapping[str, Any], steps: int | None = None) -> Any:
        """Return all states from the window start on, `steps + 1` rows (default: to the window's end)."""
        steps = self.steps if steps is None else steps
        assert steps is not None
        return rollout(self.controlled_model(v), self.state(v), steps, start=self.start, segment=self.segment)

    def residuals(self, v: Mapping[str, Any]) -> Any:
        """Return (v, whitened innovations): the pytree whose squared norm is 2 J."""
        assert self.steps is not None
        counts = [stream.steps.shape[0] for stream in self.observations]
        at = jnp.concatenate([stream.steps for stream in self.observations])
        states = rollout(
            self.controlled_model(v),
            self.state(v),
            self.steps,
            start=self.start,
            at=at,
            limit=self.horizon,
            segment=self.segment,
        )
        edges = np.cumsum([0, *counts])
        innovations = []
        for stream, a, b in zip(self.observations, edges[:-1], edges[1:], strict=True):
            rows = jax.tree.map(lambda leaf, a=a, b=b: leaf[a:b], states)
            inside = (stream.steps >= 0) & (stream.steps <= (self.steps if self.horizon is None else self.horizon))
            innovations.append(stream.innovation(rows, inside))
        return v, tuple(innovations)

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
