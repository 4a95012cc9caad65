"""How the policies of inflation are trained: by the gradient through the filter, without a truth, and by sampling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffassim.decisions import Box, FilterEnvironment
from diffassim.ensemble import ETKF, LETKF, EnKFN, GaspariCohn, PolicyInflation, PriorInflation
from diffassim.ensemble.local.letkfn import LETKFN
from diffassim.ensemble.policy_inflation import FEATURES
from diffassim.experiments.control.adaptive_inflation_regimes import FORCING, TRAINED, Nature
from diffassim.models import Lorenz96
from diffassim.training.reinforcement import PPO, Pathwise, actor_critic

__all__ = [
    "FILTERS",
    "LOST",
    "TRAININGS",
    "Contender",
    "Training",
    "about",
    "environment_of",
    "trained",
    "untrained",
    "untrained_like",
]

LOST = 6.0  # root mean square error of a lost filter; that of the climatology is 3.6
LARGEST = (1.5, 3.0, 0.8)  # components of an action: logarithms of inflation, speed and radius
UNITS = (16, 16)
LANES, STEPS, TAIL = 32, 36, 16  # of an update of the trainings by gradients
DISCOUNT = 0.95  # of PPO


class Contender(NamedTuple):
    """A filter, and what its constants are chosen from.

    Attributes:
        plain: (variance factor, radius) -> filter.
        finite_size: the filter with finite-size inflation, radius -> filter.
        factors: of the variances, to choose the best constant from.
        radii: of the localization, likewise; (1,) where there is none.
        members: default size of the ensemble.
        radius: of the filter that a policy corrects.
        exponent: of the adaptive factor that a policy corrects.
        shape: of the adaptive scheme, alone and under a policy; like radius and exponent found by a table on twins in
            regimes that are not scored.
    """

    plain: Callable[[Any, Any], Any]
    finite_size: Callable[[Any], Any]
    factors: tuple[float, ...]
    radii: tuple[float, ...]
    members: int
    radius: float
    exponent: float
    shape: float

    def steered(self, policy: Any, dtype: Any) -> PolicyInflation:
        """Return the filter that a policy steers."""
        one, radius, exponent, shape = (
            jnp.asarray(value, dtype) for value in (1.0, self.radius, self.exponent, self.shape)
        )
        return PolicyInflation(self.plain(one, radius), policy, shape=shape, exponent=exponent)


FILTERS = {
    "ETKF": Contender(
        lambda factor, radius: ETKF(PriorInflation(jnp.sqrt(factor))), lambda radius: EnKFN(),
        (1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.7, 2.0, 2.5, 3.0), (1.0,), 24, 1.0, 1.0, 30.0,
    ),
    "LETKF": Contender(
        lambda factor, radius: LETKF(PriorInflation(jnp.sqrt(factor)), localization=GaspariCohn(radius)),
        lambda radius: LETKFN(localization=GaspariCohn(radius)),
        (1.02, 1.05, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.1), (1.1, 1.5, 2.0, 2.8, 4.0), 8, 2.0, 1.5, 100.0,
    ),
}  # fmt: skip


class Training(NamedTuple):
    """A way to train.

    Attributes:
        agent: number of updates -> agent.
        updates: how many by default.
        scored: by what, see `FilterEnvironment`.
        critic: whether the agent starts from an `ActorCritic`.
    """

    agent: Callable[[int], Any]
    updates: int
    scored: Literal["error", "likelihood"]
    critic: bool = False


def _adam(rate: float, steps: int) -> Any:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, steps)))


def _gradient(updates: int) -> Pathwise:
    return Pathwise(LANES, STEPS, 1.0, _adam(1e-2, updates), lasting=True, tail=TAIL)


TRAININGS = {
    "gradient": Training(_gradient, 120, "error"),
    "gradient, no truth": Training(_gradient, 36, "likelihood"),
    "PPO": Training(
        lambda updates: PPO(32, 32, DISCOUNT, 0.9, epochs=4, optimizer=_adam(3e-3, 16 * updates)), 48, "error", True
    ),
}


def environment_of(name: str, nature: Nature, scored: Literal["error", "likelihood"]) -> FilterEnvironment:
    """Return the environment in which a filter is steered."""
    dtype = nature.bank.dtype
    method = FILTERS[name].steered(None, dtype)
    largest = jnp.asarray(LARGEST[: method.actions], dtype)
    return FilterEnvironment(
        method, Lorenz96(forcing=jnp.asarray(FORCING, dtype)), nature, Box(-largest, largest),
        jnp.asarray(LOST, dtype), scored=scored,
    )  # fmt: skip


@jax.jit
def untrained(environment: FilterEnvironment, key: jax.Array) -> Any:
    """Return a policy that corrects nothing yet, with a value, both for features as random play shows them."""
    return actor_critic(environment, key, units=UNITS, std=0.15, discount=DISCOUNT, squashed=True)


def trained(name: str, how: str, nature: Nature, keys: jax.Array, updates: int) -> tuple[Any, Any]:
    """Train several policies side by side.

    Args:
        name: of the filter.
        how: one of `TRAININGS`.
        nature: what they are trained in.
        keys: random key of each.
        updates: how many.

    Returns:
        Policies with a leading axis, and mean rewards of the updates, shape (policy, updates).
    """
    training = TRAININGS[how]
    start = jax.jit(jax.vmap(untrained, in_axes=(None, 0)))(environment_of(name, nature, "error"), keys)
    start = start if training.critic else start.policy
    return _trained(environment_of(name, nature, training.scored), start, keys, how, updates)


@partial(jax.jit, static_argnums=(3, 4))
def _trained(environment: FilterEnvironment, start: Any, keys: Any, how: str, updates: int) -> tuple[Any, Any]:
    agent = TRAININGS[how].agent(updates)

    def one(start: Any, key: Any) -> tuple[Any, Any]:
        state, rewards = agent.train(environment, agent.init(environment, jax.random.fold_in(key, 1), start), updates)
        return agent.policy(environment, state), rewards

    return jax.vmap(one)(start, keys)


def about(name: str) -> dict[str, Any]:
    """Return what a policy is trained for: filter, features, actions, and the environment."""
    contender, regimes = FILTERS[name], {key: list(bounds) for key, bounds in TRAINED.items()}
    return {
        "filter": name, "radius": contender.radius, "exponent": contender.exponent, "shape": contender.shape,
        "features": list(FEATURES), "actions": list(LARGEST[: 2 + (len(contender.radii) > 1)]),
        "environment": f"Lorenz-96, forcing {FORCING:g}", "regimes": regimes,
    }  # fmt: skip


def untrained_like(name: str, dtype: Any) -> Any:
    """Return a policy of the right structure, shapes and types, without computing anything that counts."""
    nature = Nature(jnp.zeros((1, 40), dtype), FILTERS[name].members)
    shapes = jax.eval_shape(untrained, environment_of(name, nature, "error"), jax.random.key(0)).policy
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
