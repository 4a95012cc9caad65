"""Environments of this package for programs that speak gymnasium."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from diffassim.core.errors import ConfigurationError
from diffassim.decisions.spaces import Discrete

__all__ = ["to_gymnasium"]


def to_gymnasium(environment: Any, seed: int = 0) -> Any:
    """Return an environment as one of gymnasium, with observations, actions and rewards of NumPy.

    Args:
        environment: `Environment` of numbers or vectors; several objectives are rewards of shape (objectives,), as in
            MO-Gymnasium.
        seed: of the first reset without a seed.

    Raises:
        ConfigurationError: if gymnasium is not installed.
    """
    try:
        import gymnasium
    except ImportError:
        raise ConfigurationError("to_gymnasium needs gymnasium: pip install 'diffassim[decisions]'") from None

    class Adapted(gymnasium.Env):  # type: ignore[misc]
        metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
        render_mode = None

        def __init__(self) -> None:
            self.action_space = _space(gymnasium, environment.action_space)
            self.observation_space = _space(gymnasium, environment.observation_space)
            if environment.objectives is not None:
                shape = (environment.objectives,)
                self.reward_space = gymnasium.spaces.Box(-np.inf, np.inf, shape)
            self._state: Any = None
            self._key, self._age = jax.random.key(seed), 0
            self._reset, self._step = jax.jit(environment.reset), jax.jit(environment.step)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            if seed is not None:
                self._key = jax.random.key(seed)
            self._state, observation = self._reset(self._next())
            self._age = 0
            return self._seen(observation), {}

        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            if self._state is None:
                raise ConfigurationError("call reset before step")
            found = self._step(self._state, action, self._next())
            self._state, self._age = found.state, self._age + 1
            reward = np.asarray(found.reward)
            late = environment.horizon is not None and self._age >= environment.horizon
            ends = bool(found.terminated)
            return (
                self._seen(found.observation), reward if reward.ndim else float(reward), ends, late and not ends, {},
            )  # fmt: skip

        def _next(self) -> Any:
            self._key, own = jax.random.split(self._key)
            return own

        def _seen(self, observation: Any) -> Any:
            return np.asarray(observation, self.observation_space.dtype)[()]

    return Adapted()


def _space(gymnasium: Any, space: Any) -> Any:
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.n)
    low, high = np.asarray(space.low), np.asarray(space.high)
    return gymnasium.spaces.Box(low, high, dtype=low.dtype)
