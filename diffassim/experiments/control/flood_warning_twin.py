"""The twin of flood warnings: a river whose filter knows its errors, the optimum, and simple rules."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from diffassim.core.pytree import Pytree
from diffassim.covariances import Diagonal
from diffassim.decisions import FiniteProblem, expected_returns
from diffassim.decisions.problems import FloodWarning, WarningCosts
from diffassim.decisions.problems.linear_quadratic import LinearModel
from diffassim.gaussian import EKF, Gaussian
from diffassim.observations import Observations
from diffassim.training.reinforcement import backward_induction

__all__ = [
    "AllOrNone",
    "CostLoss",
    "River",
    "Threshold",
    "axes_of",
    "best_threshold",
    "expected_cost",
    "optimum",
    "river",
    "warning_environment",
]

NODES = 301  # of the forecast, over ten standard deviations of the climate
CANDIDATES = 41  # thresholds of a lead that are compared
SWEEPS = 3  # over the leads
SETTLED = 100  # steps after which filter and climate no longer change


class River(NamedTuple):
    """A linear reservoir that rain of the coming day fills, in standard deviations around its mean.

    Attributes:
        model: of (level, rain of the coming day).
        Q: covariance of its error: what nobody knows of the rain of the day after.
        error: of the observations, of the level and of the rain that is forecast.
    """

    model: LinearModel
    Q: Diagonal
    error: Diagonal


def river(dtype: Any) -> River:
    r"""Return the river \(z' = 0.6 z + 0.8 r,\ r' = 0.4 r + \eta\), of which level and rain forecast are observed."""
    A = jnp.asarray([[0.6, 0.8], [0.0, 0.4]], dtype)
    return River(
        LinearModel(A), Diagonal(std=jnp.asarray([0.05, 1.0], dtype)), Diagonal(std=jnp.asarray([0.05, 0.8], dtype))
    )


def warning_environment(leads: tuple[int, ...], quantile: float, costs: WarningCosts, dtype: Any) -> FloodWarning:
    """Return the environment of the river's Kalman filter in the long run.

    Args:
        leads: steps, increasing.
        quantile: share of the days without a flood.
        costs: of wrong warnings.
        dtype: of the computation.
    """
    spreads, variability = _in_the_long_run(*river(dtype), max(leads))
    spreads, variability = np.asarray(spreads, dtype), np.asarray(variability, dtype)
    chosen = spreads[np.asarray(leads) - 1]
    return FloodWarning(costs, chosen, variability, variability * norm.ppf(jnp.asarray(quantile, dtype)))


@jax.jit
def _settled(model: Any, Q: Any, error: Any) -> Any:
    """Return beliefs after many steps: with and without observations."""
    method, x = EKF(Q=Q), jnp.zeros(2, model.A.dtype)
    seen = Observations(x[None], jnp.zeros(1, jnp.int32), error=error)

    def forecast(belief: Any) -> Any:
        return method.forecast(None, lambda x, changed=None: model.step(x, 0), belief)

    def step(carry: Any, _: Any) -> Any:
        known, unknown = carry
        return (method.analyze(None, forecast(known), seen)[0], forecast(unknown)), None

    start = Gaussian.from_covariance(x, Diagonal(std=1.0))
    return lax.scan(step, (start, start), length=SETTLED)[0]


def _in_the_long_run(model: Any, Q: Any, error: Any, steps: int) -> tuple[Any, Any]:
    """Return the spread of the level 1, 2, ... steps after an analysis, and its standard deviation in the climate."""
    known, unknown = _settled(model, Q, error)
    method, found = EKF(Q=Q), []
    for _ in range(steps):
        known = method.forecast(None, lambda x, changed=None: model.step(x, 0), known)
        found.append(known.spread()[0])
    return jnp.stack(found), unknown.spread()[0]


class AllOrNone(Pytree):
    """A policy that warns all or nobody, as another one rather would.

    Args:
        policy: observation -> part of those concerned, or 0 or 1.
    """

    policy: Any

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return 0 or 1, shape (1,)."""
        wanted = jnp.reshape(jnp.asarray(self.policy(observation, key)), (1,))
        return (wanted.astype(observation.dtype) > 0.5).astype(observation.dtype)


