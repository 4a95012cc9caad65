"""Exact dynamic programming on tables: evaluation, value iteration, policy iteration, backward induction."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from diffassim.core.checks import count_of
from diffassim.core.errors import ConfigurationError
from diffassim.decisions.finite import FiniteProblem
from diffassim.training.reinforcement.agent import require_range

__all__ = ["Plan", "backward_induction", "evaluate", "planned_returns", "policy_iteration", "value_iteration"]


class Plan(NamedTuple):
    """What dynamic programming finds.

    Attributes:
        values: of the states, shape (states,); of `backward_induction` with a leading axis of steps, the last one after
            the end.
        policy: number of the best action, shape (states,), or (steps, states).
        iterations: how many it took.
        residual: largest change that one more sweep would make.
    """

    values: Any
    policy: Any
    iterations: Any
    residual: Any


def action_values(problem: FiniteProblem, values: Any, discount: Any) -> Float[Array, "states actions"]:
    r"""Return \(q(s, a) = r(s, a) + \gamma \sum_{s'} P(s' | s, a) v(s')\).

    Args:
        problem: with rewards that are numbers.
        values: shape (states,).
        discount: gamma.
    """
    return problem.rewards + discount * (problem.transitions @ values).T


def evaluate(problem: FiniteProblem, policy: Any, discount: Any = 1.0) -> Array:
    r"""Return the values of a policy, by one linear solve: \(v = (I - \gamma P_\pi)^{-1} r_\pi\).

    Args:
        problem: any; with objectives, there is a value for each.
        policy: number of the action, shape (states,), or probabilities, shape (states, actions).
        discount: gamma; without discount (1) every state must reach an end under the policy.

    Returns:
        Shape (states,), or (states, objectives); not finite where there is no value.

    Raises:
        ConfigurationError: if the discount lies outside of 0 to 1.

    Example:
        >>> from diffassim.decisions.problems import random_walk
        >>> (6 * evaluate(random_walk(), jnp.zeros(5, int))).round(6).tolist()
        [1.0, 2.0, 3.0, 4.0, 5.0]

    Source: Sutton and Barto (2018), section 4.1.
    """
    require_range("evaluate", "discount", discount, 0, 1)
    P, r = problem.transitions, problem.rewards
    policy = jnp.asarray(policy)
    if policy.ndim == 1:
        policy = jax.nn.one_hot(policy, P.shape[0], dtype=P.dtype)
    P_policy = jnp.einsum("sa,ast->st", policy, P)
    r_policy = jnp.einsum("sa,sa...->s...", policy, r)
    return jnp.linalg.solve(jnp.eye(P.shape[1], dtype=P.dtype) - discount * P_policy, r_policy)


def value_iteration(
    problem: FiniteProblem, discount: Any = 1.0, *, tolerance: float = 1e-10, iterations: int = 10_000
) -> Plan:
    r"""Return the best policy, by sweeps \(v \leftarrow \max_a q(s, a)\).

    With a discount, the values are within \(\gamma / (1 - \gamma)\) residuals of the best.

    Args:
        problem: `FiniteProblem` whose rewards are numbers.
        discount: gamma.
        tolerance: largest change of a value at which the sweeps end.
        iterations: most sweeps (static).

    Raises:
        ConfigurationError: if the problem has objectives, see `FiniteProblem.scalarized`, or the discount lies outside
            of 0 to 1.

    Example:
        >>> from diffassim.decisions.problems import cliff_walk
        >>> float(value_iteration(cliff_walk()).values[36])
        -13.0

    Source: Sutton and Barto (2018), section 4.4.
    """
    _require("value_iteration", discount, problem)
    return _value_iteration(problem, discount, tolerance, count_of("value_iteration: iterations", iterations, least=1))


def policy_iteration(problem: FiniteProblem, discount: Any = 1.0, *, iterations: int = 100) -> Plan:
    """Return the best policy, by evaluation and greedy improvement in turn, until the policy stays.

    The first policy draws all actions with the same probability, under which most problems come to an end.

    Args:
        problem: `FiniteProblem` whose rewards are numbers.
        discount: gamma.
        iterations: most improvements (static).

    Raises:
        ConfigurationError: if the problem has objectives, or the discount lies outside of 0 to 1.

    Example:
        >>> from diffassim.decisions.problems import five_by_five
        >>> print(policy_iteration(five_by_five(), 0.9).values[:5].round(1))
        [22.  24.4 22.  19.4 17.5]

    Source: Sutton and Barto (2018), section 4.3.
    """
    _require("policy_iteration", discount, problem)
    return _policy_iteration(problem, discount, count_of("policy_iteration: iterations", iterations, least=1))


def backward_induction(problem: FiniteProblem, steps: int, discount: Any = 1.0) -> Plan:
    """Return the best policy of so many steps, from the last one back; it depends on the step.

    Args:
        problem: `FiniteProblem` whose rewards are numbers.
        steps: how many (static).
        discount: gamma.

    Raises:
        ConfigurationError: if the problem has objectives, or the discount lies outside of 0 to 1.

    Example:
        >>> from diffassim.decisions.problems import cliff_walk
        >>> backward_induction(cliff_walk(), 20).values[0, 36].tolist()
        -13.0

    Source: Bellman (1957), chapter 3.
    """
    _require("backward_induction", discount, problem)
    return _backward_induction(problem, count_of("backward_induction: steps", steps, least=1), discount)


def planned_returns(problem: FiniteProblem, policy: Any) -> Array:
    """Return what a policy brings that depends on the step, from each state and for each objective.

    Args:
        problem: any.
        policy: number of the action, shape (steps, states), as `backward_induction` returns it.

    Returns:
        Sums over the steps, shape (states,) or (states, objectives).

    Example:
        >>> from diffassim.decisions.problems import cliff_walk
        >>> planned_returns(cliff_walk(), backward_induction(cliff_walk(), 20).policy)[36].tolist()
        -13.0
    """
    return _planned_returns(problem, jnp.asarray(policy))


def _require(name: str, discount: Any, problem: FiniteProblem) -> None:
    if problem.objectives is not None:
        raise ConfigurationError(f"{name}: the problem has {problem.objectives} objectives; weight them by scalarized")
    require_range(name, "discount", discount, 0, 1)


def _greedy(problem: FiniteProblem, values: Any, discount: Any, now: Any = None) -> Int[Array, " states"]:
    """Return the best actions; of actions that are equally good up to rounding, the one that is taken now."""
    q = action_values(problem, values, discount)
    best = jnp.argmax(q, axis=1).astype(jnp.int32)
    if now is None:
        return best
    margin = 1e4 * jnp.finfo(q.dtype).eps * (1 + jnp.max(jnp.abs(values)))
    kept = jnp.take_along_axis(q, now[:, None], axis=1)[:, 0]
    return jnp.where(jnp.max(q, axis=1) > kept + margin, best, now)


@partial(jax.jit, static_argnums=3)
def _value_iteration(problem: FiniteProblem, discount: Any, tolerance: Any, iterations: int) -> Plan:
    def going(carry: Any) -> Any:
        return (carry[1] > tolerance) & (carry[2] < iterations)

    def sweep(carry: Any) -> Any:
        values, _, count = carry
        following = jnp.max(action_values(problem, values, discount), axis=1)
        return following, jnp.max(jnp.abs(following - values)), count + 1

    zero = jnp.zeros(problem.rewards.shape[0], problem.rewards.dtype)
    start = (zero, jnp.asarray(jnp.inf, zero.dtype), jnp.zeros((), jnp.int32))
    values, residual, count = lax.while_loop(going, sweep, start)
    return Plan(values, _greedy(problem, values, discount), count, residual)


@partial(jax.jit, static_argnums=2)
def _policy_iteration(problem: FiniteProblem, discount: Any, iterations: int) -> Plan:
    states, actions = problem.rewards.shape
    anything = evaluate(problem, jnp.full((states, actions), 1 / actions, problem.rewards.dtype), discount)

    def going(carry: Any) -> Any:
        return carry[1] & (carry[2] < iterations)

    def improve(carry: Any) -> Any:
        policy, _, count = carry
        found = _greedy(problem, evaluate(problem, policy, discount), discount, policy)
        return found, jnp.any(found != policy), count + 1

    start = (_greedy(problem, anything, discount), jnp.asarray(True), jnp.zeros((), jnp.int32))
    policy, _, count = lax.while_loop(going, improve, start)
    values = evaluate(problem, policy, discount)
    residual = jnp.max(jnp.abs(jnp.max(action_values(problem, values, discount), axis=1) - values))
    return Plan(values, policy, count, residual)


@partial(jax.jit, static_argnums=1)
def _backward_induction(problem: FiniteProblem, steps: int, discount: Any) -> Plan:
    end = jnp.zeros(problem.rewards.shape[0], problem.rewards.dtype)

    def back(values: Any, _: Any) -> Any:
        q = action_values(problem, values, discount)
        before = jnp.max(q, axis=1)
        return before, (before, jnp.argmax(q, axis=1).astype(jnp.int32))

    _, (values, policy) = lax.scan(back, end, length=steps, reverse=True)
    residual = jnp.zeros((), end.dtype)
    return Plan(jnp.concatenate([values, end[None]]), policy, jnp.asarray(steps, jnp.int32), residual)


@jax.jit
def _planned_returns(problem: FiniteProblem, policy: Any) -> Array:
    states = jnp.arange(policy.shape[1])

    def back(values: Any, chosen: Any) -> Any:
        ahead = jnp.tensordot(problem.transitions[chosen, states], values, axes=1)
        return problem.rewards[states, chosen] + ahead, None

    return lax.scan(back, jnp.zeros_like(problem.rewards[:, 0]), policy, reverse=True)[0]
