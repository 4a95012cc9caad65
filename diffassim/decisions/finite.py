"""Problems with finitely many states and actions, as tables; and tables of other problems on a grid."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffassim.core.checks import real_array
from diffassim.core.errors import ConfigurationError, DataError, ShapeError, concrete, require_finite
from diffassim.decisions.environment import Environment, Transition
from diffassim.decisions.grid import Axes, grid_points, grid_weights
from diffassim.decisions.spaces import Discrete

__all__ = ["FiniteProblem"]


class FiniteProblem(Environment):
    r"""A Markov decision process as tables, which is an environment as well.

    What is missing in a row of the transitions up to 1 is the probability that the episode terminates.

    Args:
        transitions: \(P(s' | s, a)\), shape (actions, states, states).
        rewards: expected reward of an action, shape (states, actions), or (states, actions, objectives).
        start: probabilities of the first state, shape (states,); None: all are equally likely.

    Raises:
        ShapeError: if the tables do not fit together.
        DataError: if a table is not finite, probabilities are negative or sum to more than 1, or those of the first
            state do not sum to 1.

    Example:
        >>> problem = FiniteProblem(jnp.array([[[0.0, 1.0], [0.0, 0.0]]]), jnp.array([[-1.0], [-1.0]]), [1.0, 0.0])
        >>> state, observation = problem.reset(jax.random.key(0))
        >>> first = problem.step(state, 0, jax.random.key(1))
        >>> int(first.observation), bool(first.terminated)
        (1, False)
        >>> bool(problem.step(first.state, 0, jax.random.key(2)).terminated)
        True
    """

    transitions: Float[Array, "actions states states"]
    rewards: Any
    start: Any = None

    def __post_init__(self) -> None:
        P, r = (jnp.asarray(real_array(f"FiniteProblem: {k}", getattr(self, k))) for k in ("transitions", "rewards"))
        if P.ndim != 3 or P.shape[1] != P.shape[2] or r.ndim not in (2, 3) or r.shape[:2] != (P.shape[1], P.shape[0]):
            raise ShapeError(
                "FiniteProblem: transitions (actions, states, states) and rewards (states, actions) or (states, "
                f"actions, objectives) do not fit: found {P.shape} and {r.shape}"
            )
        start = jnp.full(P.shape[1], 1 / P.shape[1], P.dtype) if self.start is None else self.start
        start = jnp.asarray(real_array("FiniteProblem: start", start))
        if start.shape != P.shape[1:2]:
            raise ShapeError(f"FiniteProblem: start has shape {start.shape}, but there are {P.shape[1]} states")
        self._set(transitions=P, rewards=r, start=start)
        require_finite("FiniteProblem", (P, r, start))
        for name, p in (("transitions", P), ("start", start)):
            known = concrete(p)
            if known is not None and (known.min() < 0 or known.sum(-1).max() > 1 + 1e-5):
                raise DataError(
                    f"FiniteProblem: {name} must be probabilities that sum to at most 1; the least is {known.min():g}, "
                    f"the largest sum {known.sum(-1).max():g}"
                )
        first = concrete(start)
        if first is not None and abs(first.sum() - 1) > 1e-5:
            raise DataError(f"FiniteProblem: start must be probabilities that sum to 1, found {first.sum():g}")

    @classmethod
    def tabulate(
        cls, environment: Any, axes: Axes, actions: Any, *, count: int = 64, key: jax.Array | None = None
    ) -> FiniteProblem:
        r"""Return the table of an environment on a grid of its states.

        What follows an action is shared out to the nodes around it by multilinear weights, which is the same as
        interpolating the values (Kushner and Dupuis, 2001, section 5.3); beyond the grid its last nodes count. The
        expectation is a sum over the environment's `disturbances`.

        Args:
            environment: its observation tells its state (`state_at`).
            axes: for each component of the observation, increasing nodes.
            actions: shape (actions, ...).
            count: number of disturbances.
            key: random key, for an environment that draws them.

        Raises:
            ShapeError: if the axes do not fit the observations.

        Example:
            >>> from diffassim.decisions import WaterReservoir
            >>> problem = FiniteProblem.tabulate(WaterReservoir(), (jnp.arange(0.0, 182, 20),), jnp.array([[0], [50]]))
            >>> problem.transitions.shape, problem.rewards.shape
            ((2, 10, 10), (10, 2, 2))
        """
        points = grid_points(axes)
        n = environment.observation_space.shape
        if n != points.shape[1:]:
            raise ShapeError(f"FiniteProblem.tabulate: {len(axes)} axes for observations of shape {n}")
        nodes, probabilities = environment.disturbances(count, key)
        P, r = _tabulated(environment, tuple(jnp.asarray(a) for a in axes), points, actions, nodes, probabilities)
        return cls(P, r)

    @property
    def action_space(self) -> Discrete:
        """The actions by number."""
        return Discrete(self.transitions.shape[0])

    @property
    def observation_space(self) -> Discrete:
        """The states by number."""
        return Discrete(self.transitions.shape[1])

    @property
    def objectives(self) -> int | None:
        """Number of rewards of each step, or None."""
        return self.rewards.shape[2] if self.rewards.ndim == 3 else None

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """Draw a first state."""
        state = _drawn(self.start, jax.random.uniform(key, (), self.start.dtype) * jnp.sum(self.start))
        return state, state

    def disturbance(self, key: jax.Array) -> Any:
        """Return a uniform number, which decides what follows."""
        return jax.random.uniform(key, (), self.transitions.dtype)

    def respond(self, state: Any, action: Any, disturbance: Any) -> Transition:
        """Return what follows; a terminated episode stays in its last state."""
        action = self.action_space.clip(action)
        total = jnp.cumsum(self.transitions[action, state])
        following = _drawn(self.transitions[action, state], disturbance)
        # Rounding must not end an episode whose probabilities sum to 1.
        ends = (disturbance >= total[-1]) & (total[-1] < 1 - 1e-5)
        following = jnp.where(ends, state, following)
        return Transition(following, following, self.rewards[state, action], ends)

    def scalarized(self, weights: Any) -> FiniteProblem:
        """Return the problem whose reward is the weighted sum of the objectives.

        Raises:
            ConfigurationError: if there are no objectives, or not as many as weights.
        """
        weights = jnp.asarray(real_array("FiniteProblem: weights", weights), self.rewards.dtype)
        if self.objectives is None or weights.shape != (self.objectives,):
            raise ConfigurationError(
                f"FiniteProblem: {weights.shape} weights for {self.objectives or 'no'} objectives; give one for each"
            )
        return self.replace(rewards=self.rewards @ weights)


def _drawn(probabilities: Any, u: Any) -> Any:
    """Return the index whose part of the unit interval holds u, or the last possible one."""
    total = jnp.cumsum(probabilities)
    last = probabilities.shape[0] - 1 - jnp.argmax(probabilities[::-1] > 0)
    return jnp.minimum(jnp.sum(u >= total), last).astype(jnp.int32)


@jax.jit
def _tabulated(environment: Any, axes: Any, points: Any, actions: Any, nodes: Any, probabilities: Any) -> Any:
    count = points.shape[0]

    def row(point: Any, action: Any) -> tuple[Any, Any]:
        found = jax.vmap(lambda w: environment.respond(environment.state_at(point), action, w))(nodes)
        index, weights = jax.vmap(lambda x: grid_weights(axes, x))(found.observation)
        mass = jnp.where(found.terminated, 0, probabilities.astype(weights.dtype))
        P = jnp.zeros(count, weights.dtype).at[index].add(mass[:, None] * weights)
        return P, jnp.tensordot(probabilities.astype(found.reward.dtype), found.reward, axes=1)

    P, r = lax.map(lambda action: jax.vmap(lambda point: row(point, action))(points), actions)
    return P, jnp.swapaxes(r, 0, 1)
