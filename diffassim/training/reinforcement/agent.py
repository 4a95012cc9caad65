"""The protocol of agents: updates of what they know, in one compiled scan, and the policy that follows."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax import lax

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError, concrete
from diffassim.core.pytree import Pytree

__all__ = ["Agent", "require_between", "require_range"]


class Agent(Pytree):
    """A way to learn a policy from an environment.

    A subclass defines `init`, `update` and `policy`. What is learned is a pytree, so that `train` can be batched by
    `jax.vmap` over keys, over environments (weights of objectives, parameters of a model) and over the agent's numbers.
    """

    def init(self, environment: Any, key: jax.Array, start: Any = None) -> Any:
        """Return what the agent knows at first.

        Args:
            environment: `Environment` whose rewards are numbers.
            key: random key of the whole training.
            start: what is learned (tables, networks) to begin with; default: made here.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define init(environment, key)")

    def update(self, environment: Any, state: Any) -> tuple[Any, Any]:
        """Return what the agent knows after an update, and the mean reward of its steps on the way."""
        raise NotImplementedError(f"{type(self).__name__} does not define update(environment, state)")

    def policy(self, environment: Any, state: Any) -> Any:
        """Return the policy (observation, key) -> action that the agent has learned, without exploration."""
        raise NotImplementedError(f"{type(self).__name__} does not define policy(environment, state)")

    def train(self, environment: Any, state: Any, updates: int) -> tuple[Any, Any]:
        """Make many updates in one compiled scan.

        Args:
            environment: `Environment`.
            state: what `init` or `train` returned; training goes on from it as if it had never stopped.
            updates: how many (static).

        Returns:
            The state, and the mean reward of each update, shape (updates,).
        """
        return _train(self, environment, state, count_of(f"{type(self).__name__}: updates", updates))


def require_between(agent: Any, **ranges: tuple[float, float]) -> None:
    """Raise `ConfigurationError` unless numbers of an agent, where they are known, lie in their ranges, ends included.

    Args:
        agent: whose numbers they are; each may be a batch.
        ranges: least and largest number by name.
    """
    for name, (low, high) in ranges.items():
        require_range(type(agent).__name__, name, getattr(agent, name), low, high)


def require_range(owner: str, name: str, value: Any, low: float, high: float) -> None:
    """Raise `ConfigurationError` unless a number, or a batch of them, lies in a range where it is known."""
    known = concrete(value)
    if known is not None and not ((known >= low) & (known <= high)).all():
        most = f"lie between {low} and {high}" if high < float("inf") else f"be at least {low}"
        raise ConfigurationError(f"{owner}: {name}={known} must {most}")


@partial(jax.jit, static_argnums=3)
def _train(agent: Agent, environment: Any, state: Any, updates: int) -> Any:
    return lax.scan(lambda state, _: agent.update(environment, state), state, length=updates)