class CostLoss(Pytree):
    """Warn where the probability exceeds F / (F + M): the best rule, if nothing is lost by withdrawing.

    Args:
        environment: that knows the probability.
    """

    environment: FloodWarning

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return 0 or 1, shape (1,)."""
        lead = jnp.round(observation[1]).astype(jnp.int32)
        costs, p = self.environment.costs, self.environment.probability(observation[0], lead)
        return (p * (costs.miss + costs.false_alarm)[lead] > costs.false_alarm[lead]).astype(observation.dtype)[None]


class Threshold(Pytree):
    """Warn where the forecast exceeds a threshold.

    Args:
        thresholds: one for each lead, shape (leads,).
    """

    thresholds: Float[Array, " leads"]

    def __call__(self, observation: Any, key: Any = None) -> Any:
        """Return 0 or 1, shape (1,)."""
        lead = jnp.round(observation[1]).astype(jnp.int32)
        return (observation[0] > self.thresholds[lead]).astype(observation.dtype)[None]


def axes_of(environment: FloodWarning, count: int = NODES) -> tuple[Any, Any, Any]:
    """Return nodes of forecast, lead and standing warning."""
    v, dtype = environment.variability, environment.spreads.dtype
    leads = jnp.arange(max(environment.leads, 2), dtype=dtype)
    return v * jnp.linspace(-5, 5, count, dtype=dtype), leads, jnp.asarray([0.0, 1.0], dtype)


def _starts(environment: FloodWarning) -> tuple[Any, Any]:
    """Return first observations, and their probabilities."""
    nodes = jnp.linspace(-5, 5, NODES, dtype=environment.spreads.dtype)
    density = jnp.exp(-jnp.square(nodes) / 2)
    rest = jnp.stack([jnp.full_like(nodes, environment.leads - 1), jnp.zeros_like(nodes)], axis=1)
    return jnp.concatenate([(environment.climate * nodes)[:, None], rest], axis=1), density / jnp.sum(density)


@jax.jit
def expected_cost(environment: FloodWarning, policy: Any) -> Float[Array, ""]:
    """Return the exact expected cost of a day under a policy that draws nothing.

    Args:
        environment: with actions that are parts, and no outcomes.
        policy: observation -> part, shape (1,).
    """
    observations, p = _starts(environment)
    return -jnp.sum(p * expected_returns(environment, policy, axes_of(environment), observations))


def optimum(environment: FloodWarning) -> tuple[Any, Any]:
    """Return the least expected cost of a day, and the best actions, shape (forecasts, leads, standing).

    Args:
        environment: with actions that are parts, and no outcomes.
    """
    axes = axes_of(environment)
    actions = jnp.asarray([[0.0], [1.0]], environment.spreads.dtype)
    problem = FiniteProblem.tabulate(environment, axes, actions, count=81)
    plan = backward_induction(problem, environment.leads)
    values = plan.values[0].reshape([len(axis) for axis in axes])[:, environment.leads - 1, 0]
    observations, p = _starts(environment)
    cost = -jnp.sum(p * jnp.interp(observations[:, 0], axes[0], values))
    return cost, plan.policy[0].reshape([len(axis) for axis in axes])


def best_threshold(environment: FloodWarning) -> Threshold:
    """Return the best thresholds of the forecast, each lead in turn.

    Args:
        environment: with actions that are parts, and no outcomes.
    """
    costs = environment.costs
    ratio = costs.false_alarm / jnp.maximum(costs.miss + costs.false_alarm, jnp.finfo(costs.miss.dtype).tiny)
    thresholds = environment.threshold + environment.spreads * norm.ppf(jnp.clip(ratio, 1e-6, 1 - 1e-6))
    return Threshold(_searched(environment, thresholds))


@jax.jit
def _searched(environment: FloodWarning, thresholds: Any) -> Any:
    steps = jnp.linspace(-2, 2, CANDIDATES, dtype=thresholds.dtype)

    def move(k: Any, thresholds: Any) -> Any:
        lead = k % environment.leads
        width = environment.spreads[lead] * 0.5 ** (k // environment.leads).astype(thresholds.dtype)
        one = jax.nn.one_hot(lead, environment.leads, dtype=steps.dtype)
        tried = thresholds[None] + width * steps[:, None] * one[None]
        found = lax.map(lambda each: expected_cost(environment, Threshold(each)), tried)
        return tried[jnp.argmin(found)]

    return lax.fori_loop(0, SWEEPS * environment.leads, move, thresholds)
