"""An environment that an agent sees through an assimilation."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from diffassim.core.errors import ConfigurationError
from diffassim.core.pytree import Pytree, static
from diffassim.decisions.environment import Environment, Transition
from diffassim.decisions.model_environment import ModelEnvironment, as_part
from diffassim.decisions.spaces import Box
from diffassim.observations.container import Observations
from diffassim.observations.operators import Identity, as_operator

__all__ = ["BeliefEnvironment", "BeliefState"]

SHOWN = ("mean", "spread", "mean and spread", "members")


class BeliefState(Pytree):
    """What is true, and what is known of it.

    Args:
        truth: state of the environment.
        belief: analysis of the model's state: an ensemble, or what else the method hands on.
    """

    truth: Any
    belief: Any


class BeliefEnvironment(Environment):
    r"""A model environment of which an agent sees the analyses of a filter, never the state.

    .. math:: y_{k+1} = H(x_{k+1}) + \varepsilon_{k+1},\quad \varepsilon \sim N(0, R),\quad
        b_{k+1} = \mathrm{analysis}(\mathrm{forecast}(b_k, a_k), y_{k+1})

    The filter forecasts with the same control as the truth and its own model error Q. Rewards are those of the true
    state. The belief is a sufficient statistic of all observations and actions (Astrom, 1965), as far as the filter is
    exact.

    Args:
        environment: `ModelEnvironment`; what it would show is not used.
        method: any sequential method of the package.
        prior: belief before the first observation (an ensemble, a `Gaussian`), or a function key -> belief.
        operator: what is observed of a state.
        error: covariance R of the observation errors.
        shown: what the agent sees of the belief (static): "mean", "spread", "mean and spread", or "members".

    Raises:
        ConfigurationError: if a part is none of these, or the method's Q belongs to single model steps.
        ShapeError: if belief, operator and error do not fit.

    Example:
        >>> import diffassim as da
        >>> from diffassim.decisions import StateIncrement
        >>> model = da.models.base.FunctionModel(lambda x, t: 0.9 * x)
        >>> plain = ModelEnvironment(
        ...     model, StateIncrement(jnp.ones((1, 1))), lambda x, a, y, t: jnp.sum(y**2), jnp.ones(1), Box([-1.0], [1])
        ... )
        >>> prior = da.gaussian.Gaussian.from_covariance(jnp.zeros(1), da.covariances.Diagonal(std=1.0))
        >>> seen = BeliefEnvironment(plain, da.EKF(), prior, error=da.covariances.Diagonal(std=0.1), shown="spread")
        >>> state, observation = seen.reset(jax.random.key(0))
        >>> round(float(observation[0]), 4)  # (1 + 1 / .1^2)^-1/2
        0.0995
    """

    environment: ModelEnvironment
    method: Any
    prior: Any
    operator: Any = Identity()
    error: Any = None
    shown: Literal["mean", "spread", "mean and spread", "members"] = static(default="mean")

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.environment, ModelEnvironment):
            raise ConfigurationError(
                f"{name}: the environment must be a ModelEnvironment, found {type(self.environment).__name__}"
            )
        if self.shown not in SHOWN:
            raise ConfigurationError(f"{name}: shown must be one of {', '.join(SHOWN)}, found {self.shown!r}")
        if self.error is None:
            raise ConfigurationError(f"{name}: give error, the covariance R of the observation errors")
        self._set(operator=as_operator(self.operator))
        if callable(self.prior):
            self._set(prior=as_part(self.prior))
        else:
            self._set(prior=self.method.init(self.prior))
            x = self.environment._shapes()[0]
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), x)
            self.method.check(self.prior, self._observations(self.operator(zeros, None)))

    @property
    def action_space(self) -> Any:
        """The actions."""
        return self.environment.action_space

    @property
    def observation_space(self) -> Box:
        """All vectors as long as what is shown of a belief."""
        seen = jax.eval_shape(lambda key: self._shown(self._first(key)), jax.random.key(0))
        return Box.unbounded(seen.shape[0], seen.dtype)

    @property
    def horizon(self) -> int | None:
        """Steps after which an episode is cut off."""
        return self.environment.horizon

    @property
    def objectives(self) -> int | None:
        """Number of costs of each step, or None."""
        return self.environment.objectives

    def reset(self, key: jax.Array) -> tuple[BeliefState, Any]:
        """Return a true state with the first analysis, and what is shown of that."""
        start, first, analysis = jax.random.split(key, 3)
        truth, _ = self.environment.reset(start)
        belief = self._analysis(analysis, self._first(first), truth.x)
        return BeliefState(truth, belief), self._shown(belief)

    def respond(self, state: BeliefState, action: Any, disturbance: jax.Array) -> Transition:
        """Return what follows an action; the disturbance is a key."""
        noise, forecast, analysis = jax.random.split(disturbance, 3)
        true = self.environment.respond(state.truth, action, noise)

        def propagate(x: Any, changed: Any = None) -> Any:
            if changed is not None:
                raise ConfigurationError("BeliefEnvironment: give the model error Q of a whole step, not EveryStep")
            return self.environment.advance(x, action, state.truth.t)

        prior = self.method.forecast(forecast, propagate, state.belief)
        belief = self._analysis(analysis, prior, true.state.x)
        return Transition(BeliefState(true.state, belief), self._shown(belief), true.reward, true.terminated)

    def _first(self, key: jax.Array) -> Any:
        return self.method.init(self.prior(key)) if callable(self.prior) else self.prior

    def _observations(self, values: Any) -> Observations:
        rows = jax.tree.map(lambda leaf: leaf[None], values)
        return Observations(rows, jnp.zeros(1, jnp.int32), operator=self.operator, error=self.error)

    def _analysis(self, key: jax.Array, prior: Any, x: Any) -> Any:
        noise, own = jax.random.split(key)
        exact = self.operator(x, None)
        values = jax.tree.map(jnp.add, exact, self.error.sample(noise, exact))
        return self.method.analyze(own, prior, self._observations(values))[0]

    def _shown(self, belief: Any) -> Any:
        if self.shown == "members":
            return ravel_pytree(belief)[0]
        mean, spread = self.method.moments(belief)
        parts = {"mean": mean, "spread": spread, "mean and spread": (mean, spread)}
        return ravel_pytree(parts[self.shown])[0]
