"""Weak-constraint 4D-Var in forcing form: the model errs, and its errors are sought with the initial state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.covariances.base import require_covariance
from diffassim.variational.costs.window import WindowCost

__all__ = ["WeakConstraint4DVar"]


class WeakConstraint4DVar(WindowCost, Pytree):
    r"""Cost of weak-constraint 4D-Var in the whitened initial state and the whitened model errors.

    .. math::
        J(v) = \tfrac12 |v_x|^2 + \tfrac12 \sum_j |v_j|^2 + \tfrac12 \sum_i |R_i^{-1/2}(y_i - H_i(x_{k_i}))|^2, \quad
        x_{k+1} = M(x_k) + q_k, \quad q_{bj - 1} = Q^{1/2} v_j

    A model error is added after every b-th step (`every`), so Q is the covariance of the error that b steps make; with
    b = 1 every step errs, with b the interval of the observations this is the model of the Kalman smoother. Errors of
    different blocks are independent; steps after the last whole block have none. v = 0 is the background and a perfect
    model. Q -> 0 is strong-constraint 4D-Var. Whitened in this way, the Hessian is the identity plus what the
    observations say, however small Q is.

    Reverse mode keeps one increment for each step beside the checkpoints.

    Args:
        model: forward model, `step(x, t) -> x`.
        background: background state x_b at the window start, a pytree of arrays.
        B: background-error covariance of the state, or None to keep the initial state at its background.
        Q: model-error covariance of a block of `every` steps; `Zero()` marks exact parts of a state.
        observations: `Observations`, or a tuple of them (several streams).
        parameters: background-error covariance of parts of the model by path ("forcing", "network.weights.last",
            see `core.paths`); `Bounded` ones stay within bounds, as do those whose bounds the model declares.
        start: number of the window's first step, passed to the model as t (run-time integer).
        horizon: run-time number of steps; later observations do not count. Default: the whole window.
        every: model steps b in a block (static).
        steps: window length in model steps (static); default: the last observed step.
        segment: steps between the checkpoints of the adjoint (static), see `rollout`.
        memory: bytes that the trajectory's adjoint may take (static), instead of `segment`; see `rollout`.

    Raises:
        ShapeError: if an observation lies outside the window, or B or Q does not fit the background.
        DataError: if the background is not finite.
        ConfigurationError: if `every` is not positive or longer than the window.

    Example:
        >>> import diffassim as da
        >>> still = da.models.FunctionModel(lambda x, t: x)
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> obs = da.Observations(jnp.array([[3.0]]), [1], error=one)
        >>> cost = da.WeakConstraint4DVar(still, jnp.array([0.0]), one, one, obs)
        >>> cost.trajectory(da.minimize(cost).control)[:, 0].round(6).tolist()
        [1.0, 2.0]

    Source: Sasaki (1970); forcing form: Tremolet (2006), equations 3 to 5.
    """

    model: Any
    background: Any
    B: Any
    Q: Any
    observations: Any
    parameters: Mapping[str, Any] | None = None
    start: Any = 0
    horizon: Any = None
    every: int = static(default=1)
    steps: int | None = static(default=None)
    segment: int | None = static(default=None)
    memory: int | None = static(default=None)

    has_model_error = True

    def __post_init__(self) -> None:
        if self.Q is None:
            raise ConfigurationError("WeakConstraint4DVar: give Q; without model error use StrongConstraint4DVar")
        super().__post_init__()
        assert self.steps is not None
        if self.every < 1 or (self.steps and self.every > self.steps):
            raise ConfigurationError(
                f"WeakConstraint4DVar: every = {self.every} must lie between 1 and the window's {self.steps} steps"
            )
        require_covariance("WeakConstraint4DVar.Q", self.Q, self.background)

    def covariances(self) -> dict[str, Any]:
        """Return B, those of the parameters, and Q as that of 'model_error'."""
        return {**super().covariances(), "model_error": self.Q}

    def control(self) -> dict[str, Any]:
        """Return the zero control vector: 'state', 'model_error' with a leading axis of blocks, and 'parameters'."""
        one = self.Q.control_like(self.background)
        blocks = self._blocks()
        errors = jax.tree.map(lambda leaf: jnp.zeros((blocks, *leaf.shape), leaf.dtype), one)
        return {**super().control(), "model_error": errors}

    def model_error(self, v: Mapping[str, Any]) -> Any:
        """Return the model errors Q^(1/2) v_j in the unit of the state, with a leading axis of blocks."""
        return jax.vmap(self.Q.sqrt)(v["model_error"])

    def forcing(self, v: Mapping[str, Any], steps: int) -> Any:
        """Return the increments after each of the first `steps` steps: model errors at the ends of blocks."""
        blocks = min(self._blocks(), steps // self.every)

        def spread(q: Any) -> Any:
            ends = slice(self.every - 1, self.every * blocks, self.every)
            return jnp.zeros((steps, *q.shape[1:]), q.dtype).at[ends].set(q[:blocks])

        return jax.tree.map(spread, self.model_error(v))

    def _blocks(self) -> int:
        assert self.steps is not None
        return self.steps // self.every
