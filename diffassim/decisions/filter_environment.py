"""A filter as an environment: an agent sees statistics of its innovations, and steers inflation and localization."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from diffassim.core import tree
from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError, require_positive
from diffassim.core.pytree import Pytree, static
from diffassim.decisions.environment import Environment, Transition
from diffassim.decisions.spaces import Box
from diffassim.ensemble.policy_inflation import FEATURES, PolicyInflation, SteeredEnsemble
from diffassim.methods.members import mean
from diffassim.models.rollout import rollout

__all__ = ["FilterEnvironment", "FilterState"]

SCORED = ("error", "likelihood")


class FilterState(Pytree):
    """What is true, what was observed of it, and what a filter expects.

    Args:
        world: what the nature remembers.
        truth: true state.
        observations: of this time.
        belief: forecast for this time, before the analysis.
        t: number of the model step.
        key: of the analysis.
    """

    world: Any
    truth: Any
    observations: Any
    belief: SteeredEnsemble
    t: Any
    key: Any


class FilterEnvironment(Environment):
    r"""A filter cycle whose inflation and localization an agent sets at every analysis.

    The agent sees the `FEATURES` of `PolicyInflation` for the observations that are about to be analysed, and its
    action is that of such a policy: a policy that was trained here goes into the method as it is. One step is the
    analysis, and the forecast to the next observations. The reward is

    .. math:: r = -\log \mathrm{rms}(\bar x_a - x_t)\quad\text{("error")},\qquad
        r = \tfrac1m \log p(y)\quad\text{("likelihood", which needs no truth)},

    both for the analysis under the action; logarithms, so that a regime of small errors counts like one of large ones.
    An analysis whose error is above `lost`, or not finite, ends the episode and is rewarded as if it were `lost`.
    Steps are differentiable.

    Args:
        method: `PolicyInflation`; its own policy is not used.
        model: that forecasts.
        nature: pytree with `start(key) -> (world, truth, ensemble)` and `following(world, truth, t, key) -> (world,
            truth, observations)`, one row of observations for the state some model steps later.
        actions: `Box` of actions.
        lost: root mean square error from which on a filter counts as lost.
        interval: model steps from analysis to analysis (static).
        length: analyses of an episode (static).
        scored: "error" or "likelihood" (static).

    Raises:
        ConfigurationError: if the method is no `PolicyInflation`, the actions are not its actions, or a number is
            outside of its range.

    Example:
        >>> import diffassim as da
        >>> class Still(Pytree):
        ...     def start(self, key):
        ...         return None, jnp.zeros(4), jax.random.normal(key, (5, 4))
        ...     def following(self, world, truth, t, key):
        ...         values = truth + jax.random.normal(key, truth.shape)
        ...         return world, truth, da.Observations(values[None], jnp.zeros(1, int), error=R)
        >>> R, model = da.covariances.Diagonal(std=1.0), da.models.base.FunctionModel(lambda x, t: x)
        >>> method = PolicyInflation(da.ETKF())
        >>> environment = FilterEnvironment(method, model, Still(), Box([-1.0, -1.0], [1.0, 1.0]))
        >>> state, features = environment.reset(jax.random.key(0))
        >>> found = environment.step(state, jnp.zeros(2), jax.random.key(1))
        >>> features.shape, bool(found.reward > 0), bool(found.terminated)  # rms below one
        ((10,), True, False)
    """

    method: PolicyInflation
    model: Any
    nature: Any
    actions: Box
    lost: Any = 10.0
    interval: int = static(default=1)
    length: int = static(default=200)
    scored: Literal["error", "likelihood"] = static(default="error")

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.method, PolicyInflation):
            raise ConfigurationError(f"{name}: the method must be PolicyInflation, found {type(self.method).__name__}")
        if not isinstance(self.actions, Box) or self.actions.shape != (self.method.actions,):
            found = getattr(self.actions, "shape", type(self.actions).__name__)
            raise ConfigurationError(f"{name}: actions must be a Box of shape ({self.method.actions},), found {found}")
        if self.scored not in SCORED:
            raise ConfigurationError(f"{name}: scored must be one of {', '.join(SCORED)}, found {self.scored!r}")
        require_positive(f"{name}: lost", self.lost)
        self._set(
            interval=count_of(f"{name}: interval", self.interval, least=1),
            length=count_of(f"{name}: length", self.length, least=1),
        )

    @property
    def action_space(self) -> Box:
        """The actions of a policy of `PolicyInflation`."""
        return self.actions

    @property
    def observation_space(self) -> Box:
        """All vectors of features."""
        return Box.unbounded(len(FEATURES), self.actions.low.dtype)

    @property
    def horizon(self) -> int:
        """Analyses after which an episode is cut off."""
        return self.length

    def reset(self, key: jax.Array) -> tuple[FilterState, Any]:
        """Return the state before the first analysis, and its features."""
        start, rest = jax.random.split(key)
        world, truth, ensemble = self.nature.start(start)
        return self._next(world, truth, self.method.init(ensemble), jnp.zeros((), jnp.int32), rest)

    def respond(self, state: FilterState, action: Any, disturbance: jax.Array) -> Transition:
        """Return what follows an action; the disturbance is a key."""
        key = state.key if self.method.random else None
        action = self.actions.clip(action)
        belief, info = self.method.steer(key, state.belief, state.observations, action)
        error = tree.subtract(mean(belief.members), state.truth)
        limit = jnp.asarray(self.lost, self.actions.low.dtype)
        square = (tree.squared_norm(error) / tree.size(error)).astype(limit.dtype)
        terminated = ~(tree.all_finite(belief.members) & (square < jnp.square(limit)))
        square = jnp.where(terminated, jnp.square(limit), square)
        reward = -0.5 * jnp.log(square)
        if self.scored == "likelihood":
            density = (info.log_likelihood / jnp.maximum(info.count, 1).astype(limit.dtype)).astype(limit.dtype)
            reward = jnp.where(terminated, -jnp.square(limit), jnp.maximum(density, -jnp.square(limit)))
        following, features = self._next(state.world, state.truth, belief, state.t, disturbance)
        return Transition(following, features, reward, terminated)

    def _next(self, world: Any, truth: Any, belief: Any, t: Any, key: jax.Array) -> tuple[FilterState, Any]:
        """Return the state before the next analysis, and its features."""
        ahead, forecast, own = jax.random.split(key, 3)
        world, truth, observations = self.nature.following(world, truth, t, ahead)

        def propagate(x: Any, changed: Any = None) -> Any:
            if changed is not None:
                raise ConfigurationError("FilterEnvironment: give the model error Q of a whole step, not EveryStep")
            end = rollout(self.model, x, self.interval, start=t, at=jnp.array([self.interval]), segment=self.interval)
            return jax.tree.map(lambda leaf: leaf[0], end)

        prior = self.method.forecast(forecast, propagate, belief)
        state = FilterState(world, truth, observations, prior, t + self.interval, own)
        return state, self.method.features(own if self.method.random else None, prior, observations)
