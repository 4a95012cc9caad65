"""Weak-constraint 4D-Var in state form: the states at the starts of sub-windows are sought, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.errors import ConfigurationError
from diffassim.covariances.base import NotAvailableError
from diffassim.models.rollout import rollout
from diffassim.observations.container import observed_rows
from diffassim.variational.costs.weak_constraint import WeakConstraint4DVar
from diffassim.variational.costs.window import innovations

__all__ = ["StateWeakConstraint4DVar"]


class StateWeakConstraint4DVar(WeakConstraint4DVar):
    r"""Cost of weak-constraint 4D-Var in the states x_0, x_b, x_2b, ... at the starts of sub-windows of b steps.

    .. math::
        J = \tfrac12 |v_x|^2 + \tfrac12 \sum_j |Q^{-1/2}(x_{jb} - M_{(j-1)b \to jb}(x_{(j-1)b}))|^2
        + \tfrac12 \sum_i |R_i^{-1/2}(y_i - H_i(x_{k_i}))|^2, \quad x_{jb} = g_j + Q^{1/2} v_j

    It is the cost of `WeakConstraint4DVar` in other variables: the same minimum, the same model errors, the same
    trajectory. The sub-windows do not wait for each other, so that the model and its adjoint run over all of them in
    parallel (one `vmap`, `every` steps long instead of `steps`), and over chaotic windows J is closer to a quadratic
    function, because no run is longer than a sub-window. The price: the Hessian is not the identity plus what the
    observations say. It is worse conditioned, the more so the smaller Q is against B and the more sub-windows there
    are, and the gradient norm no longer bounds the distance to the minimizer. The products that rest on it
    (`posterior`, the dual solve) take the forcing form; `forcing_form` translates.

    Args:
        model: forward model, `step(x, t) -> x`.
        background: background state x_b at the window start, a pytree of arrays.
        B: background-error covariance of the state, or None to keep the initial state at its background.
        Q: model-error covariance of a sub-window of `every` steps; it needs `whiten`.
        observations: `Observations`, or a tuple of them (several streams).
        parameters: background-error covariance of parts of the model by path ("forcing", "network.weights.last",
            see `core.paths`); `Bounded` ones stay within bounds, as do those whose bounds the model declares.
        start: number of the window's first step, passed to the model as t (run-time integer).
        horizon: run-time number of steps; later observations do not count. Default: the whole window.
        every: model steps b in a sub-window (static).
        steps: window length in model steps (static); default: the last observed step.
        segment: steps between the checkpoints of the adjoint within a sub-window (static), see `rollout`.
        memory: bytes that the adjoints of all sub-windows may take (static), instead of `segment`; see `rollout`.
        guess: states g_j that belong to v = 0, leading axis of sub-windows after the first; it moves the origin of v,
            not the minimum. Default: the model's run from the background, computed again in each evaluation of J (not
            in its derivatives); with a guess nothing in the cost is sequential.

    Raises:
        ShapeError: if an observation lies outside the window, or B or Q does not fit the background.
        DataError: if the background is not finite.
        ConfigurationError: if `every` is not positive or longer than the window, or Q has no `whiten`.

    Example:
        >>> import diffassim as da
        >>> still = da.models.FunctionModel(lambda x, t: x)
        >>> one = da.covariances.Diagonal(std=1.0)
        >>> obs = da.Observations(jnp.array([[3.0]]), [1], error=one)
        >>> cost = da.StateWeakConstraint4DVar(still, jnp.array([0.0]), one, one, obs)
        >>> cost.trajectory(da.minimize(cost).control)[:, 0].round(6).tolist()
        [1.0, 2.0]

    Source: Tremolet (2006); parallel in time: Fisher and Guerol (2017).
    """

    guess: Any = None

    whitened = False  # the Hessian is not the identity plus a term of the observations

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            jax.eval_shape(self.Q.whiten, self.background)
        except NotAvailableError as error:
            raise ConfigurationError(
                f"StateWeakConstraint4DVar: Q needs `whiten` ({error}); WeakConstraint4DVar takes any Q"
            ) from error

    def control(self) -> dict[str, Any]:
        """Return the zero control vector: 'state', 'states' with a leading axis of sub-windows, and 'parameters'."""
        control = super().control()
        return {**control, "states": control.pop("model_error")}

    def model_error(self, v: Mapping[str, Any]) -> Any:
        """Return the model errors, what the states have more than the model's runs, with a leading axis."""
        assert self.steps is not None
        return self._run(v, self.steps)[1]

    def residuals(self, v: Mapping[str, Any]) -> Any:
        """Return (whitened departures from background and model, whitened innovations); 2 J is their squared norm."""
        assert self.steps is not None
        rows, errors = self._run(v, self.steps)
        prior = {name: part for name, part in v.items() if name != "states"}
        prior["model_error"] = jax.vmap(self.Q.whiten)(errors)
        last = self.window().last
        return prior, innovations(self.controlled_observations(v), _taken(rows, observed_rows(self.observations)), last)

    def _observed(self, v: Mapping[str, Any]) -> Any:
        assert self.steps is not None
        return _taken(self._run(v, self.steps)[0], observed_rows(self.observations))

    def forcing_form(self, v: Mapping[str, Any]) -> tuple[WeakConstraint4DVar, dict[str, Any]]:
        """Return the cost in forcing form, and its control vector with the same trajectory as v."""
        fields = {name: getattr(self, name) for name in WeakConstraint4DVar.__dataclass_fields__}
        control = {name: part for name, part in v.items() if name != "states"}
        control["model_error"] = jax.vmap(lambda q: self.Q.sqrt_transpose(self.Q.solve(q)))(self.model_error(v))
        return WeakConstraint4DVar(**fields), control

    def _rollout(self, v: Mapping[str, Any], steps: int, **options: Any) -> Any:
        rows, at = self._run(v, steps)[0], options.get("at")
        return rows if at is None else _taken(rows, at)

    def _run(self, v: Mapping[str, Any], steps: int) -> tuple[Any, Any]:
        """Return the rows 0 to `steps` of the trajectory, and the model errors at the ends of all sub-windows."""
        model, x = self.controlled_model(v), self.state(v)
        later = tree.add(self._guess(), jax.vmap(self.Q.sqrt)(v["states"]))
        firsts = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), x, later)
        numbers = jnp.asarray(self.start, jnp.int32) + self._ends() - self.every
        # The sub-windows run at the same time: each has its share of the memory.
        memory = None if self.memory is None else self.memory // max(self._blocks(), 1)
        kept = {"segment": self.segment, "memory": memory}
        runs = jax.vmap(lambda x, t: rollout(model, x, self.every, start=t, **kept))(firsts, numbers)
        errors = jax.tree.map(lambda x, run: x - run[:, -1], later, runs)

        edge = self.every * self._blocks()
        rest = rollout(
            model, jax.tree.map(lambda leaf: leaf[-1], later), max(steps - edge, 0), start=self.start + edge,
            **kept,
        )  # fmt: skip

        def joined(run: Any, tail: Any) -> Any:
            return jnp.concatenate([run[:, :-1].reshape((edge, *run.shape[2:])), tail])[: steps + 1]

        return jax.tree.map(joined, runs, rest), errors

    def _guess(self) -> Any:
        if self.guess is not None:
            return self.guess
        return rollout(self.model, self.background, self.every * self._blocks(), start=self.start, at=self._ends())

    def _ends(self) -> Any:
        return self.every * jnp.arange(1, self._blocks() + 1, dtype=jnp.int32)


def _taken(rows: Any, at: Any) -> Any:
    """Return rows of a trajectory, zero where a step lies outside of it."""

    def take(leaf: Any) -> Any:
        return leaf.at[jnp.where(at < 0, leaf.shape[0], at)].get(mode="fill", fill_value=0)

    return jax.tree.map(take, rows)
