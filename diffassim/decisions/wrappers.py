"""Environments made of others: objectives weighted together, and states and actions cut into cells."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, ShapeError, concrete
from diffassim.decisions.environment import Decided, Environment, Transition
from diffassim.decisions.grid import Axes, GridPolicy, checked_axes, grid_weights, nearest_node
from diffassim.decisions.spaces import Box, Discrete

__all__ = ["Afterstates", "Discretized", "Scalarized"]


class Wrapper(Environment):
    """Base of what changes one side of another environment."""

    environment: Any

    @property
    def action_space(self) -> Any:
        """The actions."""
        return self.environment.action_space

    @property
    def observation_space(self) -> Any:
        """What is observed."""
        return self.environment.observation_space

    @property
    def horizon(self) -> int | None:
        """Steps after which an episode is cut off."""
        return self.environment.horizon

    @property
    def objectives(self) -> int | None:
        """Number of rewards of each step, or None."""
        return self.environment.objectives

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """Return a first state and its observation."""
        return self.environment.reset(key)

    def disturbance(self, key: jax.Array) -> Any:
        """Return what is random in a step."""
        return self.environment.disturbance(key)

    def disturbances(self, count: int, key: jax.Array | None = None) -> tuple[Any, Any]:
        """Return disturbances and their probabilities."""
        return self.environment.disturbances(count, key)

    def respond(self, state: Any, action: Any, disturbance: Any) -> Transition:
        """Return what follows an action."""
        return self.environment.respond(state, action, disturbance)

    def decide(self, state: Any, action: Any) -> Decided:
        """Return the afterstate of an action."""
        return self.environment.decide(state, action)

    def follow(self, afterstate: Any, disturbance: Any) -> Transition:
        """Return what follows an afterstate."""
        return self.environment.follow(afterstate, disturbance)

    def state_at(self, observation: Any) -> Any:
        """Return the state that an observation tells."""
        return self.environment.state_at(observation)


class Scalarized(Wrapper):
    r"""The environment whose reward is the weighted sum \(w^\top r\) of the objectives.

    Args:
        environment: with objectives.
        weights: one for each objective, not negative, with the sum 1.

    Raises:
        ConfigurationError: if there are no objectives, or the weights are none of theirs.

    Example:
        >>> from diffassim.decisions import WaterReservoir
        >>> Scalarized(WaterReservoir(), [0.25, 0.75]).objectives is None
        True
    """

    weights: Any

    def __post_init__(self) -> None:
        weights = jnp.asarray(real_array("Scalarized: weights", self.weights))
        number = self.environment.objectives
        if number is None or weights.shape != (number,):
            raise ConfigurationError(
                f"Scalarized: weights of shape {weights.shape} for {number or 'no'} objectives; give one for each"
            )
        known = concrete(weights)
        if known is not None and not (np.all(known >= 0) and abs(known.sum() - 1) <= 1e-5):
            raise ConfigurationError(f"Scalarized: weights must not be negative and sum to 1, found {known.tolist()}")
        self._set(weights=weights)

    @property
    def objectives(self) -> int | None:
        """None: a reward is a number."""
        return None

    def respond(self, state: Any, action: Any, disturbance: Any) -> Transition:
        """Return what follows an action."""
        return self._weighted(self.environment.respond(state, action, disturbance))

    def decide(self, state: Any, action: Any) -> Decided:
        """Return the afterstate of an action."""
        return self._weighted(self.environment.decide(state, action))

    def follow(self, afterstate: Any, disturbance: Any) -> Transition:
        """Return what follows an afterstate."""
        return self._weighted(self.environment.follow(afterstate, disturbance))

    def _weighted(self, found: Any) -> Any:
        return found._replace(reward=found.reward @ self.weights.astype(found.reward.dtype))


class Discretized(Wrapper):
    """An environment of vectors as one of numbers, for agents with tables.

    Observations are the number of the nearest node of a grid (the last axis runs fastest), actions the number of one of
    some vectors. The state itself stays what it is.

    Args:
        environment: with `Box` observations.
        axes: increasing nodes for each component of the observation.
        actions: shape (actions, components); None where actions are `Discrete` already.

    Raises:
        ShapeError: if the axes or actions do not fit the environment.

    Example:
        >>> from diffassim.decisions import WaterReservoir
        >>> cells = Discretized(WaterReservoir(), (jnp.arange(0.0, 182, 2),), jnp.arange(0.0, 182, 2)[:, None])
        >>> cells.observation_space.n, cells.action_space.n
        (91, 91)
    """

    axes: Axes
    actions: Any = None

    def __post_init__(self) -> None:
        axes = checked_axes("Discretized", self.axes)
        seen, done = self.environment.observation_space, self.environment.action_space
        if not isinstance(seen, Box) or seen.shape != (len(axes),):
            raise ShapeError(f"Discretized: {len(axes)} axes for observations of shape {seen.shape}")
        actions = self.actions
        if actions is not None:
            actions = jnp.asarray(real_array("Discretized: actions", actions))
            if actions.ndim != 2 or actions.shape[1:] != done.shape:
                raise ShapeError(f"Discretized: actions of shape {actions.shape} for a space of shape {done.shape}")
        elif not isinstance(done, Discrete):
            raise ConfigurationError("Discretized: give the actions to choose from, shape (actions, components)")
        self._set(axes=axes, actions=actions)

    @property
    def action_space(self) -> Discrete:
        """The actions by number."""
        return self.environment.action_space if self.actions is None else Discrete(self.actions.shape[0])

    @property
    def observation_space(self) -> Discrete:
        """The nodes by number."""
        return Discrete(int(np.prod([axis.shape[0] for axis in self.axes])))

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """Return a first state and the node nearest to it."""
        state, observation = self.environment.reset(key)
        return state, nearest_node(self.axes, observation)

    def respond(self, state: Any, action: Any, disturbance: Any) -> Transition:
        """Return what follows an action."""
        if self.actions is not None:
            action = self.actions[action]
        found = self.environment.respond(state, action, disturbance)
        return found._replace(observation=nearest_node(self.axes, found.observation))

    def policy(self, chosen: Any) -> GridPolicy:
        """Return the policy of the environment itself that takes the chosen actions at the nodes, and between them.

        Args:
            chosen: number of an action for each node, shape (nodes,).
        """
        sizes = [axis.shape[0] for axis in self.axes]
        return GridPolicy(self.axes, self.actions[chosen].reshape(*sizes, -1))


class Afterstates(Wrapper):
    """An environment of vectors, for agents with tables of the values of afterstates.

    Actions are the number of one of some vectors, as in `Discretized`; observations stay vectors. The table has an
    entry for each node of a grid of what is seen of afterstates, far fewer than for all states and actions, and values
    are interpolated between them (such averages keep temporal differences stable: Gordon, 1995). An agent knows
    `decide`, and learns what follows.

    Args:
        environment: with `decide` and `follow`, whose observation tells its state.
        axes: increasing nodes for each component of what is seen of an afterstate.
        actions: shape (actions, components).

    Raises:
        ShapeError: if the axes or actions do not fit the environment.

    Example:
        >>> from diffassim.decisions import Scalarized, WaterReservoir
        >>> plain = Scalarized(WaterReservoir(), [0.5, 0.5])
        >>> cells = Afterstates(plain, (jnp.arange(0.0, 101),), jnp.arange(0.0, 182)[:, None])
        >>> known, entries, weights = cells.look(jnp.array([60.5]), 40)  # 10 are missing, 20.5 are left
        >>> float(known), entries.tolist(), weights.tolist()
        (-5.0, [20, 21], [0.5, 0.5])
    """

    axes: Axes
    actions: Any

    def __post_init__(self) -> None:
        axes = checked_axes("Afterstates", self.axes)
        actions = jnp.asarray(real_array("Afterstates: actions", self.actions))
        space = self.environment.action_space
        if actions.ndim != 2 or actions.shape[1:] != space.shape:
            raise ShapeError(f"Afterstates: actions of shape {actions.shape} for a space of shape {space.shape}")
        seen = jax.eval_shape(self._decided, self.environment.observation_space.sample(jax.random.key(0)), actions[0])
        if seen[1].shape != (len(axes),):
            raise ShapeError(f"Afterstates: {len(axes)} axes for afterstates of shape {seen[1].shape}")
        self._set(axes=axes, actions=actions)

    @property
    def action_space(self) -> Discrete:
        """The actions by number."""
        return Discrete(self.actions.shape[0])

    @property
    def entries(self) -> int:
        """Number of the nodes."""
        return int(np.prod([axis.shape[0] for axis in self.axes]))

    def respond(self, state: Any, action: Any, disturbance: Any) -> Transition:
        """Return what follows an action."""
        return self.environment.respond(state, self.actions[action], disturbance)

    def look(self, observation: Any, action: Any) -> tuple[Any, Any, Any]:
        """Return what is known of the reward of an action, and entries of the table with their weights for the rest."""
        known, seen = self._decided(observation, self.actions[action])
        return known, *grid_weights(self.axes, seen)

    def _decided(self, observation: Any, action: Any) -> tuple[Any, Any]:
        found = self.environment.decide(self.environment.state_at(observation), action)
        return found.reward, found.seen
