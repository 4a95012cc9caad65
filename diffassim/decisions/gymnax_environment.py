"""Environments of the library gymnax as environments of this package."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.pytree import static
from diffassim.decisions.environment import Environment, Transition
from diffassim.decisions.spaces import Box, Discrete

__all__ = ["GymnaxEnvironment"]


class GymnaxEnvironment(Environment):
    """An environment of gymnax (1.0 or later), without its automatic resets.

    Args:
        environment: of gymnax (static).
        parameters: its parameters; default: its own.
        length: steps after which an episode is cut off (static); it follows from the parameters.

    Raises:
        ConfigurationError: if it is none, or its spaces are neither Discrete nor Box.
    """

    environment: Any = static()
    parameters: Any = None
    length: int | None = static(default=None)

    def __post_init__(self) -> None:
        if not all(hasattr(self.environment, name) for name in ("reset_env", "step_env", "default_params")):
            raise ConfigurationError(
                f"GymnaxEnvironment: {type(self.environment).__name__} is no environment of gymnax; give the first of "
                "what gymnax.make(...) returns"
            )
        if self.parameters is None:
            self._set(parameters=self.environment.default_params)
        most = concrete(getattr(self.parameters, "max_steps_in_episode", None))
        if most is not None and most.ndim == 0:  # where the parameters are traced it is known already
            self._set(length=int(most))

    @property
    def action_space(self) -> Any:
        """The actions."""
        return _space(self.environment.action_space(self.parameters))

    @property
    def observation_space(self) -> Any:
        """What is observed, as one vector."""
        return _space(self.environment.observation_space(self.parameters))

    @property
    def horizon(self) -> int | None:
        """Steps after which gymnax cuts an episode off."""
        return self.length

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """Return a first state and its observation."""
        observation, state = self.environment.reset_env(key, self.parameters)
        return jax.tree.map(jnp.asarray, state), jnp.ravel(observation)

    def respond(self, state: Any, action: Any, disturbance: jax.Array) -> Transition:
        """Return what follows an action; the disturbance is a key."""
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            found = self.environment.step_env(disturbance, state, self.action_space.clip(action), self.parameters)
        observation, after, reward, terminated, _ = found
        after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state)
        return Transition(after, jnp.ravel(observation), jnp.asarray(reward), jnp.asarray(terminated))


def _space(space: Any) -> Any:
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    if not hasattr(space, "low"):
        raise ConfigurationError(f"GymnaxEnvironment: a space of {type(space).__name__} is neither Discrete nor Box")
    low, high = (jnp.ravel(jnp.broadcast_to(jnp.asarray(bound), space.shape)) for bound in (space.low, space.high))
    return Box(low, high)
