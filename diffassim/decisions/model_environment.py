"""Any model with a control and a cost is an environment, observed exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from diffassim.core import tree
from diffassim.core.checks import count_of, real_state
from diffassim.core.errors import ConfigurationError, ShapeError
from diffassim.core.pytree import Pytree, static
from diffassim.decisions.control import Control
from diffassim.decisions.environment import Environment, Transition
from diffassim.decisions.spaces import Box, Discrete
from diffassim.models.base import require_forcing
from diffassim.models.rollout import rollout
from diffassim.observations.operators import Identity, as_operator

__all__ = ["ModelEnvironment", "ModelState"]


class ModelState(Pytree):
    """State of a model, and the number of the step that comes next.

    Args:
        x: state of the model.
        t: number of the step.
    """

    x: Any
    t: Any


class ModelEnvironment(Environment):
    r"""A model whose steps an agent influences, and what they cost.

    .. math:: x_{k+1} = M_{a_k}(x_k, t_k) + \eta_k,\quad \eta_k \sim N(0, Q),\quad r_k = -c(x_k, a_k, x_{k+1}, t_k)

    A state that is not finite any more ends the episode; its reward is not finite either, and trainings say so.

    Args:
        model: any model; `interval` of its steps are one step of the environment, with the action held.
        control: how an action enters, see `Control`; a function (model, x, action) -> (model, x) will do.
        cost: (x, action, following, t) -> number, or one for each objective, shape (objectives,); t is the number of
            the model's step at x.
        start: first state of the model, or a function key -> state.
        actions: `Box` or `Discrete`.
        Q: covariance of what is added after the last of the steps, or None.
        operator: what is observed of a state, exactly; always as one vector.
        first: number of the model's first step.
        interval: model steps of one decision (static).
        length: steps after which an episode is cut off (static), or None.

    Raises:
        ConfigurationError: if actions are no space, the control does not fit, or a count is none.
        ShapeError: if the cost is neither a number nor a vector.
        DataError: if the model has no forcing for an episode.

    Example:
        >>> import diffassim as da
        >>> from diffassim.decisions import ParameterControl
        >>> cost = lambda x, action, following, t: jnp.mean(following**2)
        >>> environment = ModelEnvironment(
        ...     da.models.Lorenz96(), ParameterControl("forcing"), cost, jnp.full(8, 3.0), Box([2.0], [10.0]), length=5
        ... )
        >>> state, observation = environment.reset(jax.random.key(0))
        >>> float(environment.step(state, jnp.array([3.0]), jax.random.key(1)).reward)  # at rest
        -9.0
    """

    model: Any
    control: Any
    cost: Any
    start: Any
    actions: Any
    Q: Any = None
    operator: Any = Identity()
    first: Any = 0
    interval: int = static(default=1)
    length: int | None = static(default=None)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.actions, Box | Discrete):
            raise ConfigurationError(f"{name}: actions must be a Box or Discrete, found {type(self.actions).__name__}")
        start = as_part(self.start) if callable(self.start) else real_state(f"{name}: start", self.start)
        self._set(
            control=as_part(self.control), cost=as_part(self.cost), start=start, operator=as_operator(self.operator),
            interval=count_of(f"{name}: interval", self.interval, least=1),
            length=None if self.length is None else count_of(f"{name}: length", self.length, least=1),
        )  # fmt: skip
        if self.length is not None:
            require_forcing(name, self.model, self.first, self.length * self.interval)
        x, action = self._shapes()
        if isinstance(self.control, Control):
            self.control.check(name, self.model, x, action)
        if self.Q is not None:
            self.Q.check(f"{name}: Q", x)
        found = jax.eval_shape(self.cost, x, action, x, jnp.asarray(self.first))
        if not hasattr(found, "shape") or len(found.shape) > 1:
            raise ShapeError(f"{name}: the cost must be a number or a vector, found {tree.describe_shapes(found)}")

    @property
    def action_space(self) -> Any:
        """The actions."""
        return self.actions

    @property
    def observation_space(self) -> Box:
        """All vectors as long as what is observed."""
        seen = jax.eval_shape(self._seen, self._shapes()[0])
        return Box.unbounded(seen.shape[0], seen.dtype)

    @property
    def horizon(self) -> int | None:
        """Steps after which an episode is cut off."""
        return self.length

    @property
    def objectives(self) -> int | None:
        """Number of costs of each step, or None."""
        x, action = self._shapes()
        found = jax.eval_shape(self.cost, x, action, x, jnp.asarray(self.first))
        return found.shape[0] if found.shape else None

    def reset(self, key: jax.Array) -> tuple[ModelState, Any]:
        """Return a first state and its observation."""
        x = self.start(key) if callable(self.start) else self.start
        return ModelState(x, jnp.asarray(self.first)), self._seen(x)

    def advance(self, x: Any, action: Any, t: Any) -> Any:
        """Return the model's state after an action, without model error."""
        model, x = self.control(self.model, x, self.actions.clip(action))
        end = rollout(model, x, self.interval, start=t, at=jnp.array([self.interval]), segment=self.interval)
        return jax.tree.map(lambda leaf: leaf[0], end)

    def respond(self, state: ModelState, action: Any, disturbance: jax.Array) -> Transition:
        """Return what follows an action; the disturbance is a key."""
        following = self.advance(state.x, action, state.t)
        if self.Q is not None:
            following = tree.add(following, self.Q.sample(disturbance, following))
        reward = -jnp.asarray(self.cost(state.x, self.actions.clip(action), following, state.t))
        after = ModelState(following, state.t + self.interval)
        return Transition(after, self._seen(following), reward, ~tree.all_finite(following))

    def state_at(self, observation: Any) -> ModelState:
        """Return the state that an observation of everything tells, at the first step."""
        x = self._shapes()[0]
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), x)
        return ModelState(ravel_pytree(zeros)[1](observation), jnp.asarray(self.first))

    def _seen(self, x: Any) -> Any:
        return ravel_pytree(self.operator(x, None))[0]

    def _shapes(self) -> tuple[Any, Any]:
        x = jax.eval_shape(self.start, jax.random.key(0)) if callable(self.start) else self.start
        x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype), x)
        return x, jax.eval_shape(self.actions.sample, jax.random.key(0))


def as_part(function: Callable[..., Any]) -> Any:
    """Return a callable that can be a field of a pytree: itself, or a plain function as a static part."""
    if not callable(function):
        raise ConfigurationError(f"a function is expected, found {type(function).__name__}")
    leaves = jax.tree.leaves(function)
    return jax.tree_util.Partial(function) if len(leaves) == 1 and leaves[0] is function else function
