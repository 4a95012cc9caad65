"""3D-Var FGAT: innovations at the right time, one increment for the whole window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from diffassim.core.pytree import Pytree, static
from diffassim.models.rollout import rollout
from diffassim.observations.container import observed_rows
from diffassim.variational.costs.window import WindowCost

__all__ = ["ThreeDVarFGAT"]


class ThreeDVarFGAT(WindowCost, Pytree):
    r"""Cost of 3D-Var with the first guess at the appropriate time.

    .. math::
        J(v) = \tfrac12 |v|^2 + \tfrac12 \sum_i |R_i^{-1/2}(y_i - H_i(x_b(k_i) + B^{1/2} v))|^2, \quad
        x_b(k) = M_{0 \to k}(x_b)

    Every observation is compared with the background of its own time, but the increment does not move: no derivative of
    the model is taken (but by `parameters`). With all observations at step 0 it is 3D-Var; where increments stay as
    they are (x -> x + c(t)) it is strong-constraint 4D-Var. B is best thought of as the error in the middle of the
    window.
    `state(v)` and `trajectory(v)` are the analysis at the window start, and the model's run from it.

    Args:
        model: forward model, `step(x, t) -> x`.
        background: background state x_b at the window start, a pytree of arrays.
        B: background-error covariance of the state.
        observations: `Observations`, or a tuple of them (several streams).
        parameters: background-error covariance of parts of the model by path ("forcing", "network.weights.last",
            see `core.paths`); `Bounded` ones stay within bounds, as do those whose bounds the model declares.
        start: number of the window's first step, passed to the model as t (run-time integer).
        horizon: run-time number of steps; later observations do not count. Default: the whole window.
        steps: window length in model steps (static); default: the last observed step.
        segment: steps between the checkpoints of the adjoint (static), see `rollout`.
        memory: bytes that the adjoint may take (static), see `rollout`.

    Raises:
        ShapeError: if an observation lies outside the window, or B does not fit the background.
        DataError: if the background is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> import diffassim as da
        >>> one, growth = da.covariances.Diagonal(std=1.0), da.models.FunctionModel(lambda x, t: 2 * x)
        >>> obs = da.Observations(jnp.array([[6.0]]), [1], error=one)
        >>> da.minimize(da.ThreeDVarFGAT(growth, jnp.array([1.0]), one, obs)).state.tolist()  # (6 - 2) / 2 more
        [3.0]

    Source: Fisher and Andersson (2001), section 2; Lorenc and Rawlins (2005).
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
    memory: int | None = static(default=None)

    def _observed(self, v: Mapping[str, Any]) -> Any:
        assert self.steps is not None
        rows = rollout(
            self.controlled_model(v), self.background, self.steps, at=observed_rows(self.observations),
            start=self.start, limit=self.horizon, segment=self.segment, memory=self.memory,
        )  # fmt: skip
        if self.B is None:
            return rows
        return jax.tree.map(lambda row, increment: row + increment[None], rows, self.B.sqrt(v["state"]))
