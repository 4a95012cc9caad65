"""Strong-constraint 4D-Var: the model is perfect, its initial state (and parameters) are sought."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffassim.core.pytree import Pytree, static
from diffassim.variational.costs.window import WindowCost

__all__ = ["StrongConstraint4DVar"]


class StrongConstraint4DVar(WindowCost, Pytree):
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
        parameters: background-error covariance of parts of the model by path ("forcing", "network.weights.last",
            see `core.paths`); `Bounded` ones stay within bounds, as do those whose bounds the model declares.
        start: number of the window's first step, passed to the model as t (run-time integer).
        steps: window length in model steps (static); default: the last observed step.
        horizon: run-time number of steps; later observations do not count. Default: the whole window.
        segment: steps between the checkpoints of the adjoint (static), see `rollout`.
        memory: bytes that the trajectory's adjoint may take (static), instead of `segment`; see `rollout`.

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
    memory: int | None = static(default=None)
